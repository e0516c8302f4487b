"""MATMUL_PRECISION is that of every matmul, forward, back and in decoding."""

import jax
import jax.numpy as jnp
import pytest
import tiny
import tiny_llama

from hypertuning import quantization
from hypertuning.adapters import PrefixSpec
from hypertuning.hypermodels import heads, hyper_t5
from hypertuning.networks import llama, t5
from hypertuning.planning import flops

PRECISIONS = {
  'float32': jax.lax.Precision.HIGHEST,
  'tensorfloat32': jax.lax.Precision.HIGH,
  'bfloat16': jax.lax.Precision.DEFAULT,
}


def model(family, dtype, **settings):
  config = tiny.shallow(dtype=dtype, remat_policy='full', scan_layers=True)
  network, site = t5.T5(config), 'decoder_self'
  if family == 'llama':
    network, site = llama.Llama(tiny_llama.config(dtype=dtype)), 'self'
  head = heads.PrefixHead(network.config, PrefixSpec(2, (site,)), 8)
  source = hyper_t5.HyperT5(config, head)
  return tiny.model(downstream=network, hypermodel=source, **settings)


def everything(made):
  """Training, scores and decoded text of a model, and abstract arguments."""
  batch = tiny.episodes()
  parts = jax.eval_shape(
    lambda: made.get_initial_variables(
      jax.random.key(0), {k: v.shape for k, v in batch.items()}
    )
  )
  mutables = {'frozen': parts['frozen']}

  def run(params, mutables):
    def loss(params):
      return made.loss_fn(params, batch, None, mutables)[0]

    return (
      jax.grad(loss)(params),
      made.score_batch(params, batch, flax_mutables=mutables),
      made.predict_batch(params, batch, flax_mutables=mutables),
    )

  return run, (parts['params'], mutables)


def precisions(made) -> list:
  run, arguments = everything(made)
  return [
    equation.params['precision']
    for equation, _ in flops.walk(jax.make_jaxpr(run)(*arguments).jaxpr)
    if equation.primitive.name == 'dot_general'
  ]


@pytest.mark.parametrize(
  'family, dtype, name',
  [
    ('t5', jnp.float32, 'float32'),
    ('llama', jnp.bfloat16, 'float32'),
    ('t5', jnp.bfloat16, 'bfloat16'),
    ('llama', jnp.float32, 'tensorfloat32'),
  ],
)
def test_every_matmul_has_it(family, dtype, name):
  found = precisions(model(family, dtype, matmul_precision=name))
  assert len(found) > 50 and set(found) == {(PRECISIONS[name],) * 2}


def test_float32_is_float32_by_default():
  """And what is computed again, as with quantized kernels, has it as well."""
  quantized = model('llama', jnp.float32, frozen_dtype='int8')
  assert any(
    quantization.is_quantized(x)
    for x in jax.tree.leaves(
      everything(quantized)[1][1], is_leaf=quantization.is_quantized
    )
  )
  assert set(precisions(quantized)) == {(jax.lax.Precision.HIGHEST,) * 2}
