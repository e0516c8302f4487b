"""Few-shot episodes: a seqio source over the rows of tasks."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
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

  An episode belongs to one task. Its queries are rows to answer; its shots are
  rows that are shown with their targets. Shots are drawn without replacement,
  and no row whose input equals a query's is among them.

  Elements are dicts of

  * `task`, `definition`: strings `[]`.
  * `draw`: int64 `[]`, the number of the draw of shots (see `draws`); in
    `train` the number of the episode.
  * `shot_inputs`, `shot_targets`: strings `[shots]`.
  * `query_inputs`, `query_targets`: strings `[queries]`.
  * `query_options`, `query_references`: strings `[queries, most]`, filled up
    with empty strings; only where a row of the split has some.
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

    The split `train` draws a task by its rate, then queries and shots, all by
    the seed. Every other split is a fixed list of episodes, the same for any
    seed. `visits` and `draws` say how long that list is.

    Args:
      tasks: for each split a function that returns its tasks.
      shots: number of shots per episode, for all splits or by split.
      queries: number of queries per episode.
      balanced: whether shots have every target of the task equally often, as
        far as the number of shots and the rows allow.
      visits: number of times that a fixed split comes to each task, one task
        after the other; each visit draws queries. None makes every row of the
        task a query once instead, in the order of the rows.
      draws: number of draws of shots for the same queries in a fixed split: a
        visit gives one episode per draw, so that the spread over shots can be
        measured. With `visits = None` all episodes of a task share the shots
        of a draw. A sequence picks draws by number: `(2,)` is the third of `3`.
      train_episodes: number of episodes in `train`; None for no end. Writing
        them to a cache needs a number.
      at_most: whether a task with fewer rows than `shots` shows them all; it is
        refused otherwise.
      in_turn: whether `train` comes to one task after the other too, as often
        to each, in place of drawing tasks by their rates.
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
    """True: any number of hosts can divide the episode numbers."""
    return True

  def list_shards(self, split: str) -> list[str]:
    """One shard: episodes are drawn, not stored."""
    return [split]

  def num_input_examples(self, split: str) -> int:
    """Number of episodes in a split."""
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
      shuffle: ignored; episodes are drawn at random in any case.
      seed: seed for the draws of `train`; None is 0.
      shard_info: the part of the episodes to return; None returns all.
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

  def describe(self, split: str) -> tuple[Iterator[bytes], str]:
    """What the episodes of a split are drawn from.

    Returns:
      The split's tasks and rows as bytes, and the settings of the episodes.
    """
    settings = {
      'shots': self._shots[split],
      'queries': self._queries,
      'balanced': self._balanced,
      'at_most': self._at_most,
      'in_turn': self._in_turn,
      'train_episodes': self._train_episodes,
    }
    return self._table(split).content(), repr(settings)

  def for_tuning(
    self,
    split: str,
    rows: int | None,
    queries: int,
    visits: int,
    draws: int,
    names: Sequence[str],
  ) -> 'EpisodeSource':
    """A source that tunes on tasks of a split, each by itself.

    Queries of its `train` are rows to tune on, one task after the other without
    end; queries of its `validation` are the other rows. Shots of both are rows
    to tune on.

    Args:
      split: split of this source that has the tasks.
      rows: number of inputs to tune on, see `rows.for_tuning`.
      queries: number of queries per episode.
      visits: see the class, for `validation`.
      draws: see the class, for `validation`.
      names: names of the tasks.
    """
    every_task = self._tasks[split]()
    chosen = {name: as_task(every_task[name]) for name in names}

    def tasks(is_test: bool) -> Tasks:
      return {
        name: for_tuning(task, is_test, rows) for name, task in chosen.items()
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
    """Names of a split's tasks."""
    return list(self._tasks[split]())

  def _plan(self, split: str, seed: int) -> sampling.Planner:
    queries = self._queries
    if split == 'train' and self._in_turn:
      # The visits never end: another seed starts further on among them.
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
    return sampling.make_table(self._tasks[split](), needed, self._queries)
