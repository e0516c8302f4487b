"""The questions that an evaluation asks, as plain data."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hypertuning.data import metrics
from hypertuning.errors import UserError


@dataclasses.dataclass(frozen=True)
class Questions:
  """The questions of one task; each list has one entry per episode.

  Attributes:
    task: name of the seqio task.
    targets: postprocessed targets of the queries.
    counts: number of queries that the episode asks.
    draws: number of the episode's draw of shots.
    sources: what phi is made for: the name of the row task, or a digest of the
      hypermodel's input if row tasks have no names. Only used to compare.
    queries: number of queries that the task has, of which the lengths may have
      no room for the last.
    cut: number of targets that the lengths cut.
  """

  task: str
  targets: list[Any]
  counts: list[int]
  draws: list[int]
  sources: list[str]
  queries: list[int]
  cut: list[int]

  def first(self, count: int | None) -> 'Questions':
    """The questions of the first `count` episodes; None takes all."""
    lists = [field.name for field in dataclasses.fields(self)[1:]]
    some = {name: getattr(self, name)[:count] for name in lists}
    return dataclasses.replace(self, **some)

  def notes(self) -> list[str]:
    """Sentences about queries and targets that the model cannot see.

    They say how many queries are not asked, how many targets are cut, and how
    many questions have a right and a wrong option of the same tokens.

    Raises:
      UserError: every question has a right and a wrong option of the same
        tokens.
    """
    return [f'{self.task}: {note}.' for note in self._notes()]

  def _notes(self) -> Iterator[str]:
    count, queries = sum(self.counts), sum(self.queries)
    if count < queries:
      yield (
        f'{count} of {queries} queries are asked: '
        "TASK_FEATURE_LENGTHS['inputs'] and ['targets'] have no room for more "
        'per episode'
      )
    if sum(self.cut):
      yield (
        f'{sum(self.cut)} of {count} targets are cut to '
        "TASK_FEATURE_LENGTHS['targets']"
      )
    option_groups = [
      target['option'][rows]
      for target in self.targets
      if isinstance(target, Mapping)
      for rows in metrics.indistinct_options(target)
    ]
    if option_groups:
      options = ' and '.join(map(repr, option_groups[0][:2].tolist()))
      number = number_of(self.targets)
      text = (
        f'{len(option_groups)} of {number} questions have a right and a wrong '
        f'option of the same tokens ({options}), which cannot be ranked'
      )
      if len(option_groups) >= number:
        raise UserError(
          f'{self.task}: {text}: the vocabulary does not know them.'
        )
      yield f'{text} and count as wrong'


def number_of(targets: Sequence[Any]) -> int:
  """The number of questions in the postprocessed targets of episodes."""
  return sum(
    len(np.unique(x['question'])) if isinstance(x, Mapping) else len(x)
    for x in targets
  )
