"""The real t5x trains, resumes, evaluates and infers our model.

Every run is a command as a user gives it, on two CPU devices: t5x splits the
heads, the MLPs and the vocabulary over them.
"""

import pathlib
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import runner
import tiny

from hypertuning import trees
from hypertuning.engine import checkpoint_folders, checkpoints
from hypertuning.networks import t5

# Not `t5x` itself: where it is missing, Python takes this folder for it.
pytest.importorskip(
  't5x.train', reason='needs t5x, airio and jestimator, see setup.py'
)

pytestmark = pytest.mark.t5x

TASK, EPISODES, QUERIES = 'toy_pairs', 12, 2
GIN_FILE = pathlib.Path(__file__).with_name('tiny.gin')
SIZES = {
  name: value
  for name, value in runner.SMALL.items()
  if not name.startswith(('MIXTURE', 'BATCH'))
}
TRAIN = {
  'RANDOM_SEED': 0,
  'BATCH_SIZE': 8,
  'USE_CACHED_TASKS': False,
  'train/utils.DatasetConfig.pack': False,
  'train_eval/utils.DatasetConfig.pack': False,
  'train.eval_period': 2,
  'train.eval_steps': 1,
  'utils.SaveCheckpointConfig.period': 2,
  'utils.create_learning_rate_scheduler.factors': 'constant',
  'utils.create_learning_rate_scheduler.base_learning_rate': 0.01,
}
READ = {
  'utils.DatasetConfig.split': 'validation',
  'utils.DatasetConfig.batch_size': 8,
  'utils.RestoreCheckpointConfig.dtype': 'float32',
}


def run(script: str, run_file: str, bindings) -> str:
  """Runs one of t5x's scripts as a user does; returns its log."""
  files = (f't5x/configs/runs/{run_file}.gin', GIN_FILE)
  done = subprocess.run(
    [
      *(sys.executable, '-m', f't5x.{script}'),
      f'--gin_search_paths={runner.ROOT}',
      *runner.flags(files, {**SIZES, **bindings}),
    ],
    env=runner.environment(devices=2),
    cwd=GIN_FILE.parent,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stderr


@pytest.fixture(scope='module')
def model_dir(tmp_path_factory):
  """A run of two steps that a second process takes to four."""
  folder = tmp_path_factory.mktemp('t5x') / 'run'
  bindings = {**TRAIN, 'MODEL_DIR': str(folder)}
  run('train', 'pretrain', {**bindings, 'TRAIN_STEPS': 2})
  assert checkpoint_folders.latest_step(folder) == 2
  log = run('train', 'pretrain', {**bindings, 'TRAIN_STEPS': 4})
  assert 'main loop over steps 2-4' in log
  return folder


@pytest.mark.slow
def test_t5x_trains_and_resumes_what_is_not_frozen(model_dir):
  first, middle, last = (
    trees.flatten_paths(
      checkpoints.restore_variables(model_dir / f'checkpoint_{step}')
    )
    for step in (0, 2, 4)
  )
  frozen = {name for name in last if name.startswith('downstream/')}
  trained = {name for name in last if name.startswith('hypermodel/')}
  assert frozen and trained and frozen | trained == set(last)
  for name in frozen:
    assert first[name].dtype == last[name].dtype
    assert first[name].tobytes() == last[name].tobytes(), name
  for name in trained:
    assert np.isfinite(last[name]).all(), name
    assert (first[name] != middle[name]).any(), name
    assert (middle[name] != last[name]).any(), name
  # t5x called `eval_fn`, and wrote what it returned.
  assert list((model_dir / 'training_eval' / TASK).iterdir())


@pytest.mark.slow
def test_t5x_keeps_no_optimizer_state_for_what_is_frozen(model_dir):
  saved = ocp.PyTreeCheckpointer().metadata(model_dir / 'checkpoint_4/state')
  tree = saved.item_metadata.tree
  assert set(tree) == {'target', 'flax_mutables', 'state'}
  assert set(tree['target']) == {'hypermodel'}
  assert set(tree['flax_mutables']['frozen']) == {'downstream'}
  assert set(tree['state']['param_states']) == {'hypermodel'}


@pytest.mark.slow
def test_t5x_evaluates_and_infers_every_query(model_dir, tmp_path):
  read = {**READ, 'CHECKPOINT_PATH': str(model_dir / 'checkpoint_4')}
  run('eval', 'eval', {**read, 'EVAL_OUTPUT_DIR': str(tmp_path / 'eval')})
  run('infer', 'infer', {**read, 'INFER_OUTPUT_DIR': str(tmp_path / 'infer')})

  def rows(file: str) -> list[dict]:
    return runner.read_lines(tmp_path / file)

  [metrics] = rows(f'eval/inference_eval/{TASK}-metrics.jsonl')
  assert metrics['step'] == 4 and 0 <= metrics['accuracy'] <= 100
  evaluated = rows(f'eval/inference_eval/{TASK}-000004.jsonl')
  inferred = rows(f'infer/{TASK}-predict.jsonl-00000-of-00001')
  assert len(evaluated) == len(inferred) == EPISODES
  for one, other in zip(evaluated, inferred, strict=True):
    assert len(one['prediction']) == len(other['prediction']) == QUERIES
    # The task's postprocessor strips white space.
    assert one['prediction'] == [x.strip() for x in other['prediction']]
    said = [references[0] for references in one['target']]
    assert said == other['inputs']['targets_pretokenized']


@pytest.mark.parametrize('tied', [False, True])
def test_names_shapes_and_logits_equal_t5x(tied):
  from t5x.examples.t5 import network

  # t5x has no fields for the number of buckets and their greatest distance.
  cfg = tiny.config(
    logits_via_embedding=tied, relpos_num_buckets=32, relpos_max_distance=128
  )
  fields = network.T5Config.__dataclass_fields__
  module = network.Transformer(
    network.T5Config(**{name: getattr(cfg, name) for name in fields})
  )
  text = tiny.text(inputs=30, targets=20)
  params = tiny.t5_params(cfg)
  inputs, targets = text
  # t5x's converter shifts the targets; our network does it itself.
  shifted = np.pad(targets[:, :-1], [(0, 0), (1, 0)])
  text_of_t5x = inputs, shifted, targets
  theirs = jax.eval_shape(lambda: module.init(jax.random.key(0), *text_of_t5x))
  assert {
    name: leaf.shape for name, leaf in trees.flatten_paths(params).items()
  } == {
    name: leaf.shape
    for name, leaf in trees.flatten_paths(theirs['params']).items()
  }
  want = jax.jit(lambda p: module.apply(p, *text_of_t5x, enable_dropout=False))(
    {'params': params}
  )
  ours = jax.jit(lambda p: tiny.logits(t5.T5(cfg), p, *text))(params)
  real = targets > 0
  assert real.sum() < real.size and (inputs == 0).any()  # padding is tested
  np.testing.assert_allclose(ours[real], want[real], atol=1e-5, rtol=1e-5)
