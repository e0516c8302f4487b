"""Optimizers: what decays, what is clipped, how schedules enter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import freeze

from hypertuning.engine import optim

PARAMS = {
  'encoder': {
    # With scanned layers, a norm's scale has two axes.
    'norm': {'scale': jnp.ones((3, 4))},
    'mlp': {'wi': {'kernel': jnp.ones((3, 4, 4)), 'bias': jnp.ones(4)}},
  },
  'token_embedder': {'embedding': jnp.ones((5, 4))},
}


def _update(optimizer, grads, params=PARAMS):
  return optimizer.update(grads, optimizer.init(params), params)[0]


@pytest.mark.parametrize('wrap', [dict, freeze])
def test_weight_decay_leaves_scales_and_biases_alone(wrap):
  params = wrap(PARAMS)
  optimizer = optim.adamw(0.1, weight_decay=0.5)
  updates = _update(optimizer, jax.tree.map(jnp.zeros_like, params), params)
  # Without a gradient an update is decay alone: -rate * decay * weight.
  wi = updates['encoder']['mlp']['wi']
  np.testing.assert_allclose(wi['kernel'], -0.05, rtol=1e-6)
  np.testing.assert_allclose(
    updates['token_embedder']['embedding'], -0.05, rtol=1e-6
  )
  assert not np.any(wi['bias'])
  assert not np.any(updates['encoder']['norm']['scale'])


def test_gradients_are_clipped_by_their_global_norm():
  """Adam hides a gradient's size, its moments do not."""
  grads = jax.tree.map(lambda x: 100 * jnp.ones_like(x), PARAMS)
  for limit, expected in ((1.0, 1.0), (None, float(optax.tree.norm(grads)))):
    optimizer = optim.adamw(0.1, b1=0.0, max_grad_norm=limit)
    _, state = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    first_moment = optax.tree.get(state, 'mu')
    assert optax.tree.norm(first_moment) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('make', [optim.adamw, optim.adafactor])
def test_schedule_is_followed(make):
  optimizer = make(optax.piecewise_constant_schedule(0.0, {}))
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  assert not any(np.any(x) for x in jax.tree.leaves(_update(optimizer, grads)))


def test_adafactor_keeps_factors_for_large_matrices():
  params = {'kernel': jnp.ones((256, 384)), 'scale': jnp.ones(256)}
  state = optim.adafactor(1e-3).init(params)
  sizes = sum(x.size for x in jax.tree.leaves(state))
  # A row and a column for the matrix, one slot a number for the vector.
  assert sizes < 256 + 384 + 256 + 10


def test_adafactor_steps_are_relative_to_the_weights():
  grads = {'kernel': jnp.ones((4, 4))}
  small, large = (
    _update(optim.adafactor(0.1), grads, {'kernel': jnp.full((4, 4), size)})
    for size in (1.0, 10.0)
  )
  np.testing.assert_allclose(large['kernel'], 10 * small['kernel'], rtol=1e-5)
