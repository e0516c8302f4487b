"""Few-shot episodes: draws of shots and queries from the rows of a task.

Sampling is made of stateless TensorFlow operations over episode numbers: an
episode is a function of (seed, number), and an iterator over them can be saved
and restored.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.errors import UserError

Rows = Sequence[tuple[str, str]]
Tasks = Mapping[str, Rows]
Episode = dict[str, tf.Tensor]
# More episodes than any run draws.
_ENDLESS = 2**40


class EpisodeSource(seqio.DataSource):
  """Draws episodes from tables of (input, target) rows.

  An element has `task` (a string), `shot_inputs`, `shot_targets` `[shots]` and
  `query_inputs`, `query_targets` `[queries]`. Shots are drawn without
  replacement, and no query is among them.
  """

  def __init__(
    self,
    tasks: Mapping[str, Callable[[], Tasks]],
    shots: int,
    queries: int,
    balanced: bool = False,
    visits: int = 4,
  ) -> None:
    """Describes the episodes; rows are made at the first use of a split.

    Args:
      tasks: split to a function that gives the rows of its tasks. `train` is
        endless, with tasks drawn at random. Other splits visit every task
        equally often, in turn, with the same episodes whatever the seed.
      shots: examples an episode shows.
      queries: examples an episode asks.
      balanced: every target of the task is shown equally often, as far as
        shots and rows go.
      visits: episodes a task in the splits that are not `train`.
    """
    for name, value, least in (
      ('shots', shots, 0),
      ('queries', queries, 1),
      ('visits', visits, 1),
    ):
      if value < least:
        raise UserError(
          f'EpisodeSource.{name} = {value}: give {least} or more.'
        )
    self._tasks = dict(tasks)
    self._shots = shots
    self._queries = queries
    self._balanced = balanced
    self._visits = visits
    self._tables: dict[str, _Table] = {}
    super().__init__(splits=list(tasks), performs_internal_shuffling=True)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """Any number of hosts can divide the episode numbers."""
    return True

  def list_shards(self, split: str) -> list[str]:
    """One: episodes are drawn, not stored."""
    return [split]

  def num_input_examples(self, split: str) -> int:
    """Episodes of a split."""
    if split == 'train':
      return _ENDLESS
    return self._visits * len(self._table(split).names)

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """Episodes as strings; see the class.

    Args:
      split: a split of the source.
      shuffle: nothing; episodes are drawn at random in any case.
      seed: of the draws of `train` (0 if None).
      shard_info: the part of the episodes to give.
      **unused: seqio's other arguments.

    Raises:
      UserError: a task has fewer rows than an episode needs.
    """
    del shuffle, unused
    in_turn = split != 'train'
    draw = _make_draw(
      self._table(split),
      self._shots,
      self._queries,
      self._balanced,
      seed=0 if in_turn or seed is None else seed,
      in_turn=in_turn,
    )
    numbers = tf.data.Dataset.range(self.num_input_examples(split))
    if shard_info is not None:
      numbers = numbers.shard(shard_info.num_shards, shard_info.index)
    return numbers.map(draw, num_parallel_calls=tf.data.AUTOTUNE)

  def _table(self, split: str) -> '_Table':
    if split not in self._tables:
      self._tables[split] = _Table.of(
        self._tasks[split](), self._shots, self._queries
      )
    return self._tables[split]


@dataclasses.dataclass(frozen=True)
class _Table:
  """The rows of many tasks, one after the other."""

  names: tf.Tensor  # [tasks] strings
  offsets: tf.Tensor  # [tasks + 1] int64
  inputs: tf.Tensor  # [rows] strings
  targets: tf.Tensor  # [rows] strings
  labels: tf.Tensor  # [rows] float64: number of the target among its task's

  @classmethod
  def of(cls, tasks: Tasks, shots: int, queries: int) -> '_Table':
    """Joins the tasks' rows.

    Raises:
      UserError: there is no task, or one has too few rows.
    """
    if not tasks:
      raise UserError('An EpisodeSource has a split without tasks.')
    labels: list[int] = []
    for name, rows in tasks.items():
      if len(rows) < shots + queries:
        raise UserError(
          f'Task {name!r} has {len(rows)} examples, but an episode needs '
          f'{shots} shots + {queries} queries = {shots + queries}: add '
          'examples or lower SHOTS.'
        )
      numbers: dict[str, int] = {}
      labels += [numbers.setdefault(row[1], len(numbers)) for row in rows]
    rows = [row for task in tasks.values() for row in task]
    sizes = [0] + [len(task) for task in tasks.values()]
    with tf.init_scope():
      return cls(
        tf.constant(list(tasks)),
        tf.constant(np.cumsum(sizes), tf.int64),
        tf.constant([row[0] for row in rows]),
        tf.constant([row[1] for row in rows]),
        tf.constant(labels, tf.float64),
      )


def _make_draw(
  table: _Table,
  shots: int,
  queries: int,
  balanced: bool,
  seed: int,
  in_turn: bool,
) -> Callable[[tf.Tensor], Episode]:
  """A function from an episode's number to the episode."""
  count = len(table.names)

  def draw(number: tf.Tensor) -> Episode:
    key = tf.stack([tf.cast(seed, tf.int64), number])
    seeds = tf.unstack(tf.random.split(key, 5, alg='auto_select'))
    task = number % count
    if not in_turn:
      task = tf.random.stateless_uniform([], seeds[0], 0, count, tf.int64)
    start, end = table.offsets[task], table.offsets[task + 1]
    size = tf.cast(end - start, tf.int32)
    if balanced:
      order = _balanced_order(table.labels[start:end], seeds[1:3])
      shown = _choose(order[:shots], shots, seeds[3])  # in a random order
      asked = _choose(order[shots:], queries, seeds[4])
    else:
      chosen = _choose(tf.range(size), shots + queries, seeds[1])
      shown, asked = chosen[:shots], chosen[shots:]
    offset = tf.cast(start, tf.int32)
    shown, asked = shown + offset, asked + offset
    return {
      'task': table.names[task],
      'shot_inputs': tf.gather(table.inputs, shown),
      'shot_targets': tf.gather(table.targets, shown),
      'query_inputs': tf.gather(table.inputs, asked),
      'query_targets': tf.gather(table.targets, asked),
    }

  return draw


def _choose(items: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
  """`count` of the items, without replacement, in a random order."""
  keys = tf.random.stateless_uniform([tf.size(items)], seed)
  chosen = tf.gather(items, tf.math.top_k(keys, count).indices)
  return tf.ensure_shape(chosen, [count])


def _balanced_order(labels: tf.Tensor, seeds: Sequence[tf.Tensor]) -> tf.Tensor:
  """A random order in which every label comes once, then every label twice...

  Args:
    labels: whole numbers as float64, `[rows]`.
    seeds: two.

  Returns:
    Row numbers `[rows]`, int32.
  """

  def noise(seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(tf.shape(labels), seed, dtype=tf.float64)

  # Rows of a label stand together, in a random order.
  by_label = tf.argsort(labels + noise(seeds[0]))
  grouped = tf.gather(labels, by_label)
  first = tf.searchsorted(grouped, grouped)
  occurrence = tf.cast(tf.range(tf.size(labels)) - first, tf.float64)
  return tf.gather(by_label, tf.argsort(occurrence + noise(seeds[1])))
