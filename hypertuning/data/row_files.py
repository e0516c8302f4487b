"""Reads rows from a file: JSONL, JSON or TSV (also gzipped), or a binary file.

    {"inputs": "2 + 2", "targets": "4"}
    {"inputs": "Is it true?", "targets": "yes", "options": ["yes", "no"]}

Optional fields are `options` (for rank classification), `references` (further
right answers), `definition` (the same in all rows of a task), `task` (for a
file with several tasks) and `id`. A TSV file has a header, and its options and
references are JSON lists. A JSON file is a list of objects like those above.
Binary files are those of `record_files`. A problem in a JSON or binary file is
named by the number of the row, in others by the line. `text_files` says how
text is decoded; NaN, as pandas writes it, is a field that is missing.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hypertuning import text_files
from hypertuning.data import record_files, texts
from hypertuning.data.rows import Row, RowTask
from hypertuning.errors import UserError
from hypertuning.text_files import MalformedError

_TEXTS = ('inputs', 'targets', 'definition', 'task', 'id')
_LISTS = ('options', 'references')
FIELDS = (*_TEXTS, *_LISTS)
_MOST_SHOWN = 3
_LONGEST = 300  # characters of a message: cells may have millions


@dataclasses.dataclass(frozen=True)
class Problem:
  """One fault of a file.

  Attributes:
    path: the file.
    line: number of the line or row, from 1.
    text: what is wrong, and what to do.
  """

  path: str
  line: int
  text: str

  def __str__(self) -> str:
    text = self.text
    if len(text) > _LONGEST:
      text = f'{text[:_LONGEST]} ...'
    return f'{self.path}:{self.line}: {text}'


def read(
  path: str,
  fields: Mapping[str, str] | None = None,
  strip: bool = False,
  name: str | None = None,
  most: int | None = None,
) -> dict[str, RowTask]:
  """The tasks of a file.

  Args:
    path: a file ending in `.jsonl`, `.json` or `.tsv`, with or without `.gz`,
      or a binary file of `record_files`.
    fields: those of `FIELDS` that have another name in the file, to that name.
    strip: whether to remove white space around texts, options and references.
    name: name of the task of rows that have no field `task`; by default the
      name of the file.
    most: greatest number of rows to read from a binary file.

  Returns:
    Name of each task to the task.

  Raises:
    UserError: a row is wrong; names the file and its first wrong lines.
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
  """The tasks of a file, and every fault of the file.

  Args:
    path: as in `read`.
    fields: as in `read`.
    strip: as in `read`.
    name: as in `read`.
    most: as in `read`.

  Returns:
    The tasks made of the rows that are right, and one problem per row that is
    wrong.

  Raises:
    UserError: the file cannot be read at all, or a name of `fields` is unknown.
  """
  names = {field: field for field in FIELDS}
  for field, called in (fields or {}).items():
    if field not in names:
      raise UserError(
        f'There is no field {field!r}; fields are {", ".join(FIELDS)}.'
      )
    names[field] = called
  problems: list[Problem] = []
  rows: dict[str, list[Row]] = {}
  definitions: dict[str, str] = {}
  ids: dict[tuple[str, str], int] = {}
  name = name or pathlib.Path(path).name.split('.')[0]
  for number, item in _items(path, problems, most):
    item = {
      field: value
      for field, value in item.items()
      if field in (names['inputs'], names['targets'])
      or not texts.is_missing(value)
    }
    if strip:
      item = {field: _stripped(value) for field, value in item.items()}
    try:
      row, task, definition = _row(item, names)
      task = task or name
      _once(item.get(names['id']), task, number, ids)
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
    problems.append(Problem(path, 1, 'no rows: write one example a line.'))
  tasks = {
    task: RowTask(found, definition=definitions[task])
    for task, found in rows.items()
  }
  return tasks, sorted(problems, key=lambda problem: problem.line)


class _Wrong(Exception):
  """A row is wrong; the text says how."""


def _items(
  path: str, problems: list[Problem], most: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """The rows that can be parsed, each with its number."""
  if record_files.is_record_file(path):
    return record_files.read(path, most)
  lines = list(
    text_files.lines(
      path,
      report=lambda number, reason: problems.append(
        Problem(path, number, reason)
      ),
    )
  )
  if path.removesuffix('.gz').endswith('.tsv'):
    return _tsv(path, lines, problems)
  if (items := _list_of_rows(path, lines)) is not None:
    if problems:  # not UTF-8
      return iter(())
    return _objects(path, enumerate(items, start=1), problems)
  return _objects(path, _parsed(path, lines, problems), problems)


def _parsed(
  path: str, lines: Sequence[tuple[int, str]], problems: list[Problem]
) -> Iterator[tuple[int, Any]]:
  for number, line in lines:
    try:
      yield number, text_files.parse_json(line)
    except MalformedError as error:
      problems.append(Problem(path, number, f'{error}.'))


def _list_of_rows(
  path: str, lines: Sequence[tuple[int, str]]
) -> list[Any] | None:
  """The rows of a file that is one list; None if it has lines of rows."""
  if not lines or not lines[0][1].lstrip().startswith('['):
    return None
  try:
    return text_files.parse_json('\n'.join(line for _, line in lines))
  except MalformedError as error:
    if path.removesuffix('.gz').endswith('.json'):
      raise UserError(f'{path}: {error}.') from error
    return None


def _objects(
  path: str, items: Iterable[tuple[int, Any]], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, item in items:
    if isinstance(item, dict):
      yield number, item
    else:
      problems.append(Problem(path, number, 'not an object: write {...}.'))


def _tsv(
  path: str, lines: Sequence[tuple[int, str]], problems: list[Problem]
) -> Iterator[tuple[int, dict[str, Any]]]:
  header: list[str] = []
  for number, line in lines:
    cells = line.split('\t')
    if not header:
      header = cells
      for name in {name for name in header if name}:
        if header.count(name) > 1:
          problems.append(
            Problem(path, number, f'the header has {name!r} twice.')
          )
          return
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
  if isinstance(value, list):
    return [x.strip() if isinstance(x, str) else x for x in value]
  return value.strip() if isinstance(value, str) else value


def _text(item: Mapping[str, Any], name: str) -> str:
  try:
    return '' if item.get(name) is None else texts.text(item[name])
  except MalformedError as error:
    raise _Wrong(f'{name!r} {error}') from error


def _list(item: Mapping[str, Any], name: str) -> tuple[str, ...]:
  value = item.get(name)
  if isinstance(value, str):  # a cell of a TSV file
    try:
      value = text_files.parse_json(value) if value.strip() else []
    except MalformedError as error:
      raise _Wrong(f'{name!r} must be a JSON list of strings') from error
  if value is None:
    return ()
  if not isinstance(value, list) or not all(
    isinstance(x, str | bytes) for x in value
  ):
    raise _Wrong(f'{name!r} must be a list of strings')
  try:
    return tuple(texts.text(x) for x in value)
  except MalformedError as error:
    raise _Wrong(f'{name!r} {error}') from error


def _once(
  row_id: Any, task: str, number: int, ids: dict[tuple[str, str], int]
) -> None:
  if row_id in (None, ''):
    return
  first = ids.setdefault((task, str(row_id)), number)
  if first != number:
    raise _Wrong(f'id {row_id!r} is that of line {first} already')
