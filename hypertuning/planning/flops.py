"""Counts the FLOPs of matmuls in the jaxpr of a traced function.

XLA's own count takes the body of a loop once, however often it runs. A jaxpr
says how often a loop runs, and includes what rematerialisation computes again.
"""

import math
from collections.abc import Iterator
from typing import Any


def walk(jaxpr: Any) -> Iterator[tuple[Any, int]]:
  """Yields every equation of a jaxpr and its sub-jaxprs, and how often it runs.

  The body of a `scan` counts as often as it runs. The body of a `while` counts
  once, as the number of its turns is not known before it runs.
  """
  for equation in jaxpr.eqns:
    yield equation, 1
    times = 1
    if equation.primitive.name == 'scan':
      times = equation.params['length']
    for value in equation.params.values():
      for sub in value if isinstance(value, (tuple, list)) else (value,):
        sub = getattr(sub, 'jaxpr', sub)
        if hasattr(sub, 'eqns'):
          for inner, inner_times in walk(sub):
            yield inner, times * inner_times


def matmul_flops(jaxpr: Any) -> int:
  """The exact FLOPs of all matmuls, over all devices; two per multiply-add."""
  total = 0
  for equation, times in walk(jaxpr):
    if equation.primitive.name == 'dot_general':
      (contract, _), _ = equation.params['dimension_numbers']
      left_shape = equation.invars[0].aval.shape
      result_size = math.prod(equation.outvars[0].aval.shape)
      total += (
        2 * times * result_size * math.prod(left_shape[i] for i in contract)
      )
  return total
