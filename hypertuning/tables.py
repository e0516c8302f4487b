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
    metric: `loss` and `gap` are nats and get three decimals, others (percent)
      one.
    value: the number itself.
    error: the standard error; None or nan if there is none.
  """
  digits = 3 if metric in ('loss', 'gap') else 1
  if error is None or math.isnan(error):
    return f'{value:.{digits}f}'
  return f'{value:.{digits}f} ± {error:.{digits}f}'
