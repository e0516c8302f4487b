"""Reads tasks that a user wrote to tune adapters on: one JSONL line per task.

{"name": "capitals",
 "examples": [{"inputs": "France", "targets": "Paris"}, ...],
 "test": [{"inputs": "Italy", "targets": "Rome"}, ...]}

A line may also have a "definition", a text that says what the task is.
"""

import dataclasses
from collections.abc import Sequence

from hypertuning import text_files
from hypertuning.data import task_lines
from hypertuning.data.task_lines import Example
from hypertuning.errors import UserError

_ROW = '[{"inputs": "...", "targets": "..."}]'
_FORM = f'{{"name": "...", "examples": {_ROW}, "test": {_ROW}}}'


@dataclasses.dataclass(frozen=True)
class TuningTask:
  """A task in the file.

  Attributes:
    name: name of the task; `line_<number>` if the file gives none.
    examples: rows that give the first phi and that the adapter is tuned on.
    test: rows that are scored, and never shown.
    definition: text that says what the task is; it may be empty.
  """

  name: str
  examples: Sequence[Example]
  test: Sequence[Example]
  definition: str = ''


def read(path: str) -> list[TuningTask]:
  """The tasks of a file.

  Raises:
    UserError: there is no such file, it is empty or not UTF-8, a line has
      another form, or two tasks have the same name; the message names the file
      and the line.
  """
  missing = f'no such file; give a JSONL file of {_FORM}.'
  tasks: dict[str, TuningTask] = {}
  for number, line in text_files.lines(path, missing):
    task = _parse(path, number, line)
    if task.name in tasks:
      raise UserError(
        f'{path}:{number}: another line has the "name" {task.name!r} too; name '
        'each task differently.'
      )
    tasks[task.name] = task
  if not tasks:
    raise UserError(f'{path}: no tasks in it; write one line each: {_FORM}.')
  return list(tasks.values())


def _parse(path: str, number: int, line: str) -> TuningTask:
  task = task_lines.parse(path, number, line, _FORM)
  name = task.fields.get('name', f'line_{number}')
  if not isinstance(name, str) or not name:
    raise UserError(f'{task.place}: "name" must be a string that is not empty.')
  rows = {field: task.pairs(field) for field in ('examples', 'test')}
  for field, pairs in rows.items():
    if not pairs:
      raise UserError(
        f'{task.place}: "{field}" is empty; give one or more: {_FORM}.'
      )
  shown_inputs = {inputs for inputs, _ in rows['examples']}
  for inputs, _ in rows['test']:
    if inputs in shown_inputs:
      raise UserError(
        f'{task.place}: "test" has the input {inputs[:40]!r} of an example; '
        'test on rows that the adapter is not tuned on.'
      )
  (name,) = task.texts('name', [name])
  return TuningTask(name, rows['examples'], rows['test'], task.definition())
