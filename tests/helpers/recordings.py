"""A vocabulary, rows, a format and a tiny HyperLlama, to record and read."""

import json
import subprocess
import sys

import bpe
import runner

from hypertuning.data.tokenizer_json import TokenizerJson

LENGTHS = {'hyper_inputs': 60, 'inputs': (2, 24), 'targets': (2, 8)}
STEPS = 4
FORMAT = """
from __gin__ import dynamic_registration
from hypertuning.data import text_format

include 'gin/models/formats/lines.gin'

END_TOKEN = '<|im_end|>'
VOCABULARY_FILE = '{folder}/tokenizer.json'
text_format.custom_format.start = (1,)
text_format.custom_format.between = {newlines}
text_format.custom_format.target_end = {newline}
"""
TASK = """
from __gin__ import dynamic_registration
from hypertuning.tasks import own

MIXTURE_OR_TASK_NAME = @own.task_file()
own.task_file.name = 'recorded'
own.task_file.train = '{folder}/rows.jsonl'
own.task_file.validation = '{folder}/rows.jsonl'
own.task_file.shots = 2
own.task_file.queries = 2
own.task_file.text_format = %TEXT_FORMAT
"""
MODEL = {
  **{'VOCAB_SIZE': 512, 'EMB_DIM': 16, 'NUM_LAYERS': 1, 'NUM_HEADS': 2},
  **{'HEAD_DIM': 8, 'MLP_DIM': 16, 'NUM_GISTS': 2, 'BATCH_SIZE': 8},
}
TRAIN = {
  **MODEL,
  **{'TRAIN_STEPS': STEPS, 'WARMUP_STEPS': 1, 'CHECKPOINT_PERIOD': 2},
  **{'EVAL_PERIOD': 2, 'EVAL_STEPS': 2},
}
# Python in which neither library can be imported.
WITHOUT = """
import runpy, sys
sys.modules.update(tensorflow=None, seqio=None, tensorflow_datasets=None)
command = sys.argv.pop(1)
sys.argv[0] = command
runpy.run_module(command, run_name='__main__')
"""


def write(path) -> None:
  """Writes a vocabulary, rows, and gin files of a format and a task."""
  file = bpe.write(path / 'tokenizer.json')
  newline = tuple(TokenizerJson(file, '<|im_end|>').encode('\n'))
  rows = [
    {'inputs': f'Is {i} even?', 'targets': ('yes', 'no')[i % 2]}
    for i in range(12)
  ]
  (path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  text = FORMAT.replace('{newlines}', str(newline * 2))
  text = text.replace('{newline}', str(newline))
  (path / 'format.gin').write_text(text.replace('{folder}', str(path)))
  (path / 'task.gin').write_text(TASK.replace('{folder}', str(path)))


def gin_files(folder, *files) -> list[str]:
  """The gin files of the model, its format, and others."""
  return ['gin/models/hyper_llama.gin', str(folder / 'format.gin'), *files]


def without_tensorflow(command, files, bindings):
  """A command in a process that cannot import TensorFlow."""
  return subprocess.run(
    [sys.executable, '-c', WITHOUT, command, *runner.flags(files, bindings)],
    env=runner.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
