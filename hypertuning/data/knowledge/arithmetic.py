"""Tasks of functions of small numbers."""

import functools
from collections.abc import Callable, Iterator

from hypertuning.data.knowledge.sources import Draws, Maker, Makers, Pair

_ROWS = 300
_NOTHING = (None, None)  # there are no words in these rows
_PRIMES = [n for n in range(2, 300) if all(n % k for k in range(2, n))]


def _one(function: Callable[[int], object], end: int = 200) -> Maker:
  """A function of one number; None leaves a number out."""

  def pairs() -> Iterator[Pair]:
    for number in range(end):
      value = function(number)
      if value is not None:
        yield str(number), str(value)

  return Maker(pairs, _NOTHING)


def _several(
  name: str,
  function: Callable[[list[int]], object],
  count: int = 2,
  end: int = 100,
  separator: str = ' ',
) -> Maker:
  """A function of different numbers that are drawn."""

  def pairs() -> Iterator[Pair]:
    draws = Draws(name)
    for _ in range(_ROWS):
      numbers = draws.several(range(end), count)
      yield separator.join(map(str, numbers)), str(function(numbers))

  return Maker(pairs, _NOTHING)


def _yes(value: bool) -> str:
  return 'yes' if value else 'no'


def _half_up(number: int, unit: int) -> int:
  return (number + unit // 2) // unit * unit


def _sequences(name: str, end: int, step: int) -> Maker:
  """Three members of a sequence with one step, and the next one."""

  def pairs() -> Iterator[Pair]:
    draws = Draws(name)
    for _ in range(_ROWS):
      start = draws.below(end)
      distance = draws.below(step + 1, start=1)
      members = [start + i * distance for i in range(4)]
      yield ' '.join(map(str, members[:3])), str(members[3])

  return Maker(pairs, _NOTHING)


def _countdowns() -> Iterator[Pair]:
  draws = Draws('countdowns')
  for _ in range(_ROWS):
    step = draws.below(11, start=1)
    last = draws.below(60)
    members = [last + i * step for i in (3, 2, 1)]
    yield ' '.join(map(str, members)), str(last)


def _digit_counts() -> Iterator[Pair]:
  draws = Draws('digit counts')
  for _ in range(_ROWS):
    number = str(draws.below(10 ** draws.below(8, start=1)))
    yield number, str(len(number))


def _comparisons() -> Iterator[Pair]:
  draws = Draws('comparisons')
  for _ in range(_ROWS):
    one, other = draws.several(range(100), 2)
    yield f'{one} {other}', 'greater' if one > other else 'less'


def _plus(step: int) -> Callable[[int], int | None]:
  return lambda n: n + step if n + step >= 0 else None


def _times(factor: int) -> Callable[[int], int]:
  return lambda n: n * factor


def _digit_sum(number: int) -> int:
  return sum(map(int, str(number)))


def _percentages(swap: bool) -> Iterator[Pair]:
  for number in range(1, 100):
    pair = f'{number / 100:g}', f'{number}%'
    yield pair[::-1] if swap else pair


MAKERS: Makers = {
  **{f'plus_{n}': _one(_plus(n)) for n in (1, 2, 3, 5, 10, 100)},
  **{f'minus_{n}': _one(_plus(-n)) for n in (1, 2, 4, 10)},
  **{f'times_{n}': _one(_times(n), 100) for n in (2, 3, 4, 5, 10)},
  'half': _one(lambda n: None if n % 2 else n // 2),
  'third': _one(lambda n: None if n % 3 else n // 3, 300),
  'square': _one(lambda n: n * n, 51),
  'negative': _one(lambda n: -n if n else None),
  'complement_of_100': _one(lambda n: 100 - n, 101),
  'even_or_odd': _one(lambda n: 'odd' if n % 2 else 'even', 300),
  'multiple_of_3': _one(lambda n: _yes(n % 3 == 0), 150),
  'multiple_of_5': _one(lambda n: _yes(n % 5 == 0), 150),
  'prime': _one(lambda n: _yes(n in _PRIMES), 100),
  'next_prime': _one(lambda n: min(p for p in _PRIMES if p > n), 150),
  'remainder_by_3': _one(lambda n: n % 3, 150),
  'first_digit': _one(lambda n: str(n)[0] if n > 9 else None, 400),
  'last_digit': _one(lambda n: str(n)[-1] if n > 9 else None, 400),
  'digit_sum': _one(lambda n: _digit_sum(n) if n > 9 else None, 400),
  'digits_reversed': _one(
    lambda n: str(n)[::-1] if n > 9 and n % 10 else None, 400
  ),
  'digit_count': Maker(_digit_counts, _NOTHING),
  'digits_apart': _one(lambda n: ' '.join(str(n)) if n > 9 else None, 400),
  'rounded_to_10': _one(lambda n: _half_up(n, 10) if n % 10 else None),
  'rounded_to_100': _one(
    lambda n: _half_up(n, 100) if n > 100 and n % 100 else None, 500
  ),
  'binary': _one(lambda n: f'{n:b}', 64),
  'hexadecimal': _one(lambda n: f'{n:x}' if n > 9 else None),
  'sum': _several('sum', sum, end=50),
  'sum_of_3': _several('sum of 3', sum, 3, end=20),
  'written_sum': _several('written sum', sum, end=50, separator=' + '),
  'difference': _several('difference', lambda x: abs(x[0] - x[1])),
  'product': _several('product', lambda x: x[0] * x[1], end=13),
  'written_product': _several(
    'written product', lambda x: x[0] * x[1], end=16, separator=' * '
  ),
  'larger': _several('larger', max),
  'smaller': _several('smaller', min),
  'largest_of_4': _several('largest of 4', max, 4),
  'smallest_of_4': _several('smallest of 4', min, 4),
  'sorted': _several('sorted', lambda x: ' '.join(map(str, sorted(x))), 3),
  'sorted_down': _several(
    'sorted down', lambda x: ' '.join(map(str, sorted(x)[::-1])), 3
  ),
  'first_of_4': _several('first of 4', lambda x: x[0], 4),
  'last_of_4': _several('last of 4', lambda x: x[-1], 4),
  'greater_or_less': Maker(_comparisons, _NOTHING),
  'counting_on': _sequences('counting on', 100, 1),
  'next_in_sequence': _sequences('next in sequence', 30, 10),
  'next_in_countdown': Maker(_countdowns, _NOTHING),
  'decimal_percent': Maker(functools.partial(_percentages, False), _NOTHING),
  'percent_decimal': Maker(functools.partial(_percentages, True), _NOTHING),
}
