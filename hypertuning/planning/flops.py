"""Counts the FLOPs of matmuls in the jaxpr of a traced function.

XLA's own count takes the body of a loop once, however often it runs. A jaxpr
says how often a loop runs, and includes what rematerialisation computes again.
"""

import math
from collections.abc import Iterator
from typing import Any


def walk(jaxpr: Any) -> Iterator[tuple[Any, int]]:
  """Yields every equation of a jaxpr and its sub-jaxprs, and how often it runs.

  The body of a `scan` counts as often as it runs, that of a Pallas kernel once
  per step of its grid, and that of a `shard_map` once per device. The body of a
  `while` counts once, as the number of its turns is not known before it runs.
  """
  read = {x for e in jaxpr.eqns for x in e.invars if not hasattr(x, 'val')}
  read |= {x for x in jaxpr.outvars if not hasattr(x, 'val')}
  for equation in jaxpr.eqns:
    is_kernel = equation.primitive.name == 'pallas_call'
    # jax keeps a kernel whose results rematerialisation no longer reads. XLA
    # drops it.
    if is_kernel and read.isdisjoint(equation.outvars):
      continue
    yield equation, 1
    times = 1
    if equation.primitive.name == 'scan':
      times = equation.params['length']
    elif is_kernel:
      times = math.prod(equation.params['grid_mapping'].grid)
    elif equation.primitive.name == 'shard_map':
      times = equation.params['mesh'].size
    for value in equation.params.values():
      for sub in value if isinstance(value, (tuple, list)) else (value,):
        sub = getattr(sub, 'jaxpr', sub)
        if hasattr(sub, 'eqns'):
          for inner, inner_times in walk(sub):
            yield inner, times * inner_times


def matmul_flops(jaxpr: Any) -> int:
  """The exact FLOPs of all matmuls, over all devices; two per multiply-add."""
  total = 0
  kernels = {
    # Matmuls of attention: logits and output; with the gradient, five.
    'dot_product_attention_fwd_wrapper': 2,
    'dot_product_attention_bwd_wrapper': 5,
  }
  for equation, times in walk(jaxpr):
    if equation.primitive.name == 'dot_general':
      (contract, _), _ = equation.params['dimension_numbers']
      left_shape = equation.invars[0].aval.shape
      result_size = math.prod(equation.outvars[0].aval.shape)
      total += (
        2 * times * result_size * math.prod(left_shape[i] for i in contract)
      )
    elif count := kernels.get(equation.primitive.name):
      query, key = (x.aval.shape for x in equation.invars[:2])
      # cuDNN's arrays are `[rows, length, heads, head_dim]`.
      total += 2 * times * count * math.prod(query) * key[1]
  return total
