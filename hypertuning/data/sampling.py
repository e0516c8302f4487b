"""Sampling: which rows an episode has, from the episode's number.

All of it is stateless TensorFlow operations: an episode is a function of seed
and number, so that an iterator over the numbers can be saved and restored.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hypertuning.data.rows import Row, RowTask, Tasks, as_task
from hypertuning.errors import UserError

Episode = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of many tasks in one list, a task's pool right after its rows.

  A span is int64 `[2]`: the number of the first row, and the number after the
  last one.

  Attributes:
    names: names of the tasks.
    sizes: `[tasks]`, number of rows that queries are taken from.
    name: strings `[tasks]`.
    definition: strings `[tasks]`.
    key: int64 `[tasks]`, a hash of the name, for seeds.
    rate: float64 `[tasks]`, cumulative share of the rates; the last one is 1.
    query_span: int64 `[tasks, 2]`, span of the rows that queries come from.
    shot_span: int64 `[tasks, 2]`, span of the rows that shots come from: the
      pool, or `query_span` where there is none.
    inputs: strings `[rows]`.
    targets: strings `[rows]`.
    extra: strings `[rows, (n)]` of `options` and `references`, where any row
      has some.
    most: the greatest n of each.
    group: int64 `[rows]`, equal for rows of a task with equal inputs.
    label: float64 `[rows]`, number of the target among the task's targets.
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
    """Tasks, rows and rates as bytes, in order."""
    for array in (self.rate, self.query_span, self.shot_span):
      yield array.numpy().tobytes()
    for texts in (self.name, self.definition, self.inputs, self.targets):
      yield from texts.numpy()
    for values in self.extra.values():
      yield values.row_splits.numpy().tobytes()
      yield from values.values.numpy()

  def episodes(self, queries: int) -> list[int]:
    """For each task, how many episodes make every row a query once."""
    return [math.ceil(size / queries) for size in self.sizes]


def make_table(split_tasks: Tasks, shots: int, queries: int) -> Table:
  """Joins the rows of tasks.

  Args:
    split_tasks: tasks of a split.
    shots: number of shots that every task must have rows for.
    queries: number of queries per episode.

  Raises:
    UserError: there is no task, or one has too few rows or no rate.
  """
  tasks = {name: as_task(task) for name, task in split_tasks.items()}
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
      if part is None:  # no pool: shots come from the same rows
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
  with tf.init_scope():
    return Table(
      names=list(tasks),
      sizes=np.array([len(task.rows) for task in tasks.values()]),
      name=tf.constant(list(tasks)),
      definition=tf.constant([task.definition for task in tasks.values()]),
      key=tf.constant([zlib.crc32(n.encode()) for n in tasks], tf.int64),
      rate=tf.constant(np.cumsum(rates) / rates.sum()),
      query_span=tf.constant(query_spans, tf.int64),
      shot_span=tf.constant(shot_spans, tf.int64),
      inputs=tf.constant([row.inputs for row in rows]),
      targets=tf.constant([row.targets for row in rows]),
      extra={
        name: tf.ragged.constant(values, tf.string, ragged_rank=1)
        for name, values in extra.items()
        if any(values)
      },
      most={name: max(map(len, values)) for name, values in extra.items()},
      group=tf.constant(group, tf.int64),
      label=tf.constant(label, tf.float64),
    )


def _check_size(name: str, task: RowTask, shots: int, queries: int) -> None:
  shot_rows = task.rows if task.pool is None else task.pool
  different = len({row.inputs for row in shot_rows})
  # A row with a query's input is no shot. Where the rows for shots may hold
  # queries, there must be as many more of them.
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
    task: int64 `[]`, number of the task.
    queries: int64 `[queries]`, numbers of rows.
    seeds: three seeds `[2]` that draw the shots.
    draw: int64 `[]`, number of the draw of shots.
  """

  task: tf.Tensor
  queries: tf.Tensor
  seeds: Sequence[tf.Tensor]
  draw: tf.Tensor


def _seeds(key: Sequence[Any], count: int) -> list[tf.Tensor]:
  key = tf.stack([tf.cast(part, tf.int64) for part in key])
  return tf.unstack(tf.random.split(key, count, alg='auto_select'))


# From a table and an episode's number (int64) to its plan.
Planner = Callable[[Table, tf.Tensor], Plan]


def at_random(table: Table, number: tf.Tensor, queries: int, seed: int) -> Plan:
  """Training: a task drawn by its rate, and any of its rows as queries.

  Args:
    table: table of the split.
    number: number of the episode, int64.
    queries: number of queries per episode.
    seed: another seed draws other episodes.
  """
  seeds = _seeds([seed, number], 5)
  place = tf.random.stateless_uniform([1], seeds[0], dtype=tf.float64)
  task = tf.searchsorted(table.rate, place, side='right')[0]
  chosen = _some_rows(table, task, queries, seeds[1])
  return Plan(task, chosen, seeds[2:], number)


def in_turn(
  table: Table,
  number: tf.Tensor,
  queries: int,
  draws: Sequence[int],
  first: int,
) -> Plan:
  """One task after the other, as often each, with any of its rows as queries.

  Episodes of one visit to a task follow each other: they have the same queries,
  and each has the shots of another draw.

  Args:
    table: table of the split.
    number: number of the episode, int64.
    queries: number of queries per episode.
    draws: numbers of the draws of shots.
    first: number of the first visit.
  """
  visit = number // len(draws)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  task = visit % len(table.names)
  seeds = _seeds([table.key[task], first + visit // len(table.names)], 2)
  chosen = _some_rows(table, task, queries, seeds[0])
  shots = tf.unstack(tf.random.fold_in(seeds[1], draw))
  return Plan(task, chosen, _seeds(shots, 3), draw)


def every_row(
  table: Table, number: tf.Tensor, queries: int, draws: Sequence[int]
) -> Plan:
  """Every row of every task as a query, once per draw of shots.

  All episodes of a task that belong to the same draw have the same shots.

  Args:
    table: table of the split.
    number: number of the episode, int64, below
      `len(draws) * sum(table.episodes(queries))`.
    queries: number of queries per episode; a task's last may have fewer.
    draws: numbers of the draws of shots.
  """
  ends = tf.constant(np.cumsum(table.episodes(queries)), tf.int64)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  place = number // len(draws)
  task = tf.searchsorted(ends, place[None], side='right')[0]
  before = tf.concat([[tf.constant(0, tf.int64)], ends], 0)[task]
  start, end = tf.unstack(table.query_span[task])
  first = start + (place - before) * queries
  chosen = tf.range(first, tf.minimum(first + queries, end))
  return Plan(task, chosen, _seeds([table.key[task], draw], 3), draw)


def _some_rows(
  table: Table, task: tf.Tensor, queries: int, seed: tf.Tensor
) -> tf.Tensor:
  """Numbers of drawn rows of a task, int64 `[queries]` or all there are."""
  start, end = tf.unstack(table.query_span[task])
  keys = tf.random.stateless_uniform([end - start], seed)
  count = tf.minimum(queries, tf.size(keys))
  return start + tf.cast(tf.math.top_k(keys, count).indices, tf.int64)


# No Python depends on a tensor here: rewriting it would only take seconds.
@tf.autograph.experimental.do_not_convert
def make_episode(
  table: Table, plan: Planner, number: tf.Tensor, shots: int, balanced: bool
) -> Episode:
  """The episode with a number: its planned queries, and shots drawn for them.

  Args:
    table: table of the split.
    plan: function that picks task and queries.
    number: number of the episode, int64.
    shots: number of shots; fewer where a task has fewer rows for them.
    balanced: whether shots have every target of the task equally often, as far
      as their number and the rows allow.

  Returns:
    One element of `EpisodeSource`.
  """
  planned = plan(table, number)
  task, queries = planned.task, planned.queries
  start, end = tf.unstack(table.shot_span[task])
  groups = tf.gather(table.group, queries)
  barred = tf.reduce_any(table.group[start:end, None] == groups[None], axis=1)
  labels = table.label[start:end] if balanced else None
  chosen = _choose(labels, barred, shots, planned.seeds)
  shot_rows = start + tf.cast(chosen, tf.int64)
  episode = {
    'task': table.name[task],
    'definition': table.definition[task],
    'draw': planned.draw,
    'shot_inputs': tf.gather(table.inputs, shot_rows),
    'shot_targets': tf.gather(table.targets, shot_rows),
    'query_inputs': tf.gather(table.inputs, queries),
    'query_targets': tf.gather(table.targets, queries),
  }
  for name, values in table.extra.items():
    chosen = tf.gather(values, queries)
    shape = [None, table.most[name]]
    episode[f'query_{name}'] = chosen.to_tensor('', shape=shape)
  return episode


def _choose(
  labels: tf.Tensor | None,
  barred: tf.Tensor,
  count: int,
  seeds: Sequence[tf.Tensor],
) -> tf.Tensor:
  """Draws rows without replacement, in a random order.

  Args:
    labels: numbers of the rows' labels, whole but float64, `[rows]`: rows are
      then chosen so that every label comes once before any comes twice. None
      draws any rows.
    barred: bool `[rows]`, rows that must not be chosen.
    count: number of rows; fewer are drawn where fewer may be chosen.
    seeds: three seeds `[2]`.

  Returns:
    Row numbers, int32 `[count or fewer]`.
  """

  def noise(seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(tf.shape(barred), seed, dtype=tf.float64)

  # Barred rows are sorted after all others, and `count` ends before them.
  behind = tf.cast(barred, tf.float64) * 1e9
  keys = noise(seeds[0]) + behind
  count = tf.minimum(count, tf.reduce_sum(tf.cast(~barred, tf.int32)))
  if labels is None:
    return tf.argsort(keys)[:count]
  # Sort rows by label, at random within a label: a row's occurrence is then its
  # distance from the first row of its label, and sorting by occurrence takes
  # each label once, then each label a second time, ...
  by_label = tf.argsort(labels + keys)
  grouped = tf.gather(labels + behind, by_label)
  first = tf.searchsorted(grouped, grouped)
  occurrence = tf.cast(tf.range(tf.size(barred)) - first, tf.float64)
  occurrence += tf.gather(behind, by_label)
  order = tf.gather(by_label, tf.argsort(occurrence + noise(seeds[1])))
  # That order follows the occurrences; the order of the shots should not.
  shuffled = tf.random.stateless_uniform([count], seeds[2])
  return tf.gather(order[:count], tf.argsort(shuffled))
