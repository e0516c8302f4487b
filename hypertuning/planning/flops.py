"""Counts the FLOPs of matmuls in the jaxpr of a traced function.

XLA's own count takes the body of a loop once, however often it runs. A jaxpr
says how often a loop runs, and includes what rematerialisation computes again.
"""

import math
from collections.abc import Iterator
from typing import Any


def walk(jaxpr: Any) -> Iterator[tuple[Any, int]]:
  """Every equation of a jaxpr, sub-jaxprs included, and how often it runs.

  Only `scan` counts as a loop: the number of turns of a `while` is not known
  before it runs, and it counts once.
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
  """FLOPs of all matmuls over all devices, two per multiply-add; exact."""
  total = 0
  for equation, times in walk(jaxpr):
    if equation.primitive.name == 'dot_general':
      (contract, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      out = math.prod(equation.outvars[0].aval.shape)
      total += 2 * times * out * math.prod(left[i] for i in contract)
  return total
