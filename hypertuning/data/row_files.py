"""Reads the rows of a file: JSONL, JSON or TSV (maybe gzipped), or binary.

    {"inputs": "2 + 2", "targets": "4"}
    {"inputs": "Is it true?", "targets": "yes", "options": ["yes", "no"]}

Optional fields are `options` (for rank classification), `references` (further
right answers), `definition` (the same in all rows of a task), `task` (for a
file with several tasks) and `id`. A TSV file has a header, and its options and
references are JSON lists. A JSON file is a list of objects like those above.
Binary files are those that `record_files` reads. Error messages give the number
of a row in a JSON or binary file, and the number of a line in other files.
"""

import csv
import dataclasses
import gzip
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypertuning.data import record_files
from hypertuning.data.rows import Row, RowTask
from hypertuning.errors import UserError

_TEXTS = ('inputs', 'targets', 'definition', 'task', 'id')
_LISTS = ('options', 'references')
FIELDS = (*_TEXTS, *_LISTS)
_MOST_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Problem:
  """One fault in a file.

  Attributes:
    path: path of the file.
    line: number of the line or row, counted from 1.
    text: text that says what is wrong, and what the user can do.
  """

  path: str
  line: int
  text: str

  def __str__(self) -> str:
    return f'{self.path}:{self.line}: {self.text}'


def read(
  path: str,
  fields: Mapping[str, str] | None = None,
  strip: bool = False,
  name: str | None = None,
  most: int | None = None,
) -> dict[str, RowTask]:
  """Reads the tasks in a file.

  Args:
    path: path of a file that ends in `.jsonl`, `.json` or `.tsv`, maybe
      followed by `.gz`; or of a binary file that `record_files` reads.
    fields: maps a field in `FIELDS` to the name that it has in the file; a
      field that is missing here has its own name.
    strip: whether to remove white space around texts, options and references.
    name: name of the task that rows without a field `task` belong to; by
      default the name of the file.
    most: greatest number of rows that are read from a binary file; None reads
      all.

  Returns:
    A dict from the name of each task to the task.

  Raises:
    UserError: a row is wrong; the message names the file and its first wrong
      lines.
  """
  tasks, problems = check(path, fields, strip, name, most)
  if problems:
    lines = '\n'.join(str(problem) for problem in problems[:_MOST_SHOWN])
    more = len(problems) - _MOST_SHOWN
    raise UserError(lines + (f'\n... and {more} more' if more > 0 else ''))
  return tasks


def check(
  path: str,
  fields: Mapping[str, str] | None = None,
  strip: bool = False,
  name: str | None = None,
  most: int | None = None,
) -> tuple[dict[str, RowTask], list[Problem]]:
  """Reads the tasks in a file, and finds all of its faults.

  Args:
    path: path of the file, see `read`.
    fields: names that fields have in the file, see `read`.
    strip: whether to remove white space, see `read`.
    name: name of the task of rows that name none, see `read`.
    most: greatest number of rows from a binary file, see `read`.

  Returns:
    The tasks, made of the rows without faults, and one problem per row that has
    a fault.

  Raises:
    UserError: the file cannot be read at all, or a name of `fields` is unknown.
  """
  names = {field: field for field in FIELDS}
  for field, own_name in (fields or {}).items():
    if field not in names:
      raise UserError(
        f'There is no field {field!r}; fields are {", ".join(FIELDS)}.'
      )
    names[field] = own_name
  problems: list[Problem] = []
  rows: dict[str, list[Row]] = {}
  definitions: dict[str, str] = {}
  ids: dict[tuple[str, str], int] = {}
  name = name or pathlib.Path(path).name.split('.')[0]
  for number, item in _items(path, problems, most):
    if strip:
      item = {field: _stripped(value) for field, value in item.items()}
    try:
      row, task, definition = _row(item, names)
      task = task or name
      _check_id(item.get(names['id']), task, number, ids)
      if definitions.setdefault(task, definition) != definition:
        raise _Wrong(
          f'{names["definition"]!r} differs from that of the first row of task '
          f'{task!r}: give every row of a task the same'
        )
    except _Wrong as error:
      problems.append(Problem(path, number, f'{error}.'))
    else:
      rows.setdefault(task, []).append(row)
  if not rows and not problems:
    problems.append(Problem(path, 1, 'no rows: write one example per line.'))
  tasks = {
    task: RowTask(task_rows, definition=definitions[task])
    for task, task_rows in rows.items()
  }
  return tasks, sorted(problems, key=lambda problem: problem.line)


class _Wrong(Exception):
  """Raised for a wrong row; the message says what is wrong with it."""


def _items(
  path: str, problems: list[Problem], most: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the rows that can be parsed, each with its number."""
  if record_files.is_record_file(path):
    return record_files.read(path, most)
  lines = _lines(path, problems)
  if path.removesuffix('.gz').endswith('.tsv'):
    return _tsv(path, lines, problems)
  if _is_list(path, lines):
    return _json(path, lines, problems)
  return _jsonl(path, lines, problems)


def _lines(path: str, problems: list[Problem]) -> list[tuple[int, str]]:
  """The lines that are not blank, each with its number."""
  try:
    data = pathlib.Path(path).expanduser().read_bytes()
    if path.endswith('.gz'):
      data = gzip.decompress(data)
  except (FileNotFoundError, IsADirectoryError) as error:
    raise UserError(f'{path}: no such file.') from error
  except (OSError, EOFError) as error:
    raise UserError(f'{path}: cannot be read ({error}).') from error
  numbered_lines = []
  for number, line in enumerate(data.split(b'\n'), start=1):
    try:
      text = line.decode('utf-8').rstrip('\r')
    except UnicodeDecodeError as error:
      problems.append(
        Problem(path, number, f'not UTF-8 at byte {error.start}; convert it.')
      )
      continue
    if text.strip():
      numbered_lines.append((number, text))
  return numbered_lines


def _jsonl(
  path: str, lines: Sequence[tuple[int, str]], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in lines:
    try:
      item = json.loads(line)
    except json.JSONDecodeError as error:
      problems.append(
        Problem(path, number, f'not JSON ({error.msg}, column {error.colno}).')
      )
      continue
    if isinstance(item, dict):
      yield number, item
    else:
      problems.append(Problem(path, number, 'not an object: write {...}.'))


def _is_list(path: str, lines: Sequence[tuple[int, str]]) -> bool:
  """Whether a `.json` file is one list; it may also be a file of JSON lines."""
  is_json = path.removesuffix('.gz').endswith('.json')
  return is_json and bool(lines) and lines[0][1].lstrip().startswith('[')


def _json(
  path: str, lines: Sequence[tuple[int, str]], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
  if problems:  # lines that are not UTF-8 are missing, so it cannot be parsed
    return
  try:
    items = json.loads('\n'.join(line for _, line in lines))
  except json.JSONDecodeError as error:
    raise UserError(f'{path}: not JSON ({error}).') from error
  for number, item in enumerate(items, start=1):
    if isinstance(item, dict):
      yield number, item
    else:
      problems.append(Problem(path, number, 'not an object: write {...}.'))


def _tsv(
  path: str, lines: Sequence[tuple[int, str]], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
  table = csv.reader(
    (line for _, line in lines), delimiter='\t', quoting=csv.QUOTE_NONE
  )
  header: list[str] = []
  for (number, _), cells in zip(lines, table, strict=True):
    if not header:
      header = cells
    elif len(cells) != len(header):
      problems.append(
        Problem(
          path,
          number,
          f'{len(cells)} columns, but the header has {len(header)}.',
        )
      )
    else:
      yield number, dict(zip(header, cells, strict=True))


def _row(
  item: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[Row, str, str]:
  """A row, the name of its task and the task's definition."""
  for field in ('inputs', 'targets'):
    if item.get(names[field]) is None:
      raise _Wrong(
        f'no field {names[field]!r}; the row has {", ".join(map(repr, item))}'
      )
  texts = {field: _text(item, names[field]) for field in _TEXTS}
  lists = {field: _list(item, names[field]) for field in _LISTS}
  for field in ('inputs', 'targets'):
    if not texts[field].strip():
      raise _Wrong(f'{names[field]!r} is empty')
  options = lists['options']
  if options:
    name = names['options']
    if len(options) < 2:
      raise _Wrong(f'{name!r} has one option: give two or more')
    if len(set(options)) != len(options):
      raise _Wrong(f'{name!r} has an option twice: {options}')
    if texts['targets'] not in options:
      raise _Wrong(
        f'{names["targets"]!r} {texts["targets"]!r} is not one of {name!r} '
        f'{options}'
      )
  row = Row(texts['inputs'], texts['targets'], options, lists['references'])
  return row, texts['task'], texts['definition']


def _stripped(value: Any) -> Any:
  if isinstance(value, str):
    return value.strip()
  return [_stripped(x) for x in value] if isinstance(value, list) else value


def _text(item: Mapping[str, Any], name: str) -> str:
  value = item.get(name)
  if value is None:
    return ''
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    return str(value)  # in many files, ids and sums are numbers
  if not isinstance(value, str):
    raise _Wrong(f'{name!r} must be a string, not {json.dumps(value)[:40]}')
  return value


def _list(item: Mapping[str, Any], name: str) -> tuple[str, ...]:
  value = item.get(name)
  if isinstance(value, str):  # a cell of a TSV file
    try:
      value = json.loads(value) if value.strip() else []
    except json.JSONDecodeError as error:
      raise _Wrong(f'{name!r} must be a JSON list of strings') from error
  if value is None:
    return ()
  if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
    raise _Wrong(f'{name!r} must be a list of strings')
  return tuple(value)


def _check_id(
  row_id: Any, task: str, number: int, ids: dict[tuple[str, str], int]
) -> None:
  if row_id in (None, ''):
    return
  first = ids.setdefault((task, str(row_id)), number)
  if first != number:
    raise _Wrong(f'id {row_id!r} is that of line {first} already')
