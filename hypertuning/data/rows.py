"""Rows: the examples of tasks, before any text is tokenised.

The readers of all file formats return rows, and episodes are drawn from them.
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
    targets: text that the model should answer.
    options: answers to choose from, one of which is `targets`; empty if the
      answer is free text.
    references: further answers that count as right.
  """

  inputs: str
  targets: str
  options: Sequence[str] = ()
  references: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class RowTask:
  """One task, whose rows become the queries and the shots of episodes.

  Attributes:
    rows: rows that queries are taken from.
    pool: rows that shots are taken from; None takes shots from `rows` as well.
      In either case, a row with the same input as a query is never a shot of
      the query's episode.
    definition: text that says what the task is; it stands before the examples.
    rate: weight of the task if tasks are drawn at random.
  """

  rows: Sequence[Row]
  pool: Sequence[Row] | None = None
  definition: str = ''
  rate: float = 1.0


# Maps the name of each task to the task; a list of pairs (input, target) is the
# short form of a task.
Tasks = Mapping[str, RowTask | Sequence[tuple[str, str]]]


def distinct_options(options: Sequence[str]) -> tuple[str, ...]:
  """The options in their order, each of them once, and none without text."""
  return tuple(dict.fromkeys(x for x in options if x.strip()))


def option_fault(row: Row, place: str = '') -> str:
  """The reason why the options of a row cannot be scored.

  Args:
    row: a row whose options all differ, see `distinct_options`.
    place: words that name the row in the reason, such as ` of row 3`.

  Returns:
    The reason as a phrase, or '' if the options can be scored.
  """
  if not row.options:
    return f'no options{place}'
  if len(row.options) < 2:
    return f'one option{place}, {row.options[0]!r}: give two or more'
  if row.targets not in row.options:
    return f'target {row.targets!r}{place} is not one of {list(row.options)}'
  return ''


def for_tuning(task: RowTask, is_test: bool, count: int | None) -> RowTask:
  """One half of a held-out task: rows to tune on, or rows to test on.

  The rows to tune on are those of the task's `pool` whose inputs are not in its
  `rows`; the rows to test on are its `rows`. If there is nothing to tune on,
  the `rows` are divided into two halves. Rows with equal inputs go to the same
  half.

  Args:
    task: the held-out task.
    is_test: whether to return the half to test on, or the half to tune on.
    count: number of different inputs to tune on if `rows` are divided; None
      takes half of the inputs.

  Returns:
    A task whose queries are the rows of the half. Its shots are rows to tune on
    in either case.
  """
  test_rows = list(task.rows)
  inputs = list(dict.fromkeys(row.inputs for row in test_rows))
  pool = [row for row in task.pool or () if row.inputs not in set(inputs)]
  if not pool:
    # A hash puts the inputs in another order than that of the file, which may
    # be sorted, for example by label.
    order = sorted(range(len(inputs)), key=lambda i: zlib.crc32(b'%d' % i))
    tuning_inputs = {
      inputs[i] for i in order[: len(order) // 2 if count is None else count]
    }
    pool = [row for row in test_rows if row.inputs in tuning_inputs]
    test_rows = [row for row in test_rows if row.inputs not in tuning_inputs]
  return dataclasses.replace(
    task, rows=test_rows if is_test else pool, pool=pool
  )


def as_task(task: RowTask | Sequence[tuple[str, str]]) -> RowTask:
  """A task as a `RowTask`; a list of pairs (input, target) is converted."""
  if isinstance(task, RowTask):
    return task
  return RowTask([Row(*row) for row in task])


def check_texts(name: str, task: RowTask) -> None:
  """Refuses a task in which a value is not text.

  The readers of files have checked their rows; the rows that Python code makes
  are checked here.

  Args:
    name: name of the task.
    task: the task.

  Raises:
    UserError: names the task, the row and the field.
  """
  values: list[tuple[str, Any]] = [
    ('its name', name),
    ('its definition', task.definition),
  ]
  for part, rows in (('rows', task.rows), ('pool', task.pool or ())):
    for number, row in enumerate(rows):
      for field, value in zip(Row._fields, row, strict=False):
        is_list = field in ('options', 'references')
        place = f'{part}[{number}].{field}'
        values += [(place, x) for x in (value if is_list else [value])]
  for place, value in values:
    try:
      if texts.text(value) != value:
        raise MalformedError(f'must be a string, not {value!r:.40}')
    except MalformedError as error:
      raise UserError(f'Task {name!r}: {place} {error}.') from error
