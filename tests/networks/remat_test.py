"""What policies of rematerialisation compute again, and what they keep."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_llama

from hypertuning.networks import llama, t5
from hypertuning.planning import flops

POLICIES = ('none', 'projections', 'minimal', 'full')
ROWS, INPUTS, TARGETS = 4, 9, 7
SIZES = {'vocab_size': 64, 'emb_dim': 64, 'num_heads': 4, 'head_dim': 16}
MLP = 160
# Queries times keys of the attentions of a layer.
PAIRS = {
  't5': INPUTS**2 + TARGETS**2 + TARGETS * INPUTS,
  'llama': (INPUTS + TARGETS) ** 2,
}
LAYERS = 2


def network(family, policy):
  settings = {**SIZES, 'mlp_dim': MLP, 'remat_policy': policy}
  settings['scan_layers'] = True
  if family == 't5':
    return t5.T5(tiny.config(**settings))
  return llama.Llama(tiny_llama.config(**settings, num_kv_heads=4))


@functools.cache
def cost(family, policy) -> tuple[int, int]:
  """FLOPs of a step that trains everything, and bytes kept for its gradient."""
  made = network(family, policy)
  texts = (jnp.ones((ROWS, INPUTS), jnp.int32),)
  texts += (jnp.ones((ROWS, TARGETS), jnp.int32),)
  params = jax.eval_shape(lambda: made.init(jax.random.key(0), *texts))

  def total(params):
    return made.apply(params, *texts).sum()

  jaxpr = jax.make_jaxpr(jax.grad(total))(params).jaxpr
  kept = jax.eval_shape(lambda params: jax.vjp(total, params)[1], params)
  sizes = [math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(kept)]
  return flops.matmul_flops(jaxpr), sum(sizes)


@pytest.mark.parametrize('family', PAIRS)
def test_flops_that_are_computed_again(family):
  """Of projections, attention logits alone; of minimal, the sums as well."""
  useful = cost(family, 'none')[0]
  logits = LAYERS * 2 * ROWS * 4 * 16 * PAIRS[family]
  again = {p: cost(family, p)[0] - useful for p in POLICIES}
  assert (again['none'], again['projections']) == (0, logits)
  assert again['minimal'] == 2 * logits
  # Every matmul of a layer but the last one, whose result nothing needs.
  width = 64 * 64
  if family == 't5':
    encoder = INPUTS * (4 * width + 2 * 64 * MLP)
    decoder = TARGETS * (6 * width + 2 * 64 * MLP) + INPUTS * 2 * width
    weights = encoder + decoder
  else:
    weights = (INPUTS + TARGETS) * (4 * width + 2 * 64 * MLP)
  assert again['full'] == 2 * logits + LAYERS * 2 * ROWS * weights


@pytest.mark.parametrize('family', PAIRS)
def test_bytes_that_are_kept(family):
  kept = {p: cost(family, p)[1] for p in POLICIES}
  assert kept['full'] < kept['minimal'] < kept['none']
  # What comes out of each attention, in float32: minimal computes it again. One
  # keeps the stream where the other keeps what is added to it.
  tokens = INPUTS + TARGETS * (2 if family == 't5' else 1)
  own = LAYERS * ROWS * tokens * 64 * 4
  assert kept['projections'] == kept['minimal'] + own


@pytest.mark.parametrize('family', PAIRS)
def test_gradients_are_the_same(family):
  rng = np.random.default_rng(0)
  texts = rng.integers(1, 64, (ROWS, INPUTS)), rng.integers(1, 64, (ROWS, 7))
  shapes = jax.eval_shape(
    lambda: network(family, 'none').init(jax.random.key(0), *texts)
  )
  params = tiny.random_params(shapes['params'])

  def gradient(policy):
    made = network(family, policy)
    return jax.jit(
      jax.grad(lambda p: jnp.square(tiny.logits(made, p, *texts)).mean())
    )(params)

  jax.tree.map(
    # Sums of float32 in another order.
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-4, atol=1e-5 * float(np.abs(a).max())
    ),
    gradient('none'),
    gradient('projections'),
  )
