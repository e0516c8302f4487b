"""The toy family under the real t5x, beside the embedded runner.

No line of the library and no run file of gin/runs knows the family. Both
runners start from one checkpoint, as in engine_test.py.
"""

import pathlib

import jax
import numpy as np
import pytest
import runner
import t5x_runner

from hypertuning import trees
from hypertuning.adapters import io
from hypertuning.engine import checkpoints

pytest.importorskip(
  't5x.train', reason='needs t5x, airio and jestimator, see setup.py'
)

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

HELPERS = pathlib.Path(runner.__file__).parent
STEPS = 8
DATA = {
  'MIXTURE_OR_TASK_NAME': runner.TASK,
  'MIXTURE_OR_TASK_MODULE': 'hypertuning.tasks.toy',
  'TASK_FEATURE_LENGTHS': runner.LENGTHS,
  'BATCH_SIZE': 8,
}
TRAIN = {
  **DATA,
  'TRAIN_STEPS': STEPS,
  'WARMUP_STEPS': 1,
  'LEARNING_RATE': 0.1,
  'EVAL_PERIOD': 0,
  'CHECKPOINT_PERIOD': STEPS,
}


@pytest.fixture(scope='module', params=['toy_family.gin', 'toy_reader.gin'])
def model(request):
  """Learned LoRA, and a hypermodel that generates a prefix."""
  return (request.param,)


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
  """A folder of the same run under both runners, `embedded` and `t5x`."""
  parent = tmp_path_factory.mktemp('toy')
  start = {**TRAIN, 'TRAIN_STEPS': 1, 'WARMUP_STEPS': 0}
  path = {'MODEL_DIR': str(parent / 'start')}
  t5x_runner.run(
    'train', 'gin/local/train.gin', {**start, **path}, model, HELPERS
  )
  bindings = {**TRAIN, 'INITIAL_CHECKPOINT_PATH': str(parent / 'start')}
  path = {'MODEL_DIR': str(parent / 'embedded')}
  t5x_runner.run(
    'train', 'gin/local/train.gin', {**bindings, **path}, model, HELPERS
  )
  path = {'MODEL_DIR': str(parent / 't5x'), 'STATS_PERIOD': 1}
  more = {'EVAL_PERIOD': STEPS, 'EVAL_STEPS': 1}
  t5x_runner.run(
    'train',
    'gin/runs/multitask.gin',
    {**bindings, **path, **more},
    model,
    HELPERS,
    devices=2,
  )
  return parent


def test_both_runners_train_the_toy_alike(folder):
  ours, theirs = (
    runner.losses(folder / 'embedded'),
    t5x_runner.losses(folder / 't5x'),
  )
  assert set(ours) == set(theirs) == set(range(1, STEPS + 1))
  for step, loss in theirs.items():
    assert loss == pytest.approx(ours[step], abs=1e-4), step
  assert ours[STEPS] < ours[1] - 1
  start, embedded, t5x = (
    trees.flatten_paths(checkpoints.restore_variables(str(folder / name)))
    for name in ('start', 'embedded', 't5x')
  )
  assert set(start) == set(embedded) == set(t5x)
  for name, value in t5x.items():
    frozen = name.startswith('downstream/')
    assert (value == start[name]).all() == frozen, name
    np.testing.assert_allclose(value, embedded[name], atol=1e-3)


def test_both_runners_answer_with_the_toy_alike(folder, model):
  """Text and phi of every episode, from the checkpoint that t5x wrote."""
  path = str(folder / 't5x' / f'checkpoint_{STEPS}')
  bindings = {**DATA, 'CHECKPOINT_PATH': path}
  where = {
    'INFER_OUTPUT_DIR': str(folder / 'infer'),
    'ADAPTERS_DIR': str(folder / 'adapters'),
  }
  t5x_runner.run(
    'infer',
    'gin/runs/infer_adapters.gin',
    {**bindings, **where},
    model,
    HELPERS,
    devices=2,
  )
  where = {'INFER_OUTPUT_DIR': str(folder / 'ours'), 'SAVE_ADAPTERS': True}
  t5x_runner.run(
    'infer', 'gin/local/infer.gin', {**bindings, **where}, model, HELPERS
  )
  [answers] = (folder / 'infer').glob(f'{runner.TASK}-*-00001')
  theirs = runner.read_lines(answers)
  ours = runner.read_lines(folder / 'ours/predictions.jsonl')
  texts = [text for row in theirs for text in row['prediction']]
  assert texts == [row['prediction'] for row in ours]
  scores = np.concatenate([row['aux']['scores'] for row in theirs])
  np.testing.assert_allclose(scores, [row['score'] for row in ours], atol=1e-4)
  [file] = (folder / 'adapters').iterdir()
  one, other = io.load(file), io.load(folder / 'ours/adapters.safetensors')
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    assert len(a) == len(theirs)
    np.testing.assert_allclose(a, b, atol=1e-5)
