"""Draws the rows of an episode, as a function of the episode's number.

Only stateless TensorFlow operations are used. An episode depends on the seed
and its number alone, so that an iterator over the numbers can be saved and
restored.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from hypertuning.data import packed_ids
from hypertuning.data.row_table import Table
from hypertuning.ranges import Shots

Episode = dict[str, tf.Tensor]


def least(shots: Shots) -> int:
  """The least number of shots that an episode may have."""
  return shots if isinstance(shots, int) else shots[0]


def most(shots: Shots) -> int:
  """The greatest number of shots that an episode may have."""
  return shots if isinstance(shots, int) else shots[1]


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
  table: Table, plan: Planner, number: tf.Tensor, shots: Shots, balanced: bool
) -> Episode:
  """Makes the episode with a number: plans its queries, and draws its shots.

  Args:
    table: table of the split.
    plan: function that chooses the task and the queries.
    number: number of the episode, int64 `[]`.
    shots: number of shots, or the least and the greatest, between which it is
      drawn; an episode has fewer if its task has fewer rows for them.
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
  count = _count(shots, episode_plan.seeds[0])
  shot_numbers = _choose(labels, barred, count, episode_plan.seeds)
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
  if table.ids:
    ids = {
      'definition': table.ids['definition'][task],
      'shot_inputs': tf.gather(table.ids['inputs'], shot_rows),
      'shot_targets': tf.gather(table.ids['targets'], shot_rows),
      'query_inputs': tf.gather(table.ids['inputs'], queries),
      'query_targets': tf.gather(table.ids['targets'], queries),
    }
    episode |= {packed_ids.beside(name): ids[name] for name in ids}
  for name, values in table.extra.items():
    query_values = tf.gather(values, queries)
    shape = [None, table.most[name]]
    episode[f'query_{name}'] = query_values.to_tensor('', shape=shape)
  return episode


def _count(shots: Shots, seed: tf.Tensor) -> int | tf.Tensor:
  """The number of shots of an episode."""
  if isinstance(shots, int):
    return shots
  # Of a seed that nothing else is drawn with.
  own_seed = tf.random.fold_in(seed, 1)
  return tf.random.stateless_uniform(
    [], own_seed, shots[0], shots[1] + 1, dtype=tf.int32
  )


def _choose(
  labels: tf.Tensor | None,
  barred: tf.Tensor,
  count: int | tf.Tensor,
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
