"""The programs of a CPU that are compiled with other options than XLA's own."""

import jax
import jax.numpy as jnp
import pytest

from hypertuning.engine.partitioning import Partitioner

LARGE, SMALL = 2048, 64


@pytest.mark.parametrize(
  ('size', 'decodes', 'has_fusions'),
  [(LARGE, False, True), (LARGE, True, False), (SMALL, False, False)],
)
def test_small_programs_and_decoding_do_without_ynnpack(
  size, decodes, has_fusions
):
  if jax.default_backend() != 'cpu':
    pytest.skip('options of CPUs')
  partitioner = Partitioner(devices=tuple(jax.devices()[:1]))
  x, kernel = jnp.ones((SMALL, size)), jnp.ones((size, size))
  jitted = partitioner.jit(
    lambda x, kernel: (x @ kernel).sum(), (x, kernel), decodes
  )
  text = jitted.lower(x, kernel).compile().as_text()
  assert ('__ynn_fusion' in text) == has_fusions
