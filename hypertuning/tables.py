"""Tables of results: Markdown, and how a number is printed."""

import math
from collections.abc import Iterable, Sequence

# Endings of the fields that hold the spread of another field.
ERRORS = ('_stderr', '_low', '_high', '_std')


def markdown(lines: Iterable[Sequence[str]]) -> str:
  """A Markdown table whose first line is its head."""
  head, *rows = lines
  whole = (head, ['---'] * len(head), *rows)
  return ''.join(f'| {" | ".join(line)} |\n' for line in whole)


def number(metric: str, value: float, error: float | None = None) -> str:
  """A number of a table, with its standard error if that is known.

  Args:
    metric: name of the metric. `loss` and `gap`, which are nats, get three
      decimals; all others are percent, and get one.
    value: number that is printed.
    error: standard error of the number; None or nan if there is none.
  """
  digits = 3 if metric in ('loss', 'gap') else 1
  if error is None or math.isnan(error):
    return f'{value:.{digits}f}'
  return f'{value:.{digits}f} ± {error:.{digits}f}'
