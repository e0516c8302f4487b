"""Means over the tasks of a benchmark, as its authors compute them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
AVERAGE = 'average'
# Endings of the fields that hold a standard error, and of those that have no
# mean over tasks.
_STDERR = '_stderr'
_NO_MEAN = ('_low', '_high', '_std')


def averages(results: Sequence[Row]) -> list[Row]:
  """The mean over tasks in every phi mode; all tasks have the same weight.

  Args:
    results: rows that `eval.evaluate` returns.

  Returns:
    One row, whose task is 'average', per phi mode that all tasks have. There
    are no rows if there is only one task.
  """
  return _means(results, AVERAGE) if len(_tasks(results)) > 1 else []


def group_means(
  results: Sequence[Row], *levels: Callable[[str], str]
) -> list[Row]:
  """Means over groups of tasks, over groups of groups, and over all of these.

  Args:
    results: rows that `eval.evaluate` returns.
    *levels: functions from a name to the name of its group. The first one gets
      names of tasks, and each further one names of groups of the level before.

  Returns:
    Rows of the groups on every level, except groups that are called like a
    task; then rows of the task 'average'. Each group has one row per phi mode
    that all of its members have.
  """
  group_rows: list[Row] = []
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
    names_so_far = {row['task'] for row in (*results, *group_rows)}
    group_rows += [row for row in rows if row['task'] not in names_so_far]
  return group_rows + averages(rows)


def worst(
  results: Sequence[Row], group_of: Callable[[str], str], metric: str
) -> list[Row]:
  """The mean over groups of the least value that a metric has in each.

  Args:
    results: rows that `eval.evaluate` returns.
    group_of: function from the name of a task to the name of its group.
    metric: name of the field that holds the metric.

  Returns:
    One row, whose task is 'worst', per phi mode that all tasks have.
  """
  means = []
  for mode, rows in _by_mode(results).items():
    least: dict[str, float] = {}
    metric_rows = [row for row in rows if metric in row]
    for row in metric_rows:
      group = group_of(row['task'])
      # Python's `min` would ignore nan.
      least[group] = np.minimum(row[metric], least.get(group, np.inf))
    if least:
      value = float(np.mean(list(least.values())))
      row = {
        'task': 'worst',
        'phi': mode,
        **_counts(metric_rows),
        metric: value,
      }
      means.append(row)
  return means


def _tasks(results: Sequence[Row]) -> set[str]:
  return {row['task'] for row in results}


def _by_mode(results: Sequence[Row]) -> dict[str, list[Row]]:
  """Maps each phi mode that all tasks have to its rows.

  A mode that some tasks lack is left out: its mean would be over fewer tasks,
  and not comparable with the others.
  """
  modes: dict[str, list[Row]] = {}
  for row in results:
    modes.setdefault(row['phi'], []).append(row)
  tasks = _tasks(results)
  return {mode: rows for mode, rows in modes.items() if _tasks(rows) == tasks}


def _means(results: Sequence[Row], task: str) -> list[Row]:
  return [_mean(rows, task) for rows in _by_mode(results).values()]


def _counts(rows: Sequence[Row]) -> Row:
  """Sums the episodes and the questions of rows, if all rows state them."""
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
