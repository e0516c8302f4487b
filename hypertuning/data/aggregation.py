"""Means over the tasks of a benchmark, as its authors take them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
AVERAGE = 'average'
# Beside a number: its standard error, and what a mean has not.
_STDERR = '_stderr'
_NO_MEAN = ('_low', '_high', '_std')


def averages(results: Sequence[Row]) -> list[Row]:
  """The mean over tasks (each counts the same) for every phi mode of theirs.

  Args:
    results: rows of `eval.evaluate`.

  Returns:
    Rows of the task 'average'; none where there is one task only, nor of a mode
    that some task has not.
  """
  return _means(results, AVERAGE) if len(_tasks(results)) > 1 else []


def grouped(results: Sequence[Row], *levels: Callable[[str], str]) -> list[Row]:
  """Means over groups, over groups of those, and over the last ones.

  Args:
    results: rows of `eval.evaluate`.
    *levels: a name (of a task, then of a group) to its group.

  Returns:
    Rows of the groups of every level that have several members, and 'average',
    of the modes that all members have.
  """
  found: list[Row] = []
  rows = list(results)
  for group_of in levels:
    names = dict.fromkeys(group_of(row['task']) for row in rows)
    rows = [
      mean
      for name in names
      for mean in _means(
        [row for row in rows if group_of(row['task']) == name], name
      )
    ]
    known = {row['task'] for row in (*results, *found)}
    found += [row for row in rows if row['task'] not in known]
  return found + averages(rows)


def worst(
  results: Sequence[Row], group_of: Callable[[str], str], metric: str
) -> list[Row]:
  """The mean over groups of the least value in each, as task 'worst'."""
  found = []
  for mode, rows in _by_mode(results).items():
    least: dict[str, float] = {}
    for row in rows:
      if metric in row:
        group = group_of(row['task'])
        least[group] = min(row[metric], least.get(group, np.inf))
    if least:
      value = float(np.mean(list(least.values())))
      found.append({'task': 'worst', 'phi': mode, metric: value})
  return found


def _tasks(results: Sequence[Row]) -> set[str]:
  return {row['task'] for row in results}


def _by_mode(results: Sequence[Row]) -> dict[str, list[Row]]:
  """Rows of the modes that all tasks have: others cannot stand beside them."""
  modes: dict[str, list[Row]] = {}
  for row in results:
    modes.setdefault(row['phi'], []).append(row)
  tasks = _tasks(results)
  return {mode: rows for mode, rows in modes.items() if _tasks(rows) == tasks}


def _means(results: Sequence[Row], task: str) -> list[Row]:
  return [_mean(rows, task) for rows in _by_mode(results).values()]


def _mean(rows: Sequence[Row], task: str) -> Row:
  mean: Row = {'task': task, 'phi': rows[0]['phi']}
  if all('episodes' in row for row in rows):  # t5x does not tell
    mean['episodes'] = sum(row['episodes'] for row in rows)
  for name in [k for k in rows[0] if isinstance(rows[0][k], float)]:
    if name.endswith(_NO_MEAN) or any(name not in row for row in rows):
      continue
    values = np.array([row[name] for row in rows])
    if name.endswith(_STDERR):  # tasks are independent
      mean[name] = float(np.sqrt(np.sum(np.square(values))) / len(rows))
    else:
      mean[name] = float(values.mean())
  return mean
