"""A vocabulary, rows, a format and a tiny HyperLlama, to record and read."""

import json

import bpe

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
