"""Draws the rows of an episode, as a function of the episode's number.

Only stateless TensorFlow operations are used. An episode depends on the seed
and its number alone, so that an iterator over the numbers can be saved and
restored.
"""

import contextlib
import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hypertuning.data.rows import (
  Row,
  RowTask,
  Tasks,
  as_task,
  check_texts,
  distinct_options,
  option_fault,
)
from hypertuning.errors import UserError

Episode = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of many tasks in one list; each task's pool follows its rows.

  A span is a pair of row numbers, int64 `[2]`: the first row that belongs to
  it, and the first row behind it.

  Attributes:
    names: names of the tasks.
    sizes: number of rows of each task that queries are taken from, `[tasks]`.
    name: names of the tasks, strings `[tasks]`.
    definition: definitions of the tasks, strings `[tasks]`.
    key: hash of each task's name, int64 `[tasks]`; seeds are made of it.
    rate: cumulative shares of the tasks' rates, float64 `[tasks]`; the last one
      is 1.
    query_span: span of the rows that queries come from, int64 `[tasks, 2]`.
    shot_span: span of the rows that shots come from, int64 `[tasks, 2]`: the
      pool of the task, or its `query_span` if it has no pool.
    inputs: inputs of the rows, strings `[rows]`.
    targets: targets of the rows, strings `[rows]`.
    extra: maps `options` and `references` to strings `[rows, (n)]`, if any row
      has some.
    most: maps `options` and `references` to the greatest n.
    group: number of each row's input, int64 `[rows]`: two rows of a task have
      the same number if their inputs are equal.
    label: number of each row's target, float64 `[rows]`, counted in the same
      way.
  """

  names: Sequence[str]
  sizes: np.ndarray
  name: tf.Tensor
  definition: tf.Tensor
  key: tf.Tensor
  rate: tf.Tensor
  query_span: tf.Tensor
  shot_span: tf.Tensor
  inputs: tf.Tensor
  targets: tf.Tensor
  extra: Mapping[str, tf.RaggedTensor]
  most: Mapping[str, int]
  group: tf.Tensor
  label: tf.Tensor

  def content(self) -> Iterator[bytes]:
    """Yields all tasks, rows and rates as bytes, in a fixed order."""
    for array in (self.rate, self.query_span, self.shot_span):
      yield array.numpy().tobytes()
    for texts in (self.name, self.definition, self.inputs, self.targets):
      yield from texts.numpy()
    for values in self.extra.values():
      yield values.row_splits.numpy().tobytes()
      yield from values.values.numpy()

  def episodes(self, queries: int) -> list[int]:
    """The number of episodes per task in which every row is a query once."""
    return [math.ceil(size / queries) for size in self.sizes]


def make_table(
  split_tasks: Tasks, shots: int, queries: int, scores_options: bool = False
) -> Table:
  """Joins the rows of all tasks in a split.

  Args:
    split_tasks: tasks of the split, by name.
    shots: number of shots that every task must have rows for.
    queries: number of queries per episode.
    scores_options: whether the options of the rows are scored. An option that a
      row lists twice then counts once, and one without text not at all.

  Raises:
    UserError: there is no task; a task has too few rows, no rate, or a value
      that is not text; or the options of a row cannot be scored.
  """
  tasks = {name: as_task(task) for name, task in split_tasks.items()}
  if scores_options:
    with _text_errors(tasks):
      tasks = {name: _scorable_task(name, task) for name, task in tasks.items()}
  if not tasks:
    raise UserError('An EpisodeSource has a split without tasks.')
  rates = np.array([task.rate for task in tasks.values()], np.float64)
  if not (rates >= 0).all() or not rates.sum() > 0:
    raise UserError(
      f'Rates of the tasks {list(tasks)[:3]}... must be 0 or more, and one '
      'of them more.'
    )
  rows: list[Row] = []
  query_spans: list[tuple[int, int]] = []
  shot_spans: list[tuple[int, int]] = []
  group: list[int] = []
  label: list[int] = []
  for name, task in tasks.items():
    _check_size(name, task, shots, queries)
    groups: dict[str, int] = {}
    labels: dict[str, int] = {}
    for part, spans in ((task.rows, query_spans), (task.pool, shot_spans)):
      if part is None:  # without a pool, shots come from the same rows
        spans.append(query_spans[-1])
        continue
      spans.append((len(rows), len(rows) + len(part)))
      rows += part
      group += [groups.setdefault(r.inputs, len(groups)) for r in part]
      label += [labels.setdefault(r.targets, len(labels)) for r in part]
  extra = {
    name: [list(getattr(row, name)) for row in rows]
    for name in ('options', 'references')
  }
  # A table may be made while tf.data traces a function; its tensors must
  # outlive that function's graph.
  with tf.init_scope(), _text_errors(tasks):
    return Table(
      names=list(tasks),
      sizes=np.array([len(task.rows) for task in tasks.values()]),
      name=tf.constant(list(tasks), tf.string),
      definition=tf.constant(
        [task.definition for task in tasks.values()], tf.string
      ),
      key=tf.constant([zlib.crc32(n.encode()) for n in tasks], tf.int64),
      rate=tf.constant(np.cumsum(rates) / rates.sum()),
      query_span=tf.constant(query_spans, tf.int64),
      shot_span=tf.constant(shot_spans, tf.int64),
      inputs=tf.constant([row.inputs for row in rows], tf.string),
      targets=tf.constant([row.targets for row in rows], tf.string),
      extra={
        name: tf.ragged.constant(values, tf.string, ragged_rank=1)
        for name, values in extra.items()
        if any(values)
      },
      most={name: max(map(len, values)) for name, values in extra.items()},
      group=tf.constant(group, tf.int64),
      label=tf.constant(label, tf.float64),
    )


def _scorable_task(name: str, task: RowTask) -> RowTask:
  """The task with each option of a row once; refuses unusable options."""
  rows = []
  for number, row in enumerate(task.rows, start=1):
    row = row._replace(options=distinct_options(row.options))
    rows.append(row)
    if fault := option_fault(row):
      raise UserError(
        f'Task {name!r}, row {number} ({row.inputs[:40]!r}): {fault}. Rank '
        'classification needs tasks with options, the target among them.'
      )
  return dataclasses.replace(task, rows=rows)


@contextlib.contextmanager
def _text_errors(tasks: Mapping[str, RowTask]) -> Iterator[None]:
  """Turns an error about a text into one that names the task and the row."""
  try:
    yield
  except (AttributeError, TypeError, ValueError):
    for name, task in tasks.items():
      check_texts(name, task)
    raise


def _check_size(name: str, task: RowTask, shots: int, queries: int) -> None:
  shot_rows = task.rows if task.pool is None else task.pool
  different = len({row.inputs for row in shot_rows})
  # A row with the same input as a query cannot be a shot. If the rows for shots
  # include queries, that many more rows are needed.
  query_inputs = {row.inputs for row in task.rows}
  barred = min(queries, len(query_inputs & {row.inputs for row in shot_rows}))
  if different < shots + barred:
    raise UserError(
      f'Task {name!r} has {different} examples'
      f'{" to show" if task.pool is not None else ""}, but an episode needs '
      f'{shots} shots + {barred} queries = {shots + barred}: add examples or '
      'lower SHOTS.'
    )
  if not task.rows:
    raise UserError(f'Task {name!r} has no examples to ask.')


@dataclasses.dataclass(frozen=True)
class Plan:
  """An episode's task and queries, and the seeds that draw its shots.

  Attributes:
    task: number of the task, int64 `[]`.
    queries: numbers of the rows that are queries, int64 `[queries]`.
    seeds: three seeds that draw the shots, each `[2]`.
    draw: number of the draw of shots, int64 `[]`.
  """

  task: tf.Tensor
  queries: tf.Tensor
  seeds: Sequence[tf.Tensor]
  draw: tf.Tensor


def _seeds(key: Sequence[Any], count: int) -> list[tf.Tensor]:
  key = tf.stack([tf.cast(part, tf.int64) for part in key])
  return tf.unstack(tf.random.split(key, count, alg='auto_select'))


# A function from a table and the number of an episode (int64) to its plan.
Planner = Callable[[Table, tf.Tensor], Plan]


def at_random(table: Table, number: tf.Tensor, queries: int, seed: int) -> Plan:
  """Plans an episode of training: draws a task by its rate, then its queries.

  Args:
    table: table of the split.
    number: number of the episode, int64 `[]`.
    queries: number of queries per episode.
    seed: integer that all draws depend on.
  """
  seeds = _seeds([seed, number], 5)
  place = tf.random.stateless_uniform([1], seeds[0], dtype=tf.float64)
  task = tf.searchsorted(table.rate, place, side='right')[0]
  query_rows = _some_rows(table, task, queries, seeds[1])
  return Plan(task, query_rows, seeds[2:], number)


def in_turn(
  table: Table,
  number: tf.Tensor,
  queries: int,
  draws: Sequence[int],
  first: int,
) -> Plan:
  """Plans an episode where tasks are visited in turn, all equally often.

  The episodes of one visit follow one another. They have the same queries, and
  each has the shots of another draw.

  Args:
    table: table of the split.
    number: number of the episode, int64 `[]`.
    queries: number of queries per episode; they are drawn from all rows.
    draws: numbers of the draws of shots.
    first: number of the first visit to each task.
  """
  visit = number // len(draws)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  task = visit % len(table.names)
  seeds = _seeds([table.key[task], first + visit // len(table.names)], 2)
  query_rows = _some_rows(table, task, queries, seeds[0])
  shots = tf.unstack(tf.random.fold_in(seeds[1], draw))
  return Plan(task, query_rows, _seeds(shots, 3), draw)


def every_row(
  table: Table, number: tf.Tensor, queries: int, draws: Sequence[int]
) -> Plan:
  """Plans an episode where every row of every task is a query once per draw.

  All episodes of a task that belong to the same draw have the same shots.

  Args:
    table: table of the split.
    number: number of the episode, int64 `[]`, less than
      `len(draws) * sum(table.episodes(queries))`.
    queries: number of queries per episode; the last episode of a task may have
      fewer.
    draws: numbers of the draws of shots.
  """
  ends = tf.constant(np.cumsum(table.episodes(queries)), tf.int64)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  place = number // len(draws)
  task = tf.searchsorted(ends, place[None], side='right')[0]
  earlier_episodes = tf.concat([[tf.constant(0, tf.int64)], ends], 0)[task]
  start, end = tf.unstack(table.query_span[task])
  first = start + (place - earlier_episodes) * queries
  query_rows = tf.range(first, tf.minimum(first + queries, end))
  return Plan(task, query_rows, _seeds([table.key[task], draw], 3), draw)


def _some_rows(
  table: Table, task: tf.Tensor, queries: int, seed: tf.Tensor
) -> tf.Tensor:
  """Draws rows of a task, at most as many as it has; int64 `[queries]`."""
  start, end = tf.unstack(table.query_span[task])
  keys = tf.random.stateless_uniform([end - start], seed)
  count = tf.minimum(queries, tf.size(keys))
  return start + tf.cast(tf.math.top_k(keys, count).indices, tf.int64)


# Autograph would take seconds to rewrite this function, and has nothing to
# rewrite: no Python control flow depends on a tensor.
@tf.autograph.experimental.do_not_convert
def make_episode(
  table: Table, plan: Planner, number: tf.Tensor, shots: int, balanced: bool
) -> Episode:
  """Makes the episode with a number: plans its queries, and draws its shots.

  Args:
    table: table of the split.
    plan: function that chooses the task and the queries.
    number: number of the episode, int64 `[]`.
    shots: number of shots; an episode has fewer if its task has fewer rows for
      them.
    balanced: whether shots have every target of the task equally often, as far
      as their number and the rows allow.

  Returns:
    One element of `EpisodeSource`.
  """
  episode_plan = plan(table, number)
  task, queries = episode_plan.task, episode_plan.queries
  start, end = tf.unstack(table.shot_span[task])
  groups = tf.gather(table.group, queries)
  barred = tf.reduce_any(table.group[start:end, None] == groups[None], axis=1)
  labels = table.label[start:end] if balanced else None
  shot_numbers = _choose(labels, barred, shots, episode_plan.seeds)
  shot_rows = start + tf.cast(shot_numbers, tf.int64)
  episode = {
    'task': table.name[task],
    'definition': table.definition[task],
    'draw': episode_plan.draw,
    'shot_inputs': tf.gather(table.inputs, shot_rows),
    'shot_targets': tf.gather(table.targets, shot_rows),
    'query_inputs': tf.gather(table.inputs, queries),
    'query_targets': tf.gather(table.targets, queries),
  }
  for name, values in table.extra.items():
    query_values = tf.gather(values, queries)
    shape = [None, table.most[name]]
    episode[f'query_{name}'] = query_values.to_tensor('', shape=shape)
  return episode


def _choose(
  labels: tf.Tensor | None,
  barred: tf.Tensor,
  count: int,
  seeds: Sequence[tf.Tensor],
) -> tf.Tensor:
  """Draws rows without replacement, in a random order.

  Args:
    labels: number of each row's label, float64 `[rows]`, all of them whole.
      Rows are then chosen so that every label comes once before any label comes
      twice. None draws rows whatever their labels are.
    barred: rows that must not be chosen, bool `[rows]`.
    count: number of rows; fewer are drawn if fewer may be chosen.
    seeds: three seeds, each `[2]`.

  Returns:
    Numbers of the chosen rows, int32 `[count]` or shorter.
  """

  def noise(seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(tf.shape(barred), seed, dtype=tf.float64)

  # Barred rows are sorted after all others, and `count` ends before them.
  penalty = tf.cast(barred, tf.float64) * 1e9
  keys = noise(seeds[0]) + penalty
  count = tf.minimum(count, tf.reduce_sum(tf.cast(~barred, tf.int32)))
  if labels is None:
    return tf.argsort(keys)[:count]
  # Sort rows by label, at random within a label: a row's occurrence is then its
  # distance from the first row of its label, and sorting by occurrence takes
  # each label once, then each label a second time, ...
  by_label = tf.argsort(labels + keys)
  sorted_labels = tf.gather(labels + penalty, by_label)
  first = tf.searchsorted(sorted_labels, sorted_labels)
  occurrence = tf.cast(tf.range(tf.size(barred)) - first, tf.float64)
  occurrence += tf.gather(penalty, by_label)
  order = tf.gather(by_label, tf.argsort(occurrence + noise(seeds[1])))
  # That order follows the occurrences; the order of the shots should not.
  shuffled = tf.random.stateless_uniform([count], seeds[2])
  return tf.gather(order[:count], tf.argsort(shuffled))
