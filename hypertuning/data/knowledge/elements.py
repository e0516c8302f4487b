"""Tasks about the chemical elements."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypertuning.data.knowledge.sources import (
  Draws,
  Maker,
  Makers,
  Pair,
  is_common,
  library,
)

_COMPARISONS = 300
# An element is asked about, by its symbol too, if its name is not rare.
_CHECKED = (None, None)
_ROW_ENDS = (2, 10, 18, 36, 54, 86, 118)  # the noble gases


def _name(element: Any) -> str:
  return element.name


def _symbol(element: Any) -> str:
  return element.symbol


def _number(element: Any) -> str:
  return str(element.number)


def _mass(element: Any) -> str:
  return str(round(element.mass))


def _row(element: Any) -> str:
  return str(1 + sum(element.number > end for end in _ROW_ENDS))


@functools.cache
def _known() -> Sequence[Any]:
  """The elements whose names are not rare, by their atomic numbers."""
  found = library('periodictable').elements
  return sorted(
    (x for x in found if x.number > 0 and is_common(x.name)),
    key=lambda element: element.number,
  )


def _maker(ask: Callable[[Any], str], answer: Callable[[Any], str]) -> Maker:
  """A question about every known element."""

  def pairs() -> Iterator[Pair]:
    for element in _known():
      yield ask(element), answer(element)

  return Maker(pairs, _CHECKED)


def _comparison(
  choose: Callable[..., Any], name: Callable[[Any], str]
) -> Maker:
  """Two elements, and the one that the least or the greatest mass chooses."""

  def pairs() -> Iterator[Pair]:
    draws = Draws('elements')
    for _ in range(_COMPARISONS):
      one, other = draws.several(_known(), 2)
      chosen = choose(one, other, key=lambda element: element.mass)
      yield f'{name(one)} or {name(other)}', name(chosen)

  return Maker(pairs, _CHECKED)


MAKERS: Makers = {
  'element_symbol': _maker(_name, _symbol),
  'symbol_element': _maker(_symbol, _name),
  'element_number': _maker(_name, _number),
  'number_element': _maker(_number, _name),
  'symbol_number': _maker(_symbol, _number),
  'number_symbol': _maker(_number, _symbol),
  'element_mass': _maker(_name, _mass),
  'symbol_mass': _maker(_symbol, _mass),
  'element_row': _maker(_name, _row),
  'heavier_element': _comparison(max, _name),
  'lighter_element': _comparison(min, _name),
  'heavier_symbol': _comparison(max, _symbol),
}
