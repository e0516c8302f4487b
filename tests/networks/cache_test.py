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


@functools.cache
def teacher_forced(cfg):
  return jax.jit(
    lambda params, text, phi: tiny.logits(t5.T5(cfg), params, *text, phi)
  )


@functools.cache
def stepwise(cfg):
  """Logits of one token after the other, from a memory of the inputs."""
  network = t5.T5(cfg)

  @jax.jit
  def run(params, text, phi):
    inputs, targets = text
    variables = {'params': params}
    memory = network.apply(
      variables, inputs, phi, targets.shape[1], method='start'
    )
    ids = jnp.concatenate([memory.first[:, None], targets[:, :-1]], axis=1)

    def step(memory, ids):
      logits, memory = network.apply(variables, ids, memory, method='step')
      return memory, logits

    memory, logits = jax.lax.scan(step, memory, ids.T)
    return logits.swapaxes(0, 1), memory

  return run


EVERYWHERE = ('query', 'key', 'value', 'out', 'wi_0', 'wi_1', 'wo')
PHI = {
  'none': None,
  'prefix': tiny.prefix(CONFIG, 4),
  'empty prefix': tiny.prefix(CONFIG, 4, length=0),
  'lora': tiny.lora(
    CONFIG,
    4,
    where=tuple(CONFIG.sites),
    modules=('query', 'key', 'value', 'out', 'wi_0', 'wo'),
  ),
}


@pytest.mark.parametrize(
  ('kind', 'scan'),
  [*((kind, False) for kind in PHI), ('prefix', True), ('lora', True)],
)
def test_cached_steps_equal_teacher_forcing(params, text, kind, scan):
  """Pitfalls 2 and 3; rows have inputs of different lengths."""
  cfg = tiny.config(scan_layers=scan)
  params = tiny.stack_layers(params) if scan else params
  steps, memory = stepwise(cfg)(params, text, PHI[kind])
  whole = teacher_forced(cfg)(params, text, PHI[kind])
  real = text[1] > 0
  # float32 sums over other shapes; measured 1.4e-6 on logits of size 1.
  np.testing.assert_allclose(steps[real], whole[real], atol=2e-5)
  assert memory.position == LENGTH  # text alone is counted
  if PHI[kind] is not None and kind != 'empty prefix':
    plain = teacher_forced(cfg)(params, text, None)
    assert jnp.abs(plain - whole)[real].max() > 0.1  # phi matters here


@pytest.mark.parametrize('scan', [False, True])
def test_prefix_takes_no_place_of_the_text(params, text, scan):
  """Pitfall 4: there is room for `LENGTH` tokens, with a prefix or without."""
  cfg = tiny.config(scan_layers=scan)
  params = tiny.stack_layers(params) if scan else params
  plain, prefixed = (
    t5.T5(cfg).apply({'params': params}, text[0], phi, LENGTH, method='start')
    for phi in (None, PHI['prefix'])
  )
  assert plain.length == prefixed.length == LENGTH
  for memory, prefix in ((plain, 0), (prefixed, 3)):
    layer = memory.layers if scan else memory.layers[1]
    # Heads before the length, as a step reads them.
    assert layer['self'].key.shape[-3:] == (3, prefix + LENGTH, 8)
    assert layer['cross'].key.shape[-3:] == (3, prefix + text[0].shape[1], 8)


def test_a_memory_repeats_and_takes_its_rows(params, text):
  memory = t5.T5(CONFIG).apply(
    {'params': params}, text[0], PHI['prefix'], LENGTH, method='start'
  )
  rows = jnp.array([1, 1, 0, 0, 2, 2, 3, 3])
  repeated, taken = memory.repeat(2), memory.take(rows)
  order = np.repeat(np.arange(4), 2)
  for once, twice, chosen in zip(
    *(
      jax.tree.leaves((x.first, x.layers, x.rows))
      for x in (memory, repeated, taken)
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(twice, once[order])
    np.testing.assert_array_equal(chosen, once[rows])
