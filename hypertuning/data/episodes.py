"""Few-shot episodes: draws of shots and queries from the rows of a task.

Sampling is made of stateless TensorFlow operations over episode numbers: an
episode is a function of (seed, number), and an iterator over them can be saved
and restored.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data.rows import Row, RowTask, Tasks, as_task, for_tuning
from hypertuning.errors import UserError

Episode = dict[str, tf.Tensor]
# More episodes than any run draws.
_ENDLESS = 2**40


class EpisodeSource(seqio.DataSource):
  """Draws episodes from the rows of tasks.

  An element has `task` and `definition` (strings), `draw` (int64, the same for
  episodes that share a draw of shots), `shot_inputs`, `shot_targets` `[shots]`
  and `query_inputs`, `query_targets` `[queries]`; where a task of the split has
  them also `query_options` and `query_references` `[queries, most]`, filled up
  with empty strings. Shots are drawn without replacement, and no query is among
  them, nor is another row with the input of a query.
  """

  def __init__(
    self,
    tasks: Mapping[str, Callable[[], Tasks]],
    shots: int | Mapping[str, int],
    queries: int,
    balanced: bool = False,
    visits: int | None = 4,
    draws: int | Sequence[int] = 1,
    train_episodes: int | None = None,
    at_most: bool = False,
    in_turn: bool = False,
  ) -> None:
    """Describes the episodes; rows are made at the first use of a split.

    Args:
      tasks: split to a function that gives its tasks. `train` draws tasks at
        random by their rates. Other splits have the same episodes whatever the
        seed: see `visits`.
      shots: examples an episode shows, in all splits or in each.
      queries: examples an episode asks.
      balanced: every target of the task is shown equally often, as far as
        shots and rows go.
      visits: how often the splits that are not `train` visit each task, in
        turn; None asks every row once a draw of shots, with the same shots for
        all of a task.
      draws: how many draws of shots there are for what is asked in a split that
        is not `train`, one after the other, or the numbers of those that are
        wanted: `(2,)` is the third of `3`.
      train_episodes: of `train`, endless if None; give a number to write them
        to a cache.
      at_most: a task with fewer rows to show than `shots` shows them all.
      in_turn: `train` too visits the tasks in turn, asking any rows.
    """
    if train_episodes is None:
      train_episodes = _ENDLESS
    if isinstance(draws, int):
      draws = range(draws)
    if isinstance(shots, int):
      shots = dict.fromkeys(tasks, shots)
    for name, value, least in (
      ('shots', min(shots.values()), 0),
      ('queries', queries, 1),
      ('visits', 1 if visits is None else visits, 1),
      ('draws', len(draws), 1),
      ('train_episodes', train_episodes, 1),
    ):
      if value < least:
        raise UserError(
          f'EpisodeSource.{name} = {value}: give {least} or more.'
        )
    self._tasks = dict(tasks)
    self._shots = dict(shots)
    self._queries = queries
    self._balanced = balanced
    self._visits = visits
    self._draws = tuple(draws)
    self._train_episodes = train_episodes
    self._at_most = at_most
    self._in_turn = in_turn
    self._table = functools.cache(self._make_table)
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
      return self._train_episodes
    table = self._table(split)
    if self._visits is None:
      return len(self._draws) * sum(table.episodes(self._queries))
    return len(self._draws) * self._visits * len(table.names)

  def check(self, split: str) -> None:
    """Makes the rows of a split now.

    Raises:
      UserError: there is no task, or one has fewer rows than an episode needs.
    """
    self._table(split)

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
    table = self._table(split)
    plan: Callable[[tf.Tensor], _Plan]
    if split == 'train' and not self._in_turn:
      plan = functools.partial(_at_random, table, seed or 0, self._queries)
    elif split == 'train':
      # Another seed goes on elsewhere among the endless visits.
      first = (seed or 0) << 24
      plan = functools.partial(_in_turn, table, self._queries, (0,), first)
    elif self._visits is not None:
      plan = functools.partial(_in_turn, table, self._queries, self._draws, 0)
    else:
      plan = functools.partial(_every_row, table, self._queries, self._draws)
    draw = functools.partial(
      _draw, table, plan, shots=self._shots[split], balanced=self._balanced
    )
    numbers = tf.data.Dataset.range(self.num_input_examples(split))
    if shard_info is not None:
      numbers = numbers.shard(shard_info.num_shards, shard_info.index)
    return numbers.map(draw, num_parallel_calls=tf.data.AUTOTUNE)

  def for_tuning(
    self,
    split: str,
    rows: int | None,
    queries: int,
    visits: int,
    draws: int,
    names: Sequence[str],
  ) -> 'EpisodeSource':
    """The tasks of a split, each to be tuned on by itself.

    `train` asks rows to tune on, every task in turn and for ever; `validation`
    asks the others. Shots of both are rows to tune on.

    Args:
      split: of this source.
      rows: see `rows.for_tuning`.
      queries: examples an episode asks.
      visits: of `validation`, see the class.
      draws: of `validation`, see the class.
      names: of the tasks.
    """
    given = self._tasks[split]()
    chosen = {name: as_task(given[name]) for name in names}

    def tasks(asked: bool) -> Tasks:
      return {
        name: for_tuning(task, asked, rows) for name, task in chosen.items()
      }

    return EpisodeSource(
      {
        'train': functools.partial(tasks, False),
        'validation': functools.partial(tasks, True),
      },
      self._shots[split],
      queries,
      self._balanced,
      visits,
      draws,
      at_most=self._at_most,
      in_turn=True,
    )

  def names(self, split: str) -> list[str]:
    """The tasks of a split."""
    return list(self._tasks[split]())

  def _make_table(self, split: str) -> '_Table':
    needed = 0 if self._at_most else self._shots[split]
    return _Table.of(self._tasks[split](), needed, self._queries)


@dataclasses.dataclass(frozen=True)
class _Table:
  """Many tasks' rows, one after the other, and behind them their pools'."""

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
  def of(cls, given: Tasks, shots: int, queries: int) -> '_Table':
    """Joins the tasks' rows.

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
class _Plan:
  """What an episode asks, and where its shots' randomness comes from."""

  task: tf.Tensor  # number of the task
  asked: tf.Tensor  # [queries] int64, numbers of rows
  seeds: Sequence[tf.Tensor]  # three
  draw: tf.Tensor  # number of the draw of shots


def _seeds(key: Sequence[Any], count: int) -> list[tf.Tensor]:
  key = tf.stack([tf.cast(part, tf.int64) for part in key])
  return tf.unstack(tf.random.split(key, count, alg='auto_select'))


def _at_random(
  table: _Table, seed: int, queries: int, number: tf.Tensor
) -> _Plan:
  """Training: any task, by its rate."""
  seeds = _seeds([seed, number], 5)
  place = tf.random.stateless_uniform([1], seeds[0], dtype=tf.float64)
  task = tf.searchsorted(table.rate, place, side='right')[0]
  asked = _some_rows(table, task, queries, seeds[1])
  return _Plan(task, asked, seeds[2:], number)


def _in_turn(
  table: _Table,
  queries: int,
  draws: Sequence[int],
  first: int,
  number: tf.Tensor,
) -> _Plan:
  """Every task as often as the others, asked the same with every draw."""
  visit = number // len(draws)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  task = visit % len(table.names)
  seeds = _seeds([table.key[task], first + visit // len(table.names)], 2)
  asked = _some_rows(table, task, queries, seeds[0])
  shots = tf.unstack(tf.random.fold_in(seeds[1], draw))
  return _Plan(task, asked, _seeds(shots, 3), draw)


def _every_row(
  table: _Table, queries: int, draws: Sequence[int], number: tf.Tensor
) -> _Plan:
  """Every row of every task once a draw; a draw's shots are a task's own."""
  ends = tf.constant(np.cumsum(table.episodes(queries)), tf.int64)
  draw = tf.constant(draws, tf.int64)[number % len(draws)]
  place = number // len(draws)
  task = tf.searchsorted(ends, place[None], side='right')[0]
  before = tf.concat([[tf.constant(0, tf.int64)], ends], 0)[task]
  start, end = tf.unstack(table.asked[task])
  first = start + (place - before) * queries
  asked = tf.range(first, tf.minimum(first + queries, end))
  return _Plan(task, asked, _seeds([table.key[task], draw], 3), draw)


def _some_rows(
  table: _Table, task: tf.Tensor, queries: int, seed: tf.Tensor
) -> tf.Tensor:
  start, end = tf.unstack(table.asked[task])
  keys = tf.random.stateless_uniform([end - start], seed)
  count = tf.minimum(queries, tf.size(keys))
  return start + tf.cast(tf.math.top_k(keys, count).indices, tf.int64)


# No Python depends on a tensor here: rewriting it would only take seconds.
@tf.autograph.experimental.do_not_convert
def _draw(
  table: _Table,
  plan: Callable[[tf.Tensor], _Plan],
  number: tf.Tensor,
  shots: int,
  balanced: bool,
) -> Episode:
  """An episode from its number."""
  planned = plan(number)
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
