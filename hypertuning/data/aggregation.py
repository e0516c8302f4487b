"""Means over the tasks of a benchmark, taken as its authors take them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
AVERAGE = 'average'
# Endings of fields: the standard error of a number, and fields that a mean over
# tasks leaves out.
_STDERR = '_stderr'
_NO_MEAN = ('_low', '_high', '_std')


def averages(results: Sequence[Row]) -> list[Row]:
  """The mean over tasks for every phi mode; each task counts the same.

  Args:
    results: rows that `eval.evaluate` returns.

  Returns:
    One row of the task 'average' per phi mode that all tasks have; no rows if
    there is a single task.
  """
  return _means(results, AVERAGE) if len(_tasks(results)) > 1 else []


def grouped(results: Sequence[Row], *levels: Callable[[str], str]) -> list[Row]:
  """Means over groups of tasks, over groups of groups, and over all.

  Args:
    results: rows that `eval.evaluate` returns.
    *levels: functions from a name to the name of its group. The first one takes
      names of tasks, each further one those of the groups before.

  Returns:
    Rows for the groups of every level, but for groups that have the name of a
    task, and rows of the task 'average'; all for the phi modes that every
    member has.
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
  """The least value of a metric in each group, averaged over groups.

  Args:
    results: rows that `eval.evaluate` returns.
    group_of: function from the name of a task to that of its group.
    metric: field of the rows.

  Returns:
    One row of the task 'worst' per phi mode that all tasks have.
  """
  found = []
  for mode, rows in _by_mode(results).items():
    least: dict[str, float] = {}
    known = [row for row in rows if metric in row]
    for row in known:
      group = group_of(row['task'])
      # `min` would pass over nan.
      least[group] = np.minimum(row[metric], least.get(group, np.inf))
    if least:
      value = float(np.mean(list(least.values())))
      row = {'task': 'worst', 'phi': mode, **_counts(known), metric: value}
      found.append(row)
  return found


def _tasks(results: Sequence[Row]) -> set[str]:
  return {row['task'] for row in results}


def _by_mode(results: Sequence[Row]) -> dict[str, list[Row]]:
  """Rows by phi mode, for the modes that all tasks have.

  A mean over fewer tasks must not stand beside one over all of them.
  """
  modes: dict[str, list[Row]] = {}
  for row in results:
    modes.setdefault(row['phi'], []).append(row)
  tasks = _tasks(results)
  return {mode: rows for mode, rows in modes.items() if _tasks(rows) == tasks}


def _means(results: Sequence[Row], task: str) -> list[Row]:
  return [_mean(rows, task) for rows in _by_mode(results).values()]


def _counts(rows: Sequence[Row]) -> Row:
  """How many episodes and questions rows are of, as far as all say so."""
  return {
    name: sum(row[name] for row in rows)
    for name in ('episodes', 'questions')  # t5x does not count episodes
    if all(name in row for row in rows)
  }


def _mean(rows: Sequence[Row], task: str) -> Row:
  mean: Row = {'task': task, 'phi': rows[0]['phi'], **_counts(rows)}
  for name in [k for k in rows[0] if isinstance(rows[0][k], float)]:
    if name.endswith(_NO_MEAN) or any(name not in row for row in rows):
      continue
    values = np.array([row[name] for row in rows])
    if name.endswith(_STDERR):
      # Tasks are independent: the variances of their numbers add up.
      mean[name] = float(np.sqrt(np.sum(np.square(values))) / len(rows))
    else:
      mean[name] = float(values.mean())
  return mean
