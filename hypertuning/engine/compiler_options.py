"""Options of XLA for the programs of a platform."""

import functools
from typing import Any

import jax

# Elements of all arguments. At 0.4M parameters with AdamW, a step takes 0.6 of
# the time with these options; at 3M as long, and at 12M 1.15 times as long.
_SMALL = 4_000_000
# Kernels of YNNPACK, and kernels beside one another, take longer to start than
# the arithmetic of a small network. Products of the few rows of a decoding step
# are faster without them, too: at T5-small's size it takes 0.8 of the time.
_OPTIONS = {
  'xla_cpu_enable_concurrency_optimized_scheduler': False,
  'xla_cpu_experimental_ynn_fusion_type': '',
}


def for_program(
  platform: str, arguments: Any, decodes: bool
) -> dict[str, Any] | None:
  """The options that a program is compiled with; None for XLA's own.

  Args:
    platform: platform of the devices, such as `cpu`.
    arguments: arguments of the program, arrays or abstract arrays.
    decodes: whether the program reads answers token by token.
  """
  if platform != 'cpu' or not _known():
    return None
  size = sum(x.size for x in jax.tree.leaves(arguments) if hasattr(x, 'size'))
  return dict(_OPTIONS) if decodes or size < _SMALL else None


@functools.cache
def _known() -> bool:
  """Whether this jaxlib has the options: they are no part of its interface."""
  try:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      jax.jit(lambda: 0, compiler_options=dict(_OPTIONS)).lower().compile()
  except (RuntimeError, ValueError):
    return False
  return True
