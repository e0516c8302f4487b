"""Decoding through the cache, step by step, equals teacher forcing.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from hypertuning.networks import t5

CONFIG = tiny.config()
LENGTH = 7


@pytest.fixture(scope='module')
def params():
  return tiny.t5_params(CONFIG)


@pytest.fixture(scope='module')
def text():
  return tiny.text(targets=LENGTH)


def empty_cache(cfg, encoded, inputs, phi, length):
  shapes = jax.eval_shape(
    lambda: t5.T5(cfg).init(
      jax.random.key(0),
      encoded,
      inputs,
      inputs[:, :1],
      inputs[:, :1],
      phi,
      cache_length=length,
      method='decode',
    )['cache']
  )
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


@functools.cache
def teacher_forced(cfg):
  return jax.jit(
    lambda params, text, phi: t5.T5(cfg).apply({'params': params}, *text, phi)
  )


@functools.cache
def stepwise(cfg):
  """Logits of one token after the other, through the cache."""
  network = t5.T5(cfg)

  @jax.jit
  def run(params, text, phi):
    inputs, decoder_inputs, _ = text
    variables = {'params': params}
    encoded = network.apply(variables, inputs, phi, method='encode')
    cache = empty_cache(cfg, encoded, inputs, phi, decoder_inputs.shape[1])

    def step(cache, ids):
      logits, changed = network.apply(
        {**variables, 'cache': cache},
        encoded,
        inputs,
        ids[:, None],
        ids[:, None],
        phi,
        cache_length=decoder_inputs.shape[1],
        method='decode',
        mutable=['cache'],
      )
      return changed['cache'], logits[:, 0]

    cache, logits = jax.lax.scan(step, cache, decoder_inputs.T)
    return logits.swapaxes(0, 1), cache

  return run


PHI = {
  'none': None,
  'prefix': tiny.prefix(CONFIG, 4),
  'empty prefix': tiny.prefix(CONFIG, 4, length=0),
  'lora': tiny.lora(CONFIG, 4, projections=('query', 'key', 'value')),
}


@pytest.mark.parametrize(
  ('kind', 'scan'),
  [*((kind, False) for kind in PHI), ('prefix', True), ('lora', True)],
)
def test_cached_steps_equal_teacher_forcing(params, text, kind, scan):
  """Pitfalls 2 and 3; rows have inputs of different lengths."""
  cfg = tiny.config(scan_layers=scan)
  params = tiny.stack_layers(params) if scan else params
  steps, cache = stepwise(cfg)(params, text, PHI[kind])
  whole = teacher_forced(cfg)(params, text, PHI[kind])
  real = text[2] > 0
  # float32 sums over other shapes; measured 1.4e-6 on logits of size 1.
  np.testing.assert_allclose(steps[real], whole[real], atol=2e-5)
  assert cache['decoder']['cache_index'] == LENGTH  # text alone is counted
  if PHI[kind] is not None and kind != 'empty prefix':
    plain = teacher_forced(cfg)(params, text, None)
    assert jnp.abs(plain - whole)[real].max() > 0.1  # phi matters here


def test_prefix_takes_no_cache_slot(text):
  """Pitfall 4: the cache holds `cache_length` text positions, phi or not."""
  inputs = text[0]
  encoded = jnp.zeros((*inputs.shape, CONFIG.emb_dim))
  plain, prefixed = (
    jax.tree.map(jnp.shape, empty_cache(CONFIG, encoded, inputs, phi, LENGTH))
    for phi in (None, PHI['prefix'])
  )
  assert plain == prefixed
  layer = prefixed['decoder']['layers_1']['self_attention']
  assert layer['cached_key'] == (4, LENGTH, 3, 8)
