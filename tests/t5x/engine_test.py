"""The run files of gin/runs under the real t5x, beside the embedded runner.

Every run is a command as a user gives it. Both runners start from one
checkpoint: their initial weights come from other streams of the same seed.
"""

import pathlib
import shutil
import signal
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
import t5x_runner
import tiny
from flax.core import freeze

from hypertuning import trees
from hypertuning.adapters import io
from hypertuning.engine import checkpoint_folders, checkpoints, t5x_format
from hypertuning.errors import UserError
from hypertuning.networks import t5

pytest.importorskip(
  't5x.train', reason='needs t5x, airio and jestimator, see setup.py'
)

pytestmark = [pytest.mark.t5x, pytest.mark.slow]

FOLDER = pathlib.Path(__file__).parent
STEPS, HALF = 200, 100
MODEL = ('gin/models/hyper_t5_prefix.gin', 'gin/experiments/toy.gin')
SIZES = {
  **runner.SMALL,
  'NUM_HEADS': 4,
  'HEAD_DIM': 4,
  'MIXTURE_OR_TASK_NAME': 'even',
  'MIXTURE_OR_TASK_MODULE': 'even_tasks',
  'TASK_FEATURE_LENGTHS': {
    'hyper_inputs': 40,
    'inputs': (2, 6),
    'targets': (2, 4),
  },
}
TRAIN = {
  **SIZES,
  'TRAIN_STEPS': STEPS,
  'WARMUP_STEPS': 5,
  'EVAL_PERIOD': 0,
  'CHECKPOINT_PERIOD': HALF,
}


def run(script: str, run_file: str, bindings, **kwargs) -> str:
  """Runs a command beside the task module; returns what it said on stderr."""
  return t5x_runner.run(script, run_file, bindings, MODEL, FOLDER, **kwargs)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('engine')


@pytest.fixture(scope='module')
def start(folder):
  """The checkpoint that all runs start from."""
  bindings = {**TRAIN, 'TRAIN_STEPS': 1, 'WARMUP_STEPS': 0}
  run(
    'train',
    'gin/local/train.gin',
    {**bindings, 'MODEL_DIR': str(folder / 'start')},
  )
  return str(folder / 'start')


@pytest.fixture(scope='module')
def embedded(folder, start):
  """A run of the embedded runner."""
  model_dir = folder / 'embedded'
  bindings = {**TRAIN, 'INITIAL_CHECKPOINT_PATH': start}
  run('train', 'gin/local/train.gin', {**bindings, 'MODEL_DIR': str(model_dir)})
  return model_dir


@pytest.fixture(scope='module')
def engine(folder, start):
  """The same run under t5x, killed half-way and started again."""
  model_dir = folder / 't5x'
  bindings = {
    **TRAIN,
    'INITIAL_CHECKPOINT_PATH': start,
    'MODEL_DIR': str(model_dir),
    'STATS_PERIOD': 1,
    'EVAL_PERIOD': HALF,
    'EVAL_STEPS': 1,
  }
  arguments = t5x_runner.command(
    'train', 'gin/runs/multitask.gin', bindings, MODEL
  )
  process = subprocess.Popen(
    arguments,
    env=runner.environment(),
    cwd=FOLDER,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  deadline = time.monotonic() + 600
  while not (model_dir / f'checkpoint_{HALF}' / 'state').is_dir():
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.05)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert checkpoint_folders.latest_step(str(model_dir)) == HALF
  run('train', 'gin/runs/multitask.gin', bindings)
  return model_dir


def test_both_runners_give_one_loss_curve(embedded, engine):
  ours, theirs = runner.losses(embedded), t5x_runner.losses(engine)
  assert list(theirs) and set(range(1, STEPS + 1)) == set(ours)
  assert set(range(HALF + 1, STEPS + 1)) <= set(theirs)
  for step, loss in theirs.items():
    assert loss == pytest.approx(ours[step], abs=1e-4), step
  assert ours[STEPS] < ours[1] - 0.2  # there is a curve


@pytest.mark.parametrize('data, model, frozen', [(2, 4, 2), (8, 1, 1)])
def test_devices_do_not_change_the_losses(
  folder, start, embedded, data, model, frozen
):
  model_dir = folder / f'{data}x{model}'
  run(
    'train',
    'gin/runs/multitask.gin',
    {
      **TRAIN,
      'INITIAL_CHECKPOINT_PATH': start,
      'MODEL_DIR': str(model_dir),
      'STATS_PERIOD': 1,
      'NUM_PARTITIONS': model,
      'PARAMETER_PARTITIONING_DIMS': 2,
      'FROZEN_PARTITIONING_DIMS': frozen,
      'EVAL_PERIOD': STEPS,
      'EVAL_STEPS': 1,
      'CHECKPOINT_PERIOD': STEPS,
    },
    devices=8,
  )
  ours, theirs = runner.losses(embedded), t5x_runner.losses(model_dir)
  assert len(theirs) == STEPS
  for step, loss in theirs.items():
    # Sums over devices are in another order; 200 steps of AdamW on it.
    assert loss == pytest.approx(ours[step], abs=2e-3), step
    assert step > 20 or loss == pytest.approx(ours[step], abs=1e-4)


@pytest.mark.parametrize('source', ['engine', 'embedded'])
def test_scores_and_texts_are_those_of_the_embedded_runner(
  folder, request, source
):
  """t5x reads the checkpoints of both runners, and so does ours."""
  path = str(request.getfixturevalue(source) / f'checkpoint_{STEPS}')
  out = folder / f'read_{source}'
  for task in ('even', 'even_score_eval'):
    bindings = {
      **SIZES,
      'MIXTURE_OR_TASK_NAME': task,
      'CHECKPOINT_PATH': path,
      'SPLIT': 'validation',
    }
    theirs = {**bindings, 'EVAL_OUTPUT_DIR': str(out / 't5x')}
    if source == 'engine' and task == 'even':
      theirs['CHECKPOINT_PATH'] = str(pathlib.Path(path).parent)
      run('eval', 'gin/runs/eval_latest.gin', theirs)
    else:
      run('eval', 'gin/runs/eval.gin', theirs)
    where = {'EVAL_OUTPUT_DIR': str(out / task)}
    run('eval', 'gin/local/eval.gin', {**bindings, **where})
    name = f't5x/inference_eval/{task}'
    [theirs] = runner.read_lines(out / f'{name}-metrics.jsonl')
    ours = next(
      row
      for row in runner.read_lines(out / task / 'results.jsonl')
      if row['phi'] == 'generated'
    )
    assert theirs['accuracy'] == pytest.approx(ours['accuracy'])
    said = [
      row
      for row in runner.read_lines(out / task / 'predictions.jsonl')
      if row['phi'] == 'generated'
    ]
    rows = runner.read_lines(out / f'{name}-{STEPS:06}.jsonl')
    if task == 'even':
      texts = [text for row in rows for text in row['prediction']]
      assert texts == [row['prediction'] for row in said]
      assert len(set(texts)) > 1
    else:
      scores = np.concatenate([row['score'] for row in rows])
      np.testing.assert_allclose(
        scores, [row['log_likelihood'] for row in said], atol=1e-4
      )


def test_t5x_writes_the_phi_of_every_episode(folder, engine):
  """On 2 x 4 devices: they do not change it."""
  bindings = {**SIZES, 'CHECKPOINT_PATH': str(engine / f'checkpoint_{STEPS}')}
  where = {
    'INFER_OUTPUT_DIR': str(folder / 'infer'),
    'ADAPTERS_DIR': str(folder / 'adapters'),
  }
  run(
    'infer',
    'gin/runs/infer_adapters.gin',
    {**bindings, **where, 'NUM_PARTITIONS': 4},
    devices=8,
  )
  where = {'INFER_OUTPUT_DIR': str(folder / 'ours'), 'SAVE_ADAPTERS': True}
  run('infer', 'gin/local/infer.gin', {**bindings, **where})
  [path] = (folder / 'adapters').iterdir()
  theirs, ours = io.load(path), io.load(folder / 'ours/adapters.safetensors')
  assert jax.tree.structure(theirs) == jax.tree.structure(ours)
  for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True):
    assert a.shape[0] == 7  # fourteen rows, two an episode
    np.testing.assert_allclose(a, b, atol=1e-5)
  [answers] = (folder / 'infer').glob('even-*-00001')
  rows = runner.read_lines(answers)
  assert len(rows) == 7 and set(rows[0]['aux']) == {'scores'}


def test_a_run_goes_on_in_the_other_runner(folder, embedded, engine):
  """From step 200 to 204, in both directions and one after the other."""
  for source, other in ((embedded, 't5x'), (engine, 'embedded')):
    copy = folder / f'{other}_goes_on'
    shutil.copytree(source, copy)
    bindings = {
      **TRAIN,
      'TRAIN_STEPS': STEPS + 4,
      # The schedule's end moves with TRAIN_STEPS.
      'optax.warmup_cosine_decay_schedule.decay_steps': STEPS,
      'MODEL_DIR': str(copy),
    }
    if other == 't5x':
      # What the embedded runner wrote of its data t5x cannot read.
      bindings |= {'SAVE_DATASET': False, 'EVAL_PERIOD': HALF}
      run('train', 'gin/runs/multitask.gin', bindings)
    else:
      run('train', 'gin/local/train.gin', bindings)
    assert checkpoint_folders.latest_step(str(copy)) == STEPS + 4
    before, after = (
      trees.flatten_paths(
        checkpoints.restore_variables(str(copy / f'checkpoint_{step}'))
      )
      for step in (STEPS, STEPS + 4)
    )
    for name, value in after.items():
      same = (value == before[name]).all()
      assert same == name.startswith('downstream/'), name


def test_reads_what_t5x_writes_in_its_own_format(tmp_path):
  """The public T5 models are of this format, without `downstream/`."""
  from t5x import checkpoints as t5x_checkpoints
  from t5x import optimizers, partitioning, train_state

  cfg = tiny.config()
  params = tiny.t5_params(cfg)
  tokens = jnp.ones((1, 1), jnp.int32)
  variables = jax.eval_shape(
    lambda: t5.T5(cfg).init(jax.random.key(0), tokens, tokens)
  )
  state = train_state.FlaxOptimTrainState.create(
    optimizers.sgd(0.1), freeze({**variables, 'params': params})
  )
  state = jax.tree.map(jnp.asarray, state)  # the step is an int
  writer = t5x_checkpoints.Checkpointer(
    state, partitioning.PjitPartitioner(num_partitions=1), str(tmp_path)
  )
  writer.save(state)
  [path] = tmp_path.glob('checkpoint_*')
  assert t5x_format.is_checkpoint(path)
  read = trees.flatten_paths(checkpoints.restore_variables(str(path)))
  for name, value in trees.flatten_paths(params).items():
    np.testing.assert_array_equal(read.pop(name), value)
  assert not read
  target = {'downstream': params, 'hypermodel': {'encoder': params['encoder']}}
  filled = checkpoints.fill(
    target, str(path), 'X', runner.WARM_START_RULES, unused=''
  )
  for a, b in zip(
    jax.tree.leaves(filled), jax.tree.leaves(target), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  del target['downstream']['decoder']['logits_dense']
  with pytest.raises(
    UserError, match='decoder/logits_dense/kernel .* no place'
  ):
    checkpoints.fill(target, str(path), 'X', runner.WARM_START_RULES, unused='')


@pytest.mark.parametrize(
  'binding, why',
  [
    ({'INITIAL_CHECKPOINT_PATH': '/none'}, "INITIAL_CHECKPOINT_PATH = '/none'"),
    (
      {'EMB_DIM': 32, 'INITIAL_CHECKPOINT_PATH': True},
      'does not fit the model',
    ),
    ({'NUM_PARTITIONS': 3}, 'NUM_PARTITIONS = 3 does not divide the 2 devices'),
    ({'MIXTURE_OR_TASK_NAME': 'from_python'}, 'its source runs Python. Cache'),
    (
      {'MIXTURE_OR_TASK_NAME': 'more_sentinels'},
      'more_sentinels: its text is in a ByteVocabulary of 369 ids',
    ),
  ],
)
def test_slips_are_one_line(tmp_path, start, binding, why):
  if binding.get('INITIAL_CHECKPOINT_PATH') is True:
    binding = {**binding, 'INITIAL_CHECKPOINT_PATH': start}
  bindings = {**TRAIN, 'MODEL_DIR': str(tmp_path / 'run'), 'EVAL_PERIOD': HALF}
  log = run(
    'train',
    'gin/runs/multitask.gin',
    {**bindings, **binding},
    devices=2,
    code=1,
  )
  [line] = [line for line in log.splitlines() if line.startswith('error: ')]
  assert why in line and 'Traceback' not in log
