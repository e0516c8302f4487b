"""The head in bfloat16: its dots, their gradients, and float32 as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_llama

from hypertuning.networks import llama, products, t5
from hypertuning.planning import flops


def dots(function, *args) -> list:
  """Dtypes of the operands and the result of every matmul, sorted."""
  jaxpr = jax.make_jaxpr(function)(*args).jaxpr
  return sorted(
    tuple(v.aval.dtype.name for v in (*equation.invars, *equation.outvars))
    for equation, _ in flops.walk(jaxpr)
    if equation.primitive.name == 'dot_general'
  )


@pytest.fixture(scope='module')
def arrays():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((3, 5, 64)).astype(jnp.bfloat16)
  return jnp.asarray(x), rng.standard_normal((64, 11)).astype(np.float32)


def test_sums_and_results_are_float32(arrays):
  x, kernel = arrays
  found = products.in_float32(x, kernel)
  small = np.asarray(kernel.astype(jnp.bfloat16), np.float64)
  want = np.asarray(x, np.float64) @ small
  assert found.dtype == jnp.float32
  # Products of bfloat16 are exact in float32; 64 of them are added.
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_gradients_are_products_of_bfloat16(arrays):
  x, kernel = arrays
  factor = np.random.default_rng(1).standard_normal((3, 5, 11))

  def total(x, kernel):
    return (products.in_float32(x, kernel) * factor).sum()

  of_x, of_kernel = jax.grad(total, (0, 1))(x, kernel)
  assert (of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.float32)
  # The factor is rounded to bfloat16, 8 bits, and so is the gradient of x.
  np.testing.assert_allclose(
    np.asarray(of_x, np.float64), factor @ kernel.T, rtol=0.02, atol=0.05
  )
  want = np.einsum('abi,abo->io', np.asarray(x, np.float64), factor)
  np.testing.assert_allclose(of_kernel, want, rtol=0.01, atol=0.02)
  small = ('bfloat16', 'bfloat16', 'bfloat16')
  summed = ('bfloat16', 'bfloat16', 'float32')
  assert dots(jax.grad(total), x, kernel) == [small, summed]
  assert dots(jax.grad(total, 1), x, kernel) == [summed, summed]


def test_float32_is_a_plain_product(arrays):
  x, kernel = arrays[0].astype(jnp.float32), arrays[1]
  np.testing.assert_array_equal(products.in_float32(x, kernel), x @ kernel)


@pytest.mark.parametrize('is_tied', [False, True])
@pytest.mark.parametrize('family', ['t5', 'llama'])
def test_heads_multiply_in_the_dtype_of_activations(family, is_tied):
  if family == 't5':
    network = t5.T5(
      tiny.shallow(dtype=jnp.bfloat16, logits_via_embedding=is_tied)
    )
  else:
    network = llama.Llama(
      tiny_llama.config(dtype=jnp.bfloat16, tied_embedding=is_tied)
    )
  tokens = jnp.ones((2, 3), jnp.int32)
  variables = jax.eval_shape(
    lambda: network.init(jax.random.key(0), tokens, tokens)
  )
  hidden = jnp.ones((2, 3, 20), jnp.bfloat16)

  def head(variables, hidden):
    return network.apply(variables, hidden, method='logits')

  assert jax.eval_shape(head, variables, hidden).dtype == jnp.float32
  assert dots(head, variables, hidden) == [('bfloat16', 'bfloat16', 'float32')]
