"""Phi modes beside the generated one: averaged over draws, another's, noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import registry
from hypertuning.errors import UserError
from hypertuning.evaluation import phi_modes

CONFIG = tiny.shallow()
LENGTHS = runner.LENGTHS  # the programs of other tests' runs


def numbered(count):
  """LoRA whose every number says which episode it is of."""
  phi = tiny.lora(CONFIG, count)
  return jax.tree.map(
    lambda x: jnp.broadcast_to(
      jnp.arange(count, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)), x.shape
    ),
    phi,
  )


def episodes_of(phi):
  leaves = [np.asarray(x) for x in jax.tree.leaves(phi)]
  first = leaves[0].reshape(len(leaves[0]), -1)[:, 0]
  for leaf in leaves:  # all agree
    np.testing.assert_array_equal(
      leaf.reshape(len(leaf), -1) - first[:, None], 0
    )
  return first.tolist()


def test_average_is_over_the_draws_of_one_question():
  is_real = jnp.ones(6, int)
  phi = phi_modes.with_phi(numbered(6), 'averaged', is_real, draws=3)
  assert episodes_of(phi) == [1, 1, 1, 4, 4, 4]
  phi = phi_modes.with_phi(numbered(6), 'averaged', is_real, draws=1)
  assert episodes_of(phi) == [0, 1, 2, 3, 4, 5]


def test_others_phi_is_of_another_question():
  phi = phi_modes.with_phi(numbered(6), 'other', jnp.ones(6, int), draws=3)
  assert episodes_of(phi) == [3, 4, 5, 0, 1, 2]
  # The last three only fill up the batch, with the first episodes.
  some = jnp.array([1, 1, 1, 0, 0, 0])
  phi = phi_modes.with_phi(numbered(6), 'other', some, draws=3)
  assert episodes_of(phi)[:3] == [3, 4, 5]


@given(
  tasks=st.integers(1, 4),
  visits=st.integers(1, 3),
  draws=st.integers(1, 3),
  batch=st.integers(2, 5),
)
@settings(max_examples=15, deadline=None)
def test_others_phi_is_of_another_task_in_turn(tasks, visits, draws, batch):
  episodes, size = tasks * visits * draws, batch * draws
  others = phi_modes.neighbors(episodes, size, draws)
  # The batches of `pipelines.to_batches`, and the phi that each row gets.
  found = []
  for first in range(0, episodes, size):
    rows = np.arange(first, first + size)
    is_real = rows < episodes
    ids = np.where(is_real, rows, rows - episodes) % episodes
    phi = phi_modes.with_phi(
      {'x': jnp.array(ids)}, 'other', jnp.array(is_real), draws
    )
    found += phi['x'][: is_real.sum()].tolist()
  assert others.tolist() == found

  def task(episode):
    return episode // draws % tasks

  own = task(np.arange(episodes))
  assert (tasks > 1) == (own != task(others)).all()
  np.testing.assert_array_equal(others % draws, np.arange(episodes) % draws)


def test_noise_has_the_size_of_phi():
  phi = tiny.lora(CONFIG, 400)
  noise = phi_modes.with_phi(
    phi, 'random', jnp.ones(400, int), rng=jax.random.key(0)
  )
  for one, other in zip(
    jax.tree.leaves(phi), jax.tree.leaves(noise), strict=True
  ):
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    # The mean square of 16,000 numbers: within five standard errors.
    size = np.mean(y**2) / np.mean(x**2)
    assert size == pytest.approx(1, abs=5 * np.sqrt(2 / x.size))
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 5 / np.sqrt(x.size)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  tasks = {
    name: [(str(i), name) for i in range(10)] for name in ('a', 'b', 'c')
  }
  for name, draws in (('one', 1), ('two', 2)):
    registry.add_episodes(
      name,
      {split: lambda: tasks for split in ('train', 'validation')},
      shots=3,
      queries=2,
      visits=2,
      draws=draws,
    )
  folder = tmp_path_factory.mktemp('run')
  runner.train(
    folder,
    mixture_or_task_name='two',
    task_feature_lengths=LENGTHS,
    total_steps=2,
  )
  return str(folder)


def _evaluate(run, folder, name='two', **overrides):
  arguments = {
    'model': runner.model(),
    'mixture_or_task_name': name,
    'task_feature_lengths': LENGTHS,
    'batch_size': 8,
    'checkpoint_path': run,
    'output_dir': str(folder),
    'draws': 2,
    'phi_modes': ('generated', 'averaged', 'random', 'other', 'none'),
  }
  return runner.evaluate(**{**arguments, **overrides})


@pytest.mark.slow
def test_all_modes_of_a_run(run, tmp_path):
  rows = {row['phi']: row for row in _evaluate(run, tmp_path)}
  assert [*rows] == ['generated', 'averaged', 'random', 'other', 'none']
  # 3 tasks, 2 visits, 2 draws: every draw is an episode of its own.
  assert {row['episodes'] for row in rows.values()} == {12}
  losses = [row['loss'] for row in rows.values()]
  assert len(set(losses)) == 5 and np.isfinite(losses).all()
  # Twelve rows fill up one batch or two, which end with other fillers.
  again = {row['phi']: row for row in _evaluate(run, tmp_path, batch_size=16)}
  for mode in ('generated', 'averaged', 'random', 'none'):
    assert again[mode]['loss'] == pytest.approx(rows[mode]['loss'], rel=1e-5)


def test_no_task_is_called_another_than_itself(run, tmp_path, capsys):
  registry.add_episodes(
    'alone',
    {'validation': lambda: {'a': [(str(i), 'a') for i in range(10)]}},
    shots=3,
    queries=2,
    visits=4,
  )
  modes = ('generated', 'other')
  rows = _evaluate(run, tmp_path, 'alone', draws=1, phi_modes=modes)
  # Every visit has shots of its own: phi differs, and is of the same task.
  assert [row['phi'] for row in rows] == ['generated']
  assert "alone: no row of 'other'" in capsys.readouterr().out


def test_slips(run, tmp_path):
  for slip, message in (
    ({'name': 'one'}, 'DRAWS = 2: one does not ask the same'),
    ({'draws': 3}, 'DRAWS = 3: .*multiple'),
    ({'draws': 8}, 'BATCH_SIZE = 8 has no other episode'),
    ({'phi_modes': ('mean',)}, "this model has .*'averaged', 'random'"),
  ):
    with pytest.raises(UserError, match=message):
      _evaluate(run, tmp_path / 'none', **slip)
  assert not (tmp_path / 'none').exists()
