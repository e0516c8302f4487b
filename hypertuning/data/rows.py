"""Rows: what a task is made of before any text is tokenised.

The readers of all file formats return rows, and the episode sampler draws from
them.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hypertuning.data import texts
from hypertuning.errors import UserError
from hypertuning.text_files import MalformedError


class Row(NamedTuple):
  """One example of a task.

  Attributes:
    inputs: text that the model reads.
    targets: text that it should answer.
    options: answers to choose from, with `targets` among them; empty where the
      answer is free text.
    references: further answers that count as right.
  """

  inputs: str
  targets: str
  options: Sequence[str] = ()
  references: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class RowTask:
  """One task: its rows become the queries and the shots of episodes.

  Attributes:
    rows: rows that queries are taken from.
    pool: rows that shots are taken from; None takes them from `rows` too. In
      either case a row whose input equals a query's is no shot of its episode.
    definition: text that says what the task is; it stands before the examples.
    rate: weight of the task where tasks are drawn at random.
  """

  rows: Sequence[Row]
  pool: Sequence[Row] | None = None
  definition: str = ''
  rate: float = 1.0


# Tasks by name. Bare (input, target) pairs stand for a task of such rows.
Tasks = Mapping[str, RowTask | Sequence[tuple[str, str]]]


def for_tuning(task: RowTask, is_test: bool, count: int | None) -> RowTask:
  """One half of a held-out task that is tuned on by itself.

  The task is tuned on the rows of its `pool` whose inputs are not among its
  `rows`, and tested on its `rows`. If that leaves nothing to tune on, its
  `rows` are divided between the two, rows with equal inputs to the same side.

  Args:
    task: the held-out task.
    is_test: whether to return the test half, or the half to tune on.
    count: number of different inputs to tune on where rows are divided; None
      for half of them.

  Returns:
    A task whose queries are rows of the half; its shots come from the rows to
    tune on in either case.
  """
  rest = list(task.rows)
  inputs = list(dict.fromkeys(row.inputs for row in rest))
  pool = [row for row in task.pool or () if row.inputs not in set(inputs)]
  if not pool:
    # A hash orders the inputs: files may be sorted, by label for example.
    order = sorted(range(len(inputs)), key=lambda i: zlib.crc32(b'%d' % i))
    chosen = {
      inputs[i] for i in order[: len(order) // 2 if count is None else count]
    }
    pool = [row for row in rest if row.inputs in chosen]
    rest = [row for row in rest if row.inputs not in chosen]
  return dataclasses.replace(task, rows=rest if is_test else pool, pool=pool)


def as_task(task: RowTask | Sequence[tuple[str, str]]) -> RowTask:
  """A task in its full form."""
  if isinstance(task, RowTask):
    return task
  return RowTask([Row(*row) for row in task])


def check_texts(name: str, task: RowTask) -> None:
  """Refuses a task of which something is no text; files are read otherwise.

  Args:
    name: name of the task.
    task: the task.

  Raises:
    UserError: names the task, the row and the field.
  """
  named: list[tuple[str, Any]] = [
    ('its name', name),
    ('its definition', task.definition),
  ]
  for part, rows in (('rows', task.rows), ('pool', task.pool or ())):
    for number, row in enumerate(rows):
      for field, value in zip(Row._fields, row, strict=False):
        several = field in ('options', 'references')
        place = f'{part}[{number}].{field}'
        named += [(place, x) for x in (value if several else [value])]
  for place, value in named:
    try:
      if texts.text(value) != value:
        raise MalformedError(f'must be a string, not {value!r:.40}')
    except MalformedError as error:
      raise UserError(f'Task {name!r}: {place} {error}.') from error
