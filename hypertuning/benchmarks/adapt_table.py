"""The two tables of `hypertuning.benchmarks.adapt`."""

import statistics
from collections.abc import Sequence
from typing import Any

from hypertuning import tables

Row = dict[str, Any]
_AT_ONCE = 'phi at once'
_NONE = '-'


def summary(results: Sequence[Row]) -> list[Row]:
  """One row per way, over all tasks.

  Args:
    results: one row per task and way.

  Returns:
    Rows with 'way', 'tasks', the mean 'accuracy', and of a way that adapts the
    median 'seconds' and 'flops', the 'low' and 'high' seconds of a task,
    'ratio' (its median seconds by those of phi), the number of tasks that
    'reached' the accuracy of phi, and 'bytes'.
  """
  by_way: dict[str, list[Row]] = {}
  for row in results:
    by_way.setdefault(row['way'], []).append(row)
  unit = statistics.median(row['seconds'] for row in by_way[_AT_ONCE])
  return [_over_tasks(way, rows, unit) for way, rows in by_way.items()]


def _over_tasks(way: str, rows: Sequence[Row], unit: float) -> Row:
  mean = statistics.fmean(row['accuracy'] for row in rows)
  whole: Row = {'way': way, 'tasks': len(rows), 'accuracy': mean}
  if 'seconds' not in rows[0]:
    return whole
  times = [row['seconds'] for row in rows]
  whole |= {
    'seconds': statistics.median(times),
    'low': min(times),
    'high': max(times),
    'flops': statistics.median(row['flops'] for row in rows),
    'ratio': statistics.median(times) / unit,
    'bytes': rows[0]['bytes'],
  }
  if 'reached' in rows[0]:
    whole['reached'] = sum(row['reached'] for row in rows)
    whole['steps'] = statistics.median(row['steps'] for row in rows)
  return whole


def text(ways: Sequence[Row], costs: Sequence[Row]) -> str:
  """Both tables in Markdown.

  Args:
    ways: rows of `summary`.
    costs: rows of `adapting.query_costs`.
  """
  first = [
    (
      *('way', 'accuracy', 'seconds per task', 'least to most'),
      *('times phi', 'GFLOPs', 'steps', 'reach phi'),
    ),
    *(_way(row) for row in ways),
  ]
  second = [
    (
      *('a query with', 'bytes kept', 'ms to make'),
      *('ms per query', 'least to most'),
    ),
    *(_cost(row) for row in costs),
  ]
  return f'{tables.markdown(first)}\n{tables.markdown(second)}'


def _way(row: Row) -> list[str]:
  cells = [row['way'], f'{row["accuracy"]:.1f}']
  if 'seconds' not in row:
    return cells + [_NONE] * 6
  cells += [_digits(row['seconds']), _range(row, 1)]
  cells += [_digits(row['ratio']), _digits(row['flops'] / 1e9)]
  if 'reached' not in row:
    return cells + [_NONE] * 2
  return [*cells, f'{row["steps"]:g}', f'{row["reached"]} of {row["tasks"]}']


def _cost(row: Row) -> list[str]:
  if 'reason' in row:
    return [f'{row["way"]}: none, as {row["reason"]}', *[_NONE] * 4]
  made, query = row['make'], row['query']
  return [
    row['way'],
    f'{row["bytes"]:,}',
    _digits(1e3 * made['seconds']) if made else _NONE,
    _digits(1e3 * query['seconds']),
    _range(query, 1e3),
  ]


def _range(row: Row, unit: float) -> str:
  return f'{_digits(unit * row["low"])} to {_digits(unit * row["high"])}'


def _digits(value: float) -> str:
  """A number with three significant digits, if possible without exponent."""
  return f'{float(f"{value:.3g}"):,g}'
