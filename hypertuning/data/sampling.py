"""Draws of shots and queries: an episode from its number.

Sampling is made of stateless TensorFlow operations over episode numbers: an
episode is a function of (seed, number), and an iterator over them can be saved
and restored.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hypertuning.data.rows import Row, RowTask, Tasks, as_task
from hypertuning.errors import UserError

Episode = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Table:
  """Many tasks' rows, one after the other, each with its pool behind it."""

  names: Sequence[str]
  sizes: np.ndarray  # [tasks] rows to ask
  name: tf.Tensor  # [tasks] strings
  definition: tf.Tensor  # [tasks] strings
  key: tf.Tensor  # [tasks] int64, of the name
  rate: tf.Tensor  # [tasks] float64, cumulative, ends at 1
  asked: tf.Tensor  # [tasks, 2] int64: first row and the one behind the last
  shown: tf.Tensor  # [tasks, 2] int64, the same or the pool's
  inputs: tf.Tensor  # [rows] strings
  targets: tf.Tensor  # [rows] strings
  extra: Mapping[str, tf.RaggedTensor]  # options, references [rows, (n)]
  most: Mapping[str, int]  # of those in a row
  group: tf.Tensor  # [rows] int64: equal inputs of a task have the same
  label: tf.Tensor  # [rows] float64: number of the target among its task's

  @classmethod
  def of(cls, given: Tasks, shots: int, queries: int) -> 'Table':
    """Joins the tasks' rows.

    Args:
      given: the tasks of a split.
      shots: examples that an episode must be able to show.
      queries: examples that it asks.

    Raises:
      UserError: there is no task, or one has too few rows or no rate.
    """
    tasks = {name: as_task(task) for name, task in given.items()}
    if not tasks:
      raise UserError('An EpisodeSource has a split without tasks.')
    rates = np.array([task.rate for task in tasks.values()], np.float64)
    if not (rates >= 0).all() or not rates.sum() > 0:
      raise UserError(
        f'Rates of the tasks {list(tasks)[:3]}... must be 0 or more, and one '
        'of them more.'
      )
    rows: list[Row] = []
    asked: list[tuple[int, int]] = []
    shown: list[tuple[int, int]] = []
    group: list[int] = []
    label: list[int] = []
    for name, task in tasks.items():
      _check_size(name, task, shots, queries)
      groups: dict[str, int] = {}
      labels: dict[str, int] = {}
      for part, spans in ((task.rows, asked), (task.pool, shown)):
        if part is None:  # the rows themselves are shown
          spans.append(asked[-1])
          continue
        spans.append((len(rows), len(rows) + len(part)))
        rows += part
        group += [groups.setdefault(r.inputs, len(groups)) for r in part]
        label += [labels.setdefault(r.targets, len(labels)) for r in part]
    extra = {
      name: [list(getattr(row, name)) for row in rows]
      for name in ('options', 'references')
    }
    with tf.init_scope():
      return cls(
        names=list(tasks),
        sizes=np.array([len(task.rows) for task in tasks.values()]),
        name=tf.constant(list(tasks)),
        definition=tf.constant([task.definition for task in tasks.values()]),
        key=tf.constant([zlib.crc32(n.encode()) for n in tasks], tf.int64),
        rate=tf.constant(np.cumsum(rates) / rates.sum()),
        asked=tf.constant(asked, tf.int64),
        shown=tf.constant(shown, tf.int64),
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

  def episodes(self, queries: int) -> list[int]:
    """How many episodes ask every row of each task once."""
    return [math.ceil(size / queries) for size in self.sizes]


def _check_size(name: str, task: RowTask, shots: int, queries: int) -> None:
  shown = task.rows if task.pool is None else task.pool
  different = len({row.inputs for row in shown})
  # Rows with a query's input are not shown: where the pool may hold them, it
  # must have as many more.
  asked = {row.inputs for row in task.rows}
  barred = min(queries, len(asked & {row.inputs for row in shown}))
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
  """What an episode asks, and where its shots' randomness comes from."""

  task: tf.Tensor  # number of the task
  asked: tf.Tensor  # [queries] int64, numbers of rows
  seeds: Sequence[tf.Tensor]  # three
  draw: tf.Tensor  # number of the draw of shots


def _seeds(key: Sequence[Any], count: int) -> list[tf.Tensor]:
  key = tf.stack([tf.cast(part, tf.int64) for part in key])
  return tf.unstack(tf.random.split(key, count, alg='auto_select'))


# Of a table and an episode's number.
Planner = Callable[[Table, tf.Tensor], Plan]


def at_random(table: Table, number: tf.Tensor, queries: int, seed: int) -> Plan:
  """Asks any rows of any task, by its rate: training.

  Args:
    table: of the split.
    number: of the episode, int64.
    queries: examples an episode asks.
    seed: another one draws other episodes.
  """
  seeds = _seeds([seed, number], 5)
  place = tf.random.stateless_uniform([1], seeds[0], dtype=tf.float64)
  task = tf.searchsorted(table.rate, place, side='right')[0]
  asked = _some_rows(table, task, queries, seeds[1])
  return Plan(task, asked, seeds[2:], number)


def in_turn(
  table: Table,
  number: tf.Tensor,
  queries: int,
  draws: Sequence[int],
  first: int,
) -> Plan:
  """Asks any rows of every task as often as of the others.

  Args:
    table: of the split.
    number: of the episode, int64; those of a visit to a task follow each other,
      one for each draw of shots, and ask the same.
    queries: examples an episode asks.
    draws: numbers of the draws of shots.
    first: number of the first visit.
  """
  visit = number // len(draws)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  task = visit % len(table.names)
  seeds = _seeds([table.key[task], first + visit // len(table.names)], 2)
  asked = _some_rows(table, task, queries, seeds[0])
  shots = tf.unstack(tf.random.fold_in(seeds[1], draw))
  return Plan(task, asked, _seeds(shots, 3), draw)


def every_row(
  table: Table, number: tf.Tensor, queries: int, draws: Sequence[int]
) -> Plan:
  """Asks every row of every task once a draw; a draw's shots are a task's own.

  Args:
    table: of the split.
    number: of the episode, int64, below `len(draws) * sum(table.episodes())`.
    queries: examples an episode asks, fewer in a task's last.
    draws: numbers of the draws of shots.
  """
  ends = tf.constant(np.cumsum(table.episodes(queries)), tf.int64)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  place = number // len(draws)
  task = tf.searchsorted(ends, place[None], side='right')[0]
  before = tf.concat([[tf.constant(0, tf.int64)], ends], 0)[task]
  start, end = tf.unstack(table.asked[task])
  first = start + (place - before) * queries
  asked = tf.range(first, tf.minimum(first + queries, end))
  return Plan(task, asked, _seeds([table.key[task], draw], 3), draw)


def _some_rows(
  table: Table, task: tf.Tensor, queries: int, seed: tf.Tensor
) -> tf.Tensor:
  start, end = tf.unstack(table.asked[task])
  keys = tf.random.stateless_uniform([end - start], seed)
  count = tf.minimum(queries, tf.size(keys))
  return start + tf.cast(tf.math.top_k(keys, count).indices, tf.int64)


# No Python depends on a tensor here: rewriting it would only take seconds.
@tf.autograph.experimental.do_not_convert
def make_episode(
  table: Table, plan: Planner, number: tf.Tensor, shots: int, balanced: bool
) -> Episode:
  """The episode of a number: what is planned, and shots beside it.

  Args:
    table: of the split.
    plan: what each episode asks.
    number: of the episode, int64.
    shots: examples to show, or as many as there are.
    balanced: every target of the task is shown equally often, as far as shots
      and rows go.

  Returns:
    The element of `EpisodeSource`.
  """
  planned = plan(table, number)
  task, asked = planned.task, planned.asked
  start, end = tf.unstack(table.shown[task])
  groups = tf.gather(table.group, asked)
  barred = tf.reduce_any(table.group[start:end, None] == groups[None], axis=1)
  labels = table.label[start:end] if balanced else None
  chosen = _choose(labels, barred, shots, planned.seeds)
  shown = start + tf.cast(chosen, tf.int64)
  episode = {
    'task': table.name[task],
    'definition': table.definition[task],
    'draw': planned.draw,
    'shot_inputs': tf.gather(table.inputs, shown),
    'shot_targets': tf.gather(table.targets, shown),
    'query_inputs': tf.gather(table.inputs, asked),
    'query_targets': tf.gather(table.targets, asked),
  }
  for name, values in table.extra.items():
    chosen = tf.gather(values, asked)
    shape = [None, table.most[name]]
    episode[f'query_{name}'] = chosen.to_tensor('', shape=shape)
  return episode


def _choose(
  labels: tf.Tensor | None,
  barred: tf.Tensor,
  count: int,
  seeds: Sequence[tf.Tensor],
) -> tf.Tensor:
  """`count` of the rows that are not barred, in a random order.

  Args:
    labels: whole numbers as float64, `[rows]`, to have every label once, then
      every label twice...; None for any rows.
    barred: `[rows]`.
    count: at most, without replacement.
    seeds: three.

  Returns:
    Row numbers, int32.
  """

  def noise(seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(tf.shape(barred), seed, dtype=tf.float64)

  behind = tf.cast(barred, tf.float64) * 1e9  # behind all others
  keys = noise(seeds[0]) + behind
  count = tf.minimum(count, tf.reduce_sum(tf.cast(~barred, tf.int32)))
  if labels is None:
    return tf.argsort(keys)[:count]
  # Rows of a label stand together, in a random order.
  by_label = tf.argsort(labels + keys)
  grouped = tf.gather(labels + behind, by_label)
  first = tf.searchsorted(grouped, grouped)
  occurrence = tf.cast(tf.range(tf.size(barred)) - first, tf.float64)
  occurrence += tf.gather(behind, by_label)
  order = tf.gather(by_label, tf.argsort(occurrence + noise(seeds[1])))
  # The labels came in an order; shots should not.
  shuffled = tf.random.stateless_uniform([count], seeds[2])
  return tf.gather(order[:count], tf.argsort(shuffled))
