"""Training: what moves, what must not, and going on after a stop."""

import os
import re
import signal
import subprocess
import time

import clu.metrics
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import runner
import seqio
import tiny
from etils import epath

from hypertuning import trees
from hypertuning.data import lookup, registry, text_format
from hypertuning.engine import (
  batching,
  checkpoints,
  partitioning,
  task_data,
  train_state,
  train_step,
)
from hypertuning.errors import UserError
from hypertuning.evaluation import phi_modes, statistics


def _flat(tree) -> dict[str, np.ndarray]:
  return {k: np.array(x) for k, x in trees.flatten_paths(tree).items()}


def _same(a, b) -> bool:
  a, b = _flat(a), _flat(b)
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.fixture(scope='module')
def batch():
  lookup.import_tasks('hypertuning.tasks.toy')
  data = task_data.TaskData('toy', runner.LENGTHS, 8, split='train')
  dataset = data.batches(runner.model(), repeat=True)
  return {k: x.numpy() for k, x in next(iter(dataset)).items()}


def _state(model):
  """A state with random weights that no compiler had to draw."""
  shapes = batching.input_shapes(runner.LENGTHS, model, 8)
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  weights = {
    name: tiny.random_params(variables[name]) for name in ('params', 'frozen')
  }
  return train_state.create_state(model, weights)


@pytest.mark.slow
def test_resumed_run_equals_one_that_never_stopped(tmp_path):
  """With dropout, whose keys must not start again."""
  whole = runner.train(tmp_path / 'whole')
  runner.train(tmp_path / 'parts', total_steps=3)
  state = runner.train(tmp_path / 'parts')
  # Bitwise: the same program, the same data, the same keys.
  assert runner.losses(tmp_path / 'parts') == runner.losses(tmp_path / 'whole')
  assert _same(state.params, whole.params)
  assert _same(state.frozen, whole.frozen)
  for a, b in zip(
    jax.tree.leaves(state.opt_state),
    jax.tree.leaves(whole.opt_state),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  assert len(set(runner.losses(tmp_path / 'whole').values())) == 6


@pytest.mark.slow
def test_another_batch_size_goes_on_with_the_next_episode(tmp_path):
  runner.train(tmp_path, total_steps=2)
  runner.train(tmp_path, total_steps=3, batch_size=16)
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  position = _position(checkpointer, 3)
  checkpointer.close()
  assert position == {'next_episode': 2 * 8 + 16}


def _position(checkpointer, step):
  folder = epath.Path(str(checkpointer._manager.directory))
  saved = ocp.PyTreeCheckpointer().restore(
    folder / f'checkpoint_{step}/dataset'
  )
  return {name: int(value) for name, value in saved.items()}


def test_an_older_checkpoint_is_found_by_its_count_of_batches():
  """And by t5x's steps; the bytes of tf.data's files are not read."""
  data = runner.as_objects({'split': 'train'})['data']
  lookup.import_tasks(data.module)
  model = runner.model()
  drawn = data.train_batches(model, partitioning.Partitioner())
  for _ in range(3):
    next(drawn)
  want = jax.device_get(next(drawn))
  moved = data.train_batches(model, partitioning.Partitioner())
  moved.move({'batches': np.int64(3), 'position.index': np.zeros(7, 'u1')})
  for name, value in jax.device_get(next(moved)).items():
    np.testing.assert_array_equal(value, want[name])
  assert moved.position() == {'next_episode': 4 * 8}


def test_weights_that_a_checkpoint_has_are_not_drawn_first(tmp_path, caplog):
  with jax.log_compiles(), caplog.at_level('WARNING', 'jax'):
    runner.train(tmp_path / 'a', total_steps=1)
    assert 'draw_weights' in caplog.text
    caplog.clear()
    runner.train(tmp_path / 'a', total_steps=2)
    runner.train(
      tmp_path / 'b',
      total_steps=1,
      initial_checkpoint_path=str(tmp_path / 'a'),
    )
  assert 'train_step' in caplog.text
  assert 'draw_weights' not in caplog.text
  assert 'draw_fresh_weights' not in caplog.text


def test_fresh_weights_are_those_of_a_start_at_random(tmp_path):
  """Bit for bit, where the checkpoint has the downstream model alone."""
  model = runner.model()
  shapes = batching.input_shapes(runner.LENGTHS, model, 8)
  partitioner = partitioning.Partitioner()
  random, _ = train_state.initial_state(model, shapes, partitioner, seed=3)
  saved = checkpoints.Checkpointer(str(tmp_path))
  saved.save(1, {'target': random.frozen}, {'batches': np.int64(1)})
  saved.close()
  start = runner.warm_start({'initial_checkpoint_path': str(tmp_path)})
  warm, _ = train_state.initial_state(model, shapes, partitioner, 3, start)
  flat, want = _flat(warm.params), _flat(random.params)
  fresh = [name for name in want if re.fullmatch(runner.FRESH, name)]
  assert fresh and flat.keys() == want.keys()
  for name in fresh:
    np.testing.assert_array_equal(flat[name], want[name])
  assert jax.tree.structure(warm) == jax.tree.structure(random)


def test_asynchronous_save_is_not_overwritten_by_later_steps(tmp_path):
  """The saved step 2 is that of a run that ended there, not step 3's buffer."""
  runner.train(tmp_path / 'long', keep_checkpoints=9)
  short = runner.train(tmp_path / 'short', total_steps=2)
  saved = checkpoints.restore_variables(str(tmp_path / 'long/checkpoint_2'))
  assert _same(saved, trees.join(short.params, short.frozen))


def test_finished_run_says_so(tmp_path, capsys):
  runner.train(tmp_path, total_steps=1)
  capsys.readouterr()
  assert runner.train(tmp_path, total_steps=1) is None
  assert 'finished' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
  'regex, moves', [('hypermodel/.*', 'hyper'), ('downstream/.*', 'down')]
)
def test_only_what_the_regex_names_moves(tmp_path, regex, moves):
  model = runner.model(trainable_regex=regex)
  first = runner.train(tmp_path, model, total_steps=1)
  before = _flat(trees.join(first.params, first.frozen))
  state = runner.train(tmp_path, model, total_steps=3)
  after = _flat(trees.join(state.params, state.frozen))
  assert any(path.startswith(moves) for path in before)
  for path in before:
    same = np.array_equal(before[path], after[path])
    assert same != path.startswith(moves), path
  # Two Adam moments a trained number and two counters: no slot for the rest.
  slots = sum(x.size for x in jax.tree.leaves(state.opt_state))
  trained = sum(x.size for x in jax.tree.leaves(state.params))
  assert slots == 2 * trained + 2


@pytest.fixture(scope='module')
def steps():
  """Compiled plain-gradient steps of 1 and of 4 microbatches."""
  model = runner.model(optimizer_def=optax.sgd(1.0), dropout_rate=0.0)
  return model, {
    count: jax.jit(train_step.make_train_step(model, count)) for count in (1, 4)
  }


def test_microbatches_are_a_mean_over_tokens(batch, steps):
  """One that has no target at all must not weigh, nor give NaN."""
  model, steps = steps
  weights = batch['target_weights'].copy()
  weights[::4] = 0  # the rows of one microbatch of four
  weights[1, :, 1:] = 0
  uneven = {**batch, 'target_weights': weights}
  state = _state(model)
  losses, params = {}, {}
  for count, step in steps.items():
    new, scalars = step(state, uneven, jax.random.key(0))
    losses[count], params[count] = float(scalars['loss']), _flat(new.params)
  # Float32 additions in another order; gradients here are up to 1.
  assert losses[1] == pytest.approx(losses[4], rel=1e-5)
  for name, x in params[1].items():
    np.testing.assert_allclose(x, params[4][name], atol=1e-5)


def test_batch_without_targets_has_zero_loss_and_gradient(batch, steps):
  model, steps = steps
  state = _state(model)
  empty = {**batch, 'target_weights': 0 * batch['target_weights']}
  for step in steps.values():
    new, scalars = step(state, empty, jax.random.key(0))
    assert scalars['loss'] == 0 and scalars['grad_norm'] == 0
    assert _same(state.params, new.params)


@pytest.mark.slow
def test_microbatches_on_many_devices_give_the_same_losses(tmp_path):
  arguments = {
    'model_': runner.model(dropout_rate=0.0),
    'batch_size': 16,
    'total_steps': 3,
  }
  runner.train(tmp_path / 'one', **arguments)
  runner.train(tmp_path / 'two', **arguments, num_microbatches=2)
  one, two = (runner.losses(tmp_path / x) for x in ('one', 'two'))
  assert one.keys() == two.keys() == {1, 2, 3}
  for step in one:
    assert one[step] == pytest.approx(two[step], rel=1e-5)


def test_every_step_and_microbatch_has_its_own_dropout():
  class Noise:
    optimizer_def = optax.sgd(0.0)

    def loss_fn(self, params, batch, rng, mutables):
      noise = jax.random.uniform(rng, (len(batch['x']),))
      loss = clu.metrics.Average(total=noise.sum(), count=np.float32(1))
      return params['w'] * noise.sum(), ({'loss': loss}, mutables)

  step = jax.jit(train_step.make_train_step(Noise(), 2))
  state = train_state.create_state(Noise(), {'params': {'w': np.float32(1)}})
  seen = []
  for _ in range(3):
    state, scalars = step(state, {'x': np.zeros(2)}, jax.random.key(0))
    seen.append(float(scalars['loss']))
  assert len(set(seen)) == 3


@pytest.mark.slow
def test_loss_that_is_not_a_number_stops_the_run(tmp_path):
  """And no state after it is saved."""
  model = runner.model(optimizer_def=optax.sgd(1e30))
  with pytest.raises(UserError, match='LEARNING_RATE') as error:
    runner.train(tmp_path, model, total_steps=50, log_period=50)
  step = int(str(error.value).split('at step ')[1].split(':')[0])
  saved = [int(p.name.split('_')[1]) for p in tmp_path.glob('checkpoint_*')]
  assert all(s < step for s in saved)
  assert set(runner.losses(tmp_path)) == set(range(1, step))


@pytest.mark.slow
def test_another_optimizer_in_the_same_directory_is_refused(tmp_path):
  runner.train(tmp_path, total_steps=1)
  with pytest.raises(UserError, match='Use another MODEL_DIR'):
    runner.train(tmp_path, runner.model(optimizer_def=optax.sgd(0.1)))


def test_text_of_another_vocabulary_is_refused(tmp_path):
  rows = {'a': [(str(n), 'x') for n in range(9)]}
  for name, sentinels in (('a_bytes', 100), ('more_sentinels', 110)):
    registry.add_episodes(
      name,
      {split: lambda: rows for split in ('train', 'validation')},
      shots=2,
      queries=2,
      text_format=text_format.t5_format(
        seqio.ByteVocabulary(extra_ids=sentinels)
      ),
    )
  # The first task of a mixture does not speak for the others.
  registry.add_mixture('mixed', {'a_bytes': 1.0, 'more_sentinels': 1.0})
  message = 'more_sentinels: its text is in a ByteVocabulary of 369 .* of 359'
  with pytest.raises(UserError, match=message):
    runner.train(tmp_path / 'run', mixture_or_task_name='mixed')
  with pytest.raises(UserError, match=message):
    runner.evaluate(
      model=runner.model(),
      mixture_or_task_name='mixed',
      task_feature_lengths=runner.LENGTHS,
      batch_size=8,
      checkpoint_path=str(tmp_path / 'run'),
      output_dir=str(tmp_path / 'eval'),
    )
  assert not list(tmp_path.iterdir())


def test_warm_start_fills_the_frozen_model(tmp_path):
  source = _flat(_state(runner.model()).frozen)
  saved = checkpoints.Checkpointer(str(tmp_path / 'source'))
  saved.save(
    7, {'target': trees.unflatten_paths(source)}, {'batches': np.int64(7)}
  )
  saved.close()
  state = runner.train(
    tmp_path / 'run',
    total_steps=1,
    initial_checkpoint_path=str(tmp_path / 'source'),
  )
  frozen = _flat(state.frozen)
  assert frozen.keys() == source.keys()
  for name in source:
    np.testing.assert_array_equal(frozen[name], source[name])


def test_held_out_losses_by_phi_are_recorded(tmp_path):
  runner.train(tmp_path, total_steps=2, eval_period=2, eval_steps=2)
  row = next(
    line
    for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()
    if 'eval/' in line
  )
  for name in (
    'eval/loss/generated"',
    'eval/loss/other_stderr',
    'eval/loss/none"',
    'eval/gap/other_low',
    'eval/gap/none_high',
  ):
    assert name in row
  assert list(tmp_path.glob('events.out.tfevents.*'))


def test_other_phi_is_never_ones_own():
  from hypertuning.adapters import KeyValue, Prefix

  numbers = np.arange(8.0).reshape(8, 1, 1, 1, 1)
  phi = Prefix({'encoder_self': KeyValue(key=numbers, value=numbers)})
  for real in range(1, 9):
    is_real = (np.arange(8) < real).astype(np.int32)
    other = phi_modes.with_phi(phi, phi_modes.OTHER, is_real)
    taken = other.sites['encoder_self'].key.ravel()[:real]
    assert np.all(taken != np.arange(real))
    assert real == 1 or np.all(taken < real)


def test_summary_has_paired_differences():
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, 5, (500, 3))
  hard = rng.normal(5, 2, (500, 1))  # shared by both modes
  outputs = {
    'tokens': tokens,
    'score/generated': -tokens * hard,
    'score/none': -tokens * (hard + 0.1),
  }
  summary = statistics.summarize(outputs)
  assert summary['gap/none'] == pytest.approx(0.1)
  # What both share drops out: the interval is far narrower than the losses'.
  assert summary['gap/none_stderr'] < 1e-6 < summary['loss/none_stderr']
  # Against a bootstrap over episodes: 5% is its own noise at 2,000 draws.
  picks = rng.integers(0, 500, (2000, 500))
  nll = (tokens * hard).sum(1)
  draws = nll[picks].sum(1) / tokens.sum(1)[picks].sum(1)
  assert summary['loss/generated_stderr'] == pytest.approx(draws.std(), rel=0.1)


@pytest.mark.slow
def test_killed_command_goes_on_where_it_stopped(tmp_path):
  """SIGTERM to the real command, then SIGKILL, then to the end."""
  bindings = {
    **runner.TRAIN,
    'TRAIN_STEPS': 400,
    'EVAL_PERIOD': 0,
    'CHECKPOINT_PERIOD': 50,
    'MODEL_DIR': str(tmp_path / 'run'),
  }
  command = runner.command('train', runner.TRAIN_FILES, bindings)
  first = _interrupted(command, tmp_path / 'run', signal.SIGTERM, 60)
  assert first.returncode == 128 + signal.SIGTERM
  assert 'which is saved' in first.stderr and 'Traceback' not in first.stderr
  _interrupted(command, tmp_path / 'run', signal.SIGKILL, 200)
  last = subprocess.run(
    command,
    env=runner.environment(),
    capture_output=True,
    text=True,
    timeout=300,
    cwd=tmp_path,
  )
  assert last.returncode == 0, last.stderr
  assert 'Going on from step' in last.stderr
  whole = runner.run(
    'train',
    runner.TRAIN_FILES,
    {**bindings, 'MODEL_DIR': str(tmp_path / 'whole')},
    cwd=tmp_path,
  )
  assert whole.returncode == 0, whole.stderr
  assert runner.losses(tmp_path / 'run') == runner.losses(tmp_path / 'whole')
  assert 'trainable params: ' in whole.stdout


def _interrupted(command, folder, number, step):
  """Runs a command and sends it a signal once `step` is on record."""
  with subprocess.Popen(
    command,
    env=runner.environment(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    cwd=folder.parent,
    start_new_session=True,
  ) as process:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
      path = folder / 'metrics.jsonl'
      if path.exists() and len(path.read_text().splitlines()) >= step:
        break
      time.sleep(0.05)
    if number == signal.SIGTERM:
      # As a terminal does: to the process that reads the data as well.
      os.killpg(process.pid, number)
    else:
      process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
  return subprocess.CompletedProcess(
    command, process.returncode, stdout, stderr
  )
