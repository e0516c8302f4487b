"""What runs where neither TensorFlow nor seqio is installed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import runner

from hypertuning.adapters import io

GOLDEN = runner.ROOT / 'tests/golden'
# Beside those of the packages that structure_test.py lists.
MODULES = (
  'hypertuning',
  *(f'hypertuning.{name}' for name in ('train', 'infer', 'adapt', 'convert')),
  *(
    f'hypertuning.data.{name}'
    for name in (
      *('layout', 'lengths', 'recording', 'request_files', 'text_format'),
      *('texts', 'tokenizer_json', 'vocabularies'),
    )
  ),
  *(
    f'hypertuning.engine.{name}'
    for name in (
      *('batching', 'checkpoints', 'episode_data', 'phi_tuning', 'restarts'),
      *('recorded_data', 'summaries', 'task_data', 'train_state'),
    )
  ),
  'hypertuning.evaluation.eval_step',
  'hypertuning.evaluation.statistics',
)


def test_modules_that_need_neither_library():
  code = f'import importlib\nfor m in {MODULES}: importlib.import_module(m)\n'
  subprocess.run(
    [sys.executable, '-c', runner.BLOCKED + code],
    env=runner.environment(),
    timeout=120,
    check=True,
  )


class _Verbatim(str):
  """A value that is already written as gin reads it."""

  def __repr__(self) -> str:
    return str(self)


@pytest.fixture(scope='module')
def record():
  """What the commit of golden/README.md answered, and how."""
  return json.loads((GOLDEN / 'cli_infer.json').read_text())


def _model(record) -> tuple[list[str], dict]:
  """The gin files and bindings of the model that answered."""
  files = [
    file.replace('gin/models/sizes/tiny.gin', 'gin/experiments/toy.gin')
    for file in record['gin_files']
    if 'local' not in file
  ]
  bindings = {'CHECKPOINT_PATH': str(GOLDEN / 'checkpoint/checkpoint_6')}
  for binding in record['bindings']:
    name, _, value = binding.removeprefix('--gin.').partition('=')
    if '<' not in value:  # a path of the recording
      bindings[name] = _Verbatim(value)
  return files, bindings


def test_a_file_is_answered_as_before(record, tmp_path):
  """By a hypermodel, over bytes."""
  (tmp_path / 'tasks.jsonl').write_text(record['input_jsonl'])
  files, bindings = _model(record)
  result = runner.run_without_tensorflow(
    'infer',
    [*files, 'gin/local/infer.gin'],
    {
      **bindings,
      'INFER_INPUT': str(tmp_path / 'tasks.jsonl'),
      'INFER_OUTPUT_DIR': str(tmp_path / 'answers'),
    },
  )
  assert result.returncode == 0, result.stderr
  rows = runner.read_lines(tmp_path / 'answers/predictions.jsonl')
  for name in ('query', 'prediction'):
    assert [r[name] for r in rows] == [r[name] for r in record['rows']]
  np.testing.assert_allclose(
    [row['score'] for row in rows],
    [row['score'] for row in record['rows']],
    rtol=1e-5,
  )


def test_adapters_are_tuned_on_a_file(record, tmp_path):
  def rows(*numbers):
    return [{'inputs': f'{i}', 'targets': f'{3 * i}'} for i in numbers]

  tasks = [
    {'name': 'times', 'examples': rows(*range(9)), 'test': rows(*range(9, 15))},
    {'examples': rows(0, 1), 'test': rows(5, 6), 'definition': 'Do it.'},
  ]
  path = tmp_path / 'mine.jsonl'
  path.write_text('\n'.join(map(json.dumps, tasks)))
  files, bindings = _model(record)
  result = runner.run_without_tensorflow(
    'adapt',
    [*files, 'gin/optimizers/adamw.gin', 'gin/local/adapt.gin'],
    {
      **bindings,
      'ADAPT_INPUT': str(path),
      'ADAPT_OUTPUT_DIR': str(tmp_path / 'tuned'),
      **{'TRAIN_STEPS': 4, 'EVAL_PERIOD': 2, 'LEARNING_RATE': 0.05},
      'WARMUP_STEPS': 1,
    },
  )
  assert result.returncode == 0, result.stderr
  start, tuned = runner.read_lines(tmp_path / 'tuned/results.jsonl')
  assert (start['task'], start['phi'], tuned['phi']) == (
    *('mine', 'start', 'tuned'),
  )
  # Of four queries at most.
  assert (tuned['episodes'], tuned['questions']) == (3, 8)
  assert tuned['loss'] < start['loss']
  curves = runner.read_lines(tmp_path / 'tuned/curves.jsonl')
  assert [(row['task'], row['step']) for row in curves] == [
    (name, step) for step in (0, 2, 4) for name in ('times', 'line_2')
  ]
  header = io.read_header(str(tmp_path / 'tuned/mine.safetensors'))
  assert header.config == {'tasks': ['times', 'line_2']}
