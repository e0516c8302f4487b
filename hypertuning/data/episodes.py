"""Few-shot episodes: a seqio source over the rows of tasks."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import row_table, sampling
from hypertuning.data.rows import Tasks, as_task, for_tuning
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.ranges import Shots

# Number of episodes in a split without end; no run draws so many.
_ENDLESS = 2**40


class EpisodeSource(seqio.DataSource):
  """Draws episodes from the rows of tasks.

  An episode belongs to one task. Its queries are rows that the model answers;
  its shots are rows that are shown with their targets. Shots are drawn without
  replacement, and a row with the same input as a query is never a shot.

  Elements are dicts of

  * `task`, `definition`: name and definition of the task, strings `[]`.
  * `draw`: number of the draw of shots (see `draws`), int64 `[]`; in the split
    `train`, the number of the episode.
  * `shot_inputs`, `shot_targets`: strings `[shots]`.
  * `query_inputs`, `query_targets`: strings `[queries]`.
  * `query_options`, `query_references`: strings `[queries, most]`, padded with
    empty strings; a feature is missing if no row of the split has some.
  """

  def __init__(
    self,
    tasks: Mapping[str, Callable[[], Tasks]],
    shots: Shots | Mapping[str, Shots],
    queries: int,
    balanced: bool = False,
    visits: int | None = 4,
    draws: int | Sequence[int] = 1,
    train_episodes: int | None = None,
    at_most: bool = False,
    in_turn: bool = False,
    scores_options: bool = False,
    text_format: TextFormat | None = None,
  ) -> None:
    """Describes the episodes; rows are only made when a split is first used.

    The split `train` draws a task by its rate, then queries and shots; all
    draws depend on the seed. Every other split is a fixed list of episodes,
    which is the same for every seed. `visits` and `draws` give its length.

    Args:
      tasks: maps the name of each split to a function that returns its tasks.
      shots: number of shots per episode; a dict gives one number per split.
        With a pair (least, most), each episode of `train` draws its own number,
        and an episode of another split has `most`.
      queries: number of queries per episode.
      balanced: whether shots have every target of the task equally often, as
        far as the number of shots and the rows allow.
      visits: number of visits that a fixed split pays to each task. The tasks
        are visited in turn, and each visit draws new queries. With None, every
        row of a task is a query once, in the order of the rows.
      draws: number of draws of shots per visit in a fixed split. A visit gives
        one episode per draw, all with the same queries, so that the spread over
        shots can be measured. With `visits = None`, all episodes of a task
        share the shots of a draw. A sequence selects draws by their numbers:
        `(2,)` is the third draw alone.
      train_episodes: number of episodes in `train`; None makes them endless. A
        number is needed to write the episodes to a cache.
      at_most: whether a task with fewer rows than `shots` shows all of its
        rows. If not, such a task is refused.
      in_turn: whether `train` visits the tasks in turn as well, all equally
        often, and does not draw tasks by their rates.
      scores_options: whether options are scored, so that every row must have
        at least two, its target among them.
      text_format: format of the text. If its vocabulary has no TensorFlow
        operation, the elements also have the ids of all texts, see
        `packed_ids`. None for none.

    Raises:
      UserError: a number is too small.
    """
    if train_episodes is None:
      train_episodes = _ENDLESS
    if isinstance(draws, int):
      draws = range(draws)
    if not isinstance(shots, Mapping):
      shots = dict.fromkeys(tasks, shots)
    shots = {
      split: number if split == 'train' else sampling.most(number)
      for split, number in shots.items()
    }
    for name, value, least in (
      ('shots', min(map(sampling.least, shots.values())), 0),
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
    self._shots = shots
    self._queries = queries
    self._balanced = balanced
    self._visits = visits
    self._draws = tuple(draws)
    self._train_episodes = train_episodes
    self._at_most = at_most
    self._in_turn = in_turn
    self._scores_options = scores_options
    self._text_format = text_format
    self._first = 0
    self._table = functools.cache(self._make_table)
    super().__init__(splits=list(tasks), performs_internal_shuffling=True)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """True, as any number of hosts can divide the episodes among them."""
    return True

  def list_shards(self, split: str) -> list[str]:
    """The name of the only shard; episodes are not stored in files."""
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
    """Makes the rows of a split now, so that its faults are found early.

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
    """The episodes of a split, as strings; see the class.

    Args:
      split: name of a split of the source.
      shuffle: part of seqio's signature, and ignored: the episodes of `train`
        are drawn at random in any case.
      seed: seed for the draws of `train`; None is the same as 0.
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
      # The numbers are rotated, so that none is lost when seqio repeats the
      # dataset from its first element.
      first = self._first % count
      numbers = numbers.map(lambda number: (number + first) % count)
    if shard_info is not None:
      numbers = numbers.shard(shard_info.num_shards, shard_info.index)
    return numbers.map(episode, num_parallel_calls=tf.data.AUTOTUNE)

  def starting_at(self, first: int) -> 'EpisodeSource':
    """A source of the same episodes that starts at another number.

    No episode before it is drawn, so that going there costs nothing.

    Args:
      first: number of the first episode. The episodes before it follow at the
        end, as they would in the next repetition.
    """
    other = copy.copy(self)
    other._first = first
    return other

  def describe(self, split: str) -> tuple[Iterator[bytes], str]:
    """Describes everything that the episodes of a split are drawn from.

    Args:
      split: name of the split.

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
    """A source whose episodes tune on some tasks, each task by itself.

    The rows of a task are divided into rows to tune on and rows to test on. The
    queries of the split `train` are rows to tune on; it visits the tasks in
    turn, and is endless. The queries of `validation` are rows to test on. The
    shots of both splits are rows to tune on.

    Args:
      split: split of this source that has the tasks.
      rows: number of inputs to tune on, see `rows.for_tuning`.
      queries: number of queries per episode.
      visits: number of visits to each task in `validation`.
      draws: number of draws of shots per visit in `validation`.
      names: names of the tasks.
    """
    every_task = self._tasks[split]()
    tuning_tasks = {name: as_task(every_task[name]) for name in names}

    def tasks(is_test: bool) -> Tasks:
      return {
        name: for_tuning(task, is_test, rows)
        for name, task in tuning_tasks.items()
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
      text_format=self._text_format,
    )

  def names(self, split: str) -> list[str]:
    """Names of a split's tasks."""
    return list(self._tasks[split]())

  def _plan(self, split: str, seed: int) -> sampling.Planner:
    queries = self._queries
    if split == 'train' and self._in_turn:
      # The visits are endless, and another seed starts at a later visit.
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

  def _make_table(self, split: str) -> row_table.Table:
    shots = self._shots[split]
    least_shots = 0 if self._at_most else sampling.least(shots)
    return row_table.make_table(
      self._tasks[split](),
      least_shots,
      self._queries,
      self._scores_options,
      self._text_format,
    )
