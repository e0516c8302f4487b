"""Phi modes beside the generated one: averaged over draws, another's, noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
import tiny

from hypertuning import eval as eval_lib
from hypertuning import evaluation
from hypertuning.data import registry
from hypertuning.errors import UserError

CONFIG = tiny.config(num_encoder_layers=1, num_decoder_layers=1)
LENGTHS = {'hyper_inputs': 24, 'inputs': (2, 6), 'targets': (2, 4)}


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
  values = {tuple(np.unique(x[i])) for x in jax.tree.leaves(phi) for i in [0]}
  assert len(values) == 1  # all leaves agree
  return [float(jax.tree.leaves(phi)[0][i].flat[0]) for i in range(6)]


def test_average_is_over_the_draws_of_one_question():
  is_real = jnp.ones(6)
  phi = evaluation.with_phi(numbered(6), 'averaged', is_real, draws=3)
  assert episodes_of(phi) == [1, 1, 1, 4, 4, 4]
  phi = evaluation.with_phi(numbered(6), 'averaged', is_real, draws=1)
  assert episodes_of(phi) == [0, 1, 2, 3, 4, 5]


def test_others_phi_is_of_another_question():
  phi = evaluation.with_phi(numbered(6), 'other', jnp.ones(6), draws=3)
  assert episodes_of(phi) == [3, 4, 5, 0, 1, 2]
  # The last three only fill up the batch, with the first episodes.
  some = jnp.array([1, 1, 1, 0, 0, 0])
  phi = evaluation.with_phi(numbered(6), 'other', some, draws=3)
  assert episodes_of(phi)[:3] == [3, 4, 5]


def test_noise_has_the_size_of_phi():
  phi = tiny.lora(CONFIG, 400)
  noise = evaluation.with_phi(
    phi, 'random', jnp.ones(400), rng=jax.random.key(0)
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
  for name, draws in (('one', 1), ('three', 3)):
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
    mixture_or_task_name='three',
    task_feature_lengths=LENGTHS,
    total_steps=2,
  )
  return str(folder)


def _evaluate(run, folder, name='three', **overrides):
  arguments = {
    'model': runner.model(),
    'mixture_or_task_name': name,
    'task_feature_lengths': LENGTHS,
    'batch_size': 6,
    'checkpoint_path': run,
    'output_dir': str(folder),
    'draws': 3,
    'phi_modes': ('generated', 'averaged', 'random', 'other', 'none'),
  }
  return eval_lib.evaluate(**{**arguments, **overrides})


def test_all_modes_of_a_run(run, tmp_path):
  rows = {row['phi']: row for row in _evaluate(run, tmp_path)}
  assert [*rows] == ['generated', 'averaged', 'random', 'other', 'none']
  # 3 tasks, 2 visits, 3 draws: every draw is an episode of its own.
  assert {row['episodes'] for row in rows.values()} == {18}
  losses = [row['loss'] for row in rows.values()]
  assert len(set(losses)) == 5 and np.isfinite(losses).all()
  # Six rows fill a batch; with nine, the last batch is half filled up.
  again = {row['phi']: row for row in _evaluate(run, tmp_path, batch_size=12)}
  for mode in ('generated', 'averaged', 'none'):
    assert again[mode]['loss'] == pytest.approx(rows[mode]['loss'], rel=1e-5)


def test_slips(run, tmp_path):
  for slip, message in (
    ({'name': 'one'}, 'DRAWS = 3: one does not ask the same'),
    ({'batch_size': 8}, 'DRAWS = 3: .*multiple'),
    ({'batch_size': 3}, 'BATCH_SIZE = 3 has no other episode'),
    ({'phi_modes': ('mean',)}, "this model has .*'averaged', 'random'"),
  ):
    with pytest.raises(UserError, match=message):
      _evaluate(run, tmp_path / 'none', **slip)
  assert not (tmp_path / 'none').exists()
