"""What runs where neither TensorFlow nor seqio is installed."""

import json
import subprocess
import sys

import numpy as np
import runner

GOLDEN = runner.ROOT / 'tests/golden'
# Beside those of the packages that structure_test.py lists.
MODULES = (
  'hypertuning',
  *(f'hypertuning.{name}' for name in ('train', 'infer', 'convert')),
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


def test_a_file_is_answered_as_before(tmp_path):
  """By a hypermodel, over bytes; as the commit of golden/README.md did."""
  record = json.loads((GOLDEN / 'cli_infer.json').read_text())
  (tmp_path / 'tasks.jsonl').write_text(record['input_jsonl'])
  files = [
    file.replace('gin/models/sizes/tiny.gin', 'gin/experiments/toy.gin')
    for file in record['gin_files']
  ]
  bindings = {}
  for binding in record['bindings']:
    name, _, value = binding.removeprefix('--gin.').partition('=')
    if '<' not in value:  # the paths stand in for those of the recording
      bindings[name] = _Verbatim(value)
  result = runner.run_without_tensorflow(
    'infer',
    files,
    {
      **bindings,
      'CHECKPOINT_PATH': str(GOLDEN / 'checkpoint/checkpoint_6'),
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


class _Verbatim(str):
  """A value that is already written as gin reads it."""

  def __repr__(self) -> str:
    return str(self)
