"""What a task is made of, before any text is tokenised: rows.

Readers of every file format give these, and the episode sampler draws from
them.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Row(NamedTuple):
  """One example of a task.

  Attributes:
    inputs: what is asked.
    targets: what is to be said.
    options: the answers to choose from, `targets` among them; none where text
      is generated.
    references: other answers that count as right.
  """

  inputs: str
  targets: str
  options: Sequence[str] = ()
  references: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class RowTask:
  """One task: the rows to ask, and those to show.

  Attributes:
    rows: asked, and shown as well where there is no `pool`.
    pool: rows to show; a row with the input of a query is never shown to it.
    definition: said before the examples.
    rate: weight of the task among those that are drawn at random.
  """

  rows: Sequence[Row]
  pool: Sequence[Row] | None = None
  definition: str = ''
  rate: float = 1.0


# Name to task; bare (input, target) pairs will do for the rows.
Tasks = Mapping[str, RowTask | Sequence[tuple[str, str]]]


def for_tuning(task: RowTask, asked: bool, count: int | None) -> RowTask:
  """A held-out task to tune on by itself.

  Args:
    task: the rows of its `pool` are to tune on, but for those that it asks, and
      its `rows` to test on; where that leaves none to tune on, the rows are
      divided, equal inputs to one side.
    asked: give the rows to test on (True), or those to tune on.
    count: how many inputs are to tune on where rows are divided; half of them
      if None.

  Returns:
    A task whose shots come from the rows to tune on, in both cases.
  """
  rest = list(task.rows)
  inputs = list(dict.fromkeys(row.inputs for row in rest))
  pool = [row for row in task.pool or () if row.inputs not in set(inputs)]
  if not pool:
    # Files may be sorted, by label for example.
    order = sorted(range(len(inputs)), key=lambda i: zlib.crc32(b'%d' % i))
    chosen = {
      inputs[i] for i in order[: len(order) // 2 if count is None else count]
    }
    pool = [row for row in rest if row.inputs in chosen]
    rest = [row for row in rest if row.inputs not in chosen]
  return dataclasses.replace(task, rows=rest if asked else pool, pool=pool)


def as_task(task: RowTask | Sequence[tuple[str, str]]) -> RowTask:
  """A task in its full form."""
  if isinstance(task, RowTask):
    return task
  return RowTask([Row(*row) for row in task])
