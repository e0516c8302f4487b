"""Few-shot episodes: a seqio source over the rows of tasks."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import sampling
from hypertuning.data.rows import Tasks, as_task, for_tuning
from hypertuning.errors import UserError

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
    self._first = 0
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
    episode = functools.partial(
      sampling.make_episode,
      self._table(split),
      self._plan(split, seed or 0),
      shots=self._shots[split],
      balanced=self._balanced,
    )
    count = self.num_input_examples(split)
    numbers = tf.data.Dataset.range(count)
    if self._first:
      # Turned, not cut: seqio repeats the dataset, from its first element.
      first = self._first % count
      numbers = numbers.map(lambda number: (number + first) % count)
    if shard_info is not None:
      numbers = numbers.shard(shard_info.num_shards, shard_info.index)
    return numbers.map(episode, num_parallel_calls=tf.data.AUTOTUNE)

  def starting_at(self, first: int) -> 'EpisodeSource':
    """The same episodes from number `first` on, at once: none is drawn before.

    Args:
      first: number of the first episode; those before it follow at the end, as
        in the next repetition.
    """
    other = copy.copy(self)
    other._first = first
    return other

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

  def _plan(self, split: str, seed: int) -> sampling.Planner:
    queries = self._queries
    if split == 'train' and self._in_turn:
      # Another seed goes on elsewhere among the endless visits.
      return functools.partial(
        sampling.in_turn, queries=queries, draws=(0,), first=seed << 24
      )
    if split == 'train':
      return functools.partial(sampling.at_random, queries=queries, seed=seed)
    if self._visits is None:
      return functools.partial(
        sampling.every_row, queries=queries, draws=self._draws
      )
    return functools.partial(
      sampling.in_turn, queries=queries, draws=self._draws, first=0
    )

  def _make_table(self, split: str) -> sampling.Table:
    needed = 0 if self._at_most else self._shots[split]
    return sampling.Table.of(self._tasks[split](), needed, self._queries)
