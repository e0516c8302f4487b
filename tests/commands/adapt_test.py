"""Tuning from a start: what it reads, where it begins, tasks by themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runner
import tiny

from hypertuning import adapt as adapt_lib
from hypertuning.adapters import LoRASpec, PrefixSpec, io
from hypertuning.data import lookup, registry
from hypertuning.data.episodes import EpisodeSource
from hypertuning.data.rows import Row, RowTask, as_task, for_tuning
from hypertuning.engine import (
  batching,
  partitioning,
  phi_tuning,
  task_batches,
  train_state,
)
from hypertuning.errors import UserError
from hypertuning.hypermodels import learned

LENGTHS = runner.LENGTHS  # the programs of other tests' runs
TASKS = {
  f'times_{n}': [(str(i), f'{n * i % 10}') for i in range(24)]
  for n in (3, 7, 9)
}


@pytest.fixture(scope='module')
def task():
  splits = {s: lambda: TASKS for s in ('train', 'validation')}
  return registry.add_episodes('times', splits, shots=3, queries=1, visits=1)


@pytest.fixture(scope='module')
def checkpoint(task, tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  runner.train(
    folder,
    mixture_or_task_name=task,
    task_feature_lengths=LENGTHS,
    total_steps=3,
  )
  return str(folder)


def _adapt(checkpoint, output_dir, **overrides):
  arguments = {
    'model': runner.model(),
    'optimizer': optax.adam(0.05),
    'mixture_or_task_name': 'times',
    'task_feature_lengths': LENGTHS,
    'checkpoint_path': checkpoint,
    'output_dir': str(output_dir),
    'total_steps': 4,
    'eval_period': 2,
  }
  arguments = {'batch_size': 64, **arguments, **overrides}
  arguments = runner.as_objects(arguments)
  arguments.pop('random_seed', None)
  return adapt_lib.adapt(**arguments)


def test_rows_are_tuned_on_or_asked_never_both():
  rows = [Row(str(i), 'x') for i in range(20)]
  tune = for_tuning(RowTask(rows), is_test=False, count=6)
  test = for_tuning(RowTask(rows), is_test=True, count=6)
  assert len(tune.rows) == 6 and len(test.rows) == 14
  assert {*tune.rows, *test.rows} == {*rows}
  assert tune.pool == test.pool == tune.rows  # shots of both
  assert tune.rows != rows[:6]  # files may be sorted
  # A task that has a pool is tuned on the pool, and asked all its rows.
  pooled = RowTask(rows[:4], pool=rows[4:])
  assert for_tuning(pooled, False, 6).rows == rows[4:]
  assert for_tuning(pooled, True, 6).rows == rows[:4]
  # What is asked is not tuned on, though the pool may hold it.
  whole = RowTask(rows[:4], pool=rows)
  assert for_tuning(whole, False, 6).rows == rows[4:]
  assert for_tuning(whole, True, 6).rows == rows[:4]
  # Equal inputs are on one side.
  twice = RowTask([*rows, *rows], pool=rows)
  tune, test = (for_tuning(twice, asked, 6).rows for asked in (False, True))
  assert (len(tune), len(test)) == (12, 28) and not {*tune} & {*test}


def test_tasks_come_in_turn_and_are_shown_rows_to_tune_on(task):
  lookup.import_tasks(None)
  source = lookup.get_task(task).source
  assert isinstance(source, EpisodeSource)
  names = ['times_7', 'times_3']
  tuned = source.for_tuning('validation', 10, 2, visits=2, draws=2, names=names)
  pool = {
    name: {
      row.inputs for row in for_tuning(as_task(TASKS[name]), False, 10).rows
    }
    for name in names
  }

  def drawn(split, seed=0, count=8):
    found = tuned.get_dataset(split, seed=seed).take(count)
    return list(found.as_numpy_iterator())

  for split in ('train', 'validation'):
    for place, episode in enumerate(drawn(split)):
      turn = place if split == 'train' else place // 2
      name = names[turn % 2]
      assert episode['task'] == name.encode()
      shots = {x.decode() for x in episode['shot_inputs']}
      asked = {x.decode() for x in episode['query_inputs']}
      assert shots <= pool[name] and not shots & asked
      assert (asked <= pool[name]) == (split == 'train')
      assert split == 'train' or not asked & pool[name]
  tested = drawn('validation')
  assert len(tested) == 2 * 2 * 2  # visits, tasks, draws
  for one, other in zip(tested[::2], tested[1::2], strict=True):
    np.testing.assert_array_equal(one['query_inputs'], other['query_inputs'])
    assert (one['draw'], other['draw']) == (0, 1)
    assert {*one['shot_inputs']} != {*other['shot_inputs']}
  first, other = drawn('train'), drawn('train', seed=1)
  assert any(
    {*x['query_inputs']} != {*y['query_inputs']}
    for x, y in zip(first, other, strict=True)
  )


def test_step_0_is_the_hypermodel_exactly(checkpoint, tmp_path):
  """Bit for bit: phi is the same numbers, on the same batch."""
  _adapt(checkpoint, tmp_path, test_visits=1, eval_period=4)
  rows = runner.read_lines(tmp_path / 'curves.jsonl')
  at_0 = {row['task']: row['loss'] for row in rows if row['step'] == 0}
  model = runner.model()
  partitioner = partitioning.Partitioner()
  params, frozen = train_state.restore_variables(
    model,
    batching.input_shapes(LENGTHS, model, 3),
    partitioner,
    checkpoint,
  )
  episodes = lookup.episodes('times_tuning', LENGTHS, 'validation')
  batch = next(iter(task_batches.to_batches(model, episodes, LENGTHS, 3)))
  batch = {name: jnp.asarray(value.numpy()) for name, value in batch.items()}
  score = jax.jit(model.score_batch)
  scores = score(params, batch, flax_mutables={'frozen': frozen})
  tokens = batch['target_weights'].sum((1, 2))
  want = -np.asarray(scores).sum(1) / np.asarray(tokens)
  np.testing.assert_allclose([at_0[name] for name in TASKS], want, rtol=1e-6)


@pytest.mark.slow
def test_tasks_side_by_side_are_as_alone():
  """Clipping by the global norm would mix them, were they one tree."""
  cfg = tiny.shallow()
  model = tiny.model(cfg, learned.Learned(cfg, LoRASpec(2)))
  batch = {**tiny.episodes(count=3), 'is_real': np.ones(3, np.int32)}
  shapes = {k: v.shape for k, v in tiny.episodes().items()}
  abstract = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  params = tiny.random_params(abstract['params'], 1)
  frozen = tiny.random_params(abstract['frozen'], 2)
  optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adam(0.1))
  tuner = phi_tuning.Tuner(
    model, optimizer, params, frozen, partitioning.Partitioner()
  )
  phi = tiny.lora(cfg, 3)

  class Same:
    def __init__(self, batch):
      self.batch = batch

    def __next__(self):
      return self.batch

  def tune(phi, batch):
    return list(tuner.tune(phi, Same(batch), 5, 5))[-1][2]

  together = tune(phi, batch)
  for n in range(3):
    alone = tune(
      jax.tree.map(lambda x, n=n: x[n : n + 1], phi),
      {k: v[n : n + 1] for k, v in batch.items()},
    )
    jax.tree.map(
      # Adam divides by the size of a gradient: five steps of float32.
      lambda x, y, n=n: np.testing.assert_allclose(x[n], y[0], atol=2e-4),
      together,
      alone,
    )


@pytest.mark.slow
def test_results_are_those_of_the_curves(checkpoint, tmp_path):
  results = _adapt(checkpoint, tmp_path, target=1.0)
  assert results == runner.read_lines(tmp_path / 'results.jsonl')
  assert [(r['task'], r['phi']) for r in results] == [
    ('times', 'start'),
    ('times', 'tuned'),
  ]
  rows = runner.read_lines(tmp_path / 'curves.jsonl')
  assert [(r['task'], r['step']) for r in rows[:4]] == [
    (name, step) for step in (0, 2) for name in TASKS
  ][:4]
  last = [r for r in rows if r['step'] == 4]
  assert results[1]['loss'] == pytest.approx(np.mean([r['loss'] for r in last]))
  assert results[1]['loss'] < results[0]['loss']
  assert all(r['seconds'] == 0 for r in rows if r['step'] == 0)
  assert all(r['seconds'] > 0 for r in last)
  assert (tmp_path / 'config.gin').exists()
  # The tuned adapters are a start for more of the same.
  more = tmp_path / 'more'
  phi = str(tmp_path / 'times.safetensors')
  again = _adapt(checkpoint, more, start_adapters=phi)
  assert again[0]['loss'] == pytest.approx(results[1]['loss'], rel=1e-6)
  header = io.read_header(phi)
  assert header.config == {'tasks': [*TASKS]}
  with pytest.raises(UserError, match='3 adapters there, but 1 or 2'):
    _adapt(checkpoint, more, start_adapters=phi, max_tasks=2)
  other = runner.model(width=16)
  longer = learned.Learned(other.module.downstream.config, PrefixSpec(3))
  with pytest.raises(
    UserError, match=r'decoder_self/key is \(3, 2, .* \(3, 3, '
  ):
    _adapt(
      checkpoint,
      more,
      start_adapters=phi,
      model=runner.model(hypermodel=longer),
      fresh_regex='hypermodel/phi_.*',
    )


@pytest.mark.slow
def test_groups_of_tasks_are_tuned_one_after_the_other(checkpoint, tmp_path):
  whole = _adapt(checkpoint, tmp_path / 'whole')
  parts = _adapt(checkpoint, tmp_path / 'parts', batch_size=2)
  for one, other in zip(whole, parts, strict=True):
    for name in ('loss', 'accuracy'):
      # Batches of another size are summed in another order.
      assert one[name] == pytest.approx(other[name], rel=1e-3)


def test_target_steps_by_hand():
  def curve(task, values):
    return [
      {'task': task, 'step': 5 * n, 'seconds': n * 0.5, 'loss': 1.0, 'f': value}
      for n, value in enumerate(values)
    ]

  curves = curve('a', [10.0, 95.0, 80.0]) + curve('b', [0.0, 50.0, 60.0])
  sizes = {'episodes': 8, 'questions': 16}
  start, tuned = adapt_lib.summarize('t', curves, sizes, 'f', 90.0)
  assert start['questions'] == tuned['questions'] == 16
  assert start['f'] == 5.0 and tuned['f'] == 70.0
  assert tuned['reached'] == 0.5
  assert tuned['steps_to_target'] == (5 + 10) / 2  # b ends without it
  assert tuned['seconds_to_target'] == (0.5 + 1.0) / 2


@pytest.mark.slow
def test_random_start_averaged_start_and_slips(checkpoint, tmp_path):
  head = runner.model().module.hypermodel.head
  model = runner.model(
    hypermodel=learned.Learned(head.downstream, head.adapter)
  )
  random = {'model': model, 'fresh_regex': 'hypermodel/phi_.*'}
  results = _adapt(checkpoint, tmp_path / 'a', **random, random_seed=1)
  others = _adapt(checkpoint, tmp_path / 'b', **random, random_seed=2)
  assert results[0]['loss'] != others[0]['loss']
  averaged = _adapt(checkpoint, tmp_path / 'c', draws=3)
  assert averaged[0]['loss'] != _adapt(checkpoint, tmp_path / 'd')[0]['loss']
  empty = tmp_path / 'empty'
  for slip, message in (
    ({'model': model}, 'hypermodel/phi_.* is not there'),
    ({'model': runner.model(hyper=False)}, 'this model has none'),
    ({'metric': 'f1'}, "METRIC = 'f1': times has accuracy"),
    ({'split': 'test'}, "SPLIT = 'test': times has no split 'test'"),
  ):
    with pytest.raises(UserError, match=message):
      _adapt(checkpoint, empty, **slip)
  assert not empty.exists()
