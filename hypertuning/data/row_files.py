"""Reads the rows of a file: JSONL, JSON or TSV (maybe gzipped), or binary.

    {"inputs": "2 + 2", "targets": "4"}
    {"inputs": "Is it true?", "targets": "yes", "options": ["yes", "no"]}

Optional fields are `options` (for rank classification), `references` (further
right answers), `definition` (the same in all rows of a task), `task` (for a
file with several tasks) and `id`. A TSV file has a header, and its options and
references are JSON lists. A JSON file is a list of objects like those above.
Binary files are those that `record_files` reads. Error messages give the number
of a row in a JSON or binary file, and the number of a line in other files.
`text_files` decodes text; NaN, as pandas writes it, is a field that is missing.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hypertuning import text_files
from hypertuning.data import record_files, texts
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import Row, RowTask, distinct
from hypertuning.errors import UserError
from hypertuning.text_files import MalformedError

_TEXTS = ('inputs', 'targets', 'definition', 'task', 'id')
_LISTS = ('options', 'references')
FIELDS = (*_TEXTS, *_LISTS)
_MOST_SHOWN = 3
_LONGEST = 300  # characters of a message: cells may have millions


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
  odd: Oddities | None = None,
  need_options: bool = False,
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
    odd: counts the wrong rows of a benchmark as it is published, which are
      left out, and those with an option twice or an empty one, of which the
      options that differ are kept. None refuses such a file.
    need_options: whether every row of a task must have options if one has.

  Returns:
    A dict from the name of each task to the task.

  Raises:
    UserError: a row is wrong, or with `odd` all are; names the file and its
      first wrong lines.
  """
  mended: list[Problem] = []
  tasks, problems = check(
    path,
    fields,
    strip,
    name,
    most,
    need_options,
    mended=None if odd is None else mended,
  )
  if odd is not None and tasks:
    for kind, faults in (('rows left out', problems), ('rows mended', mended)):
      if faults:
        odd.add(kind, faults[0], len(faults))
  elif problems:
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
  need_options: bool = False,
  mended: list[Problem] | None = None,
) -> tuple[dict[str, RowTask], list[Problem]]:
  """Reads the tasks in a file, and finds all of its faults.

  Args:
    path: path of the file, see `read`.
    fields: names that fields have in the file, see `read`.
    strip: whether to remove white space, see `read`.
    name: name of the task of rows that name none, see `read`.
    most: greatest number of rows from a binary file, see `read`.
    need_options: whether all rows of a task need options, see `read`.
    mended: list that gets what is wrong with rows whose options are mended;
      with None they are wrong.

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
  places: dict[str, list[int]] = {}
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
      row, task, definition, remark = _row(item, names, mended is not None)
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
      places.setdefault(task, []).append(number)
      if remark and mended is not None:
        mended.append(Problem(path, number, f'{remark}.'))
  if need_options:
    problems += _without_options(path, rows, places, names['options'])
  if not rows and not problems:
    problems.append(Problem(path, 1, 'no rows: write one example per line.'))
  tasks = {
    task: RowTask(task_rows, definition=definitions[task])
    for task, task_rows in rows.items()
  }
  return tasks, sorted(problems, key=lambda problem: problem.line)


def _without_options(
  path: str,
  rows: Mapping[str, list[Row]],
  places: Mapping[str, Sequence[int]],
  name: str,
) -> list[Problem]:
  """Takes out rows without options of tasks that have some; names each row."""
  problems = []
  for task, task_rows in rows.items():
    if not any(row.options for row in task_rows):
      continue
    problems += [
      Problem(
        path,
        number,
        f'no {name!r}, which other rows of task {task!r} have: give them to '
        'all rows of a task or to none.',
      )
      for row, number in zip(task_rows, places[task], strict=True)
      if not row.options
    ]
    task_rows[:] = [row for row in task_rows if row.options]
  return problems


class _Wrong(Exception):
  """Raised for a wrong row; the message says what is wrong with it."""


def _items(
  path: str, problems: list[Problem], most: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the rows that can be parsed, each with its number."""
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
  item: Mapping[str, Any], names: Mapping[str, str], mend: bool
) -> tuple[Row, str, str, str]:
  """A row, its task's name and definition, and what was mended."""
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
  options, remark = lists['options'], ''
  if options:
    name = names['options']
    if not all(option.strip() for option in options):
      remark = f'{name!r} has an empty option: {options}'
    elif len(set(options)) != len(options) > 1:
      remark = f'{name!r} has an option twice: {options}'
    if remark and not mend:
      raise _Wrong(remark)
    options = distinct(options)
    if len(options) < 2:
      raise _Wrong(f'{name!r} has one option: give two or more')
    if texts['targets'] not in options:
      raise _Wrong(
        f'{names["targets"]!r} {texts["targets"]!r} is not one of {name!r} '
        f'{options}'
      )
  row = Row(texts['inputs'], texts['targets'], options, lists['references'])
  return row, texts['task'], texts['definition'], remark


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


def _check_id(
  row_id: Any, task: str, number: int, ids: dict[tuple[str, str], int]
) -> None:
  if row_id in (None, ''):
    return
  first = ids.setdefault((task, str(row_id)), number)
  if first != number:
    raise _Wrong(f'id {row_id!r} is that of line {first} already')
