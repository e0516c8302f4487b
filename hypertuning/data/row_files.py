"""Reads the rows of JSONL, JSON or TSV files (maybe gzipped), or binary files.

    {"inputs": "2 + 2", "targets": "4"}
    {"inputs": "Is it true?", "targets": "yes", "options": ["yes", "no"]}

Optional fields are `options` (for rank classification), `references` (further
right answers), `definition` (the same in all rows of a task), `task` (for a
file with several tasks) and `id`. A TSV file has a header, and its options and
references are JSON lists. A JSON file is a list of objects like those above.
Binary files are those that `record_files` reads. Error messages give the number
of a row in a JSON or binary file, and the number of a line in other files. NaN,
which pandas writes for a missing value, counts as a missing field.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hypertuning import text_files
from hypertuning.data import record_files, texts
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import Row, RowTask, distinct_options
from hypertuning.errors import UserError
from hypertuning.text_files import MalformedError

_TEXTS = ('inputs', 'targets', 'definition', 'task', 'id')
_LISTS = ('options', 'references')
FIELDS = (*_TEXTS, *_LISTS)
_MOST_SHOWN = 3
_LONGEST = 300  # characters of a message: a cell may have millions


@dataclasses.dataclass(frozen=True)
class Problem:
  """One fault in a file.

  Attributes:
    path: path of the file.
    line: number of the line or row, counted from 1.
    text: sentence that says what is wrong, and what the user can do.
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
  oddities: Oddities | None = None,
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
    oddities: counts rows with faults, for a published benchmark. Rows with an
      option twice or an empty option are mended: they keep each other option
      once. Rows with any other fault are left out. None refuses a file with
      such rows.
    need_options: whether all rows of a task must have options if one has them.

  Returns:
    A dict from the name of each task to the task.

  Raises:
    UserError: the file cannot be read, a row has a fault, or with `oddities`
      every row has one; the message names the file and the first such lines.
  """
  repairs: list[Problem] = []
  tasks, problems = check(
    path,
    fields,
    strip,
    name,
    most,
    need_options,
    repairs=None if oddities is None else repairs,
  )
  if oddities is not None and tasks:
    for kind, faults in (('rows left out', problems), ('rows mended', repairs)):
      if faults:
        oddities.add(kind, faults[0], len(faults))
  elif problems:
    lines = '\n'.join(str(problem) for problem in problems[:_MOST_SHOWN])
    remainder = len(problems) - _MOST_SHOWN
    ending = f'\n... and {remainder} more' if remainder > 0 else ''
    raise UserError(lines + ending)
  return tasks


def check(
  path: str,
  fields: Mapping[str, str] | None = None,
  strip: bool = False,
  name: str | None = None,
  most: int | None = None,
  need_options: bool = False,
  repairs: list[Problem] | None = None,
) -> tuple[dict[str, RowTask], list[Problem]]:
  """Reads the tasks in a file, and finds all of its faults.

  Args:
    path: path of the file, see `read`.
    fields: names that fields have in the file, see `read`.
    strip: whether to remove white space, see `read`.
    name: name of the task of rows that name none, see `read`.
    most: greatest number of rows from a binary file, see `read`.
    need_options: whether all rows of a task need options, see `read`.
    repairs: list to which one problem per row is added whose options are
      mended; None does not mend rows, so that they have a fault.

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
      item = {field: _strip(value) for field, value in item.items()}
    try:
      row, task, definition, remark = _row(item, names, repairs is not None)
      task = task or name
      _check_id(item.get(names['id']), task, number, ids)
      if definitions.setdefault(task, definition) != definition:
        raise _RowFault(
          f'{names["definition"]!r} differs from that of the first row of task '
          f'{task!r}: give every row of a task the same'
        )
    except _RowFault as error:
      problems.append(Problem(path, number, f'{error}.'))
    else:
      rows.setdefault(task, []).append(row)
      places.setdefault(task, []).append(number)
      if remark and repairs is not None:
        repairs.append(Problem(path, number, f'{remark}.'))
  if need_options:
    problems += _drop_rows_without_options(path, rows, places, names['options'])
  if not rows and not problems:
    problems.append(Problem(path, 1, 'no rows: write one example per line.'))
  tasks = {
    task: RowTask(task_rows, definition=definitions[task])
    for task, task_rows in rows.items()
  }
  return tasks, sorted(problems, key=lambda problem: problem.line)


def _drop_rows_without_options(
  path: str,
  rows: Mapping[str, list[Row]],
  places: Mapping[str, Sequence[int]],
  name: str,
) -> list[Problem]:
  """Removes rows without options from tasks in which other rows have options.

  Args:
    path: path of the file.
    rows: maps tasks to lists of rows, from which the rows are removed.
    places: maps tasks to the numbers of their rows in the file.
    name: name of the field of the options in the file.

  Returns:
    One problem per removed row.
  """
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


class _RowFault(Exception):
  """Raised for a row with a fault; the message says which."""


def _items(
  path: str, problems: list[Problem], most: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """The rows that can be parsed, each with its number; adds other problems."""
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
    if problems:  # lines that are not UTF-8 are missing in the list
      return iter(())
    return _objects(path, enumerate(items, start=1), problems)
  return _objects(path, _json_values(path, lines, problems), problems)


def _json_values(
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
  """Makes a row.

  Returns:
    The row, the name and the definition of its task, which are empty if the
    row has none, and a remark about what was mended, or ''.

  Raises:
    _RowFault: the row has a fault.
  """
  for field in ('inputs', 'targets'):
    if item.get(names[field]) is None:
      raise _RowFault(
        f'no field {names[field]!r}; the row has {", ".join(map(repr, item))}'
      )
  texts = {field: _text(item, names[field]) for field in _TEXTS}
  lists = {field: _list(item, names[field]) for field in _LISTS}
  for field in ('inputs', 'targets'):
    if not texts[field].strip():
      raise _RowFault(f'{names[field]!r} is empty')
  options, remark = lists['options'], ''
  if options:
    name = names['options']
    if not all(option.strip() for option in options):
      remark = f'{name!r} has an empty option: {options}'
    elif len(set(options)) != len(options) > 1:
      remark = f'{name!r} has an option twice: {options}'
    if remark and not mend:
      raise _RowFault(remark)
    options = distinct_options(options)
    if len(options) < 2:
      raise _RowFault(f'{name!r} has one option: give two or more')
    if texts['targets'] not in options:
      raise _RowFault(
        f'{names["targets"]!r} {texts["targets"]!r} is not one of {name!r} '
        f'{options}'
      )
  row = Row(texts['inputs'], texts['targets'], options, lists['references'])
  return row, texts['task'], texts['definition'], remark


def _strip(value: Any) -> Any:
  if isinstance(value, list):
    return [x.strip() if isinstance(x, str) else x for x in value]
  return value.strip() if isinstance(value, str) else value


def _text(item: Mapping[str, Any], name: str) -> str:
  try:
    return '' if item.get(name) is None else texts.text(item[name])
  except MalformedError as error:
    raise _RowFault(f'{name!r} {error}') from error


def _list(item: Mapping[str, Any], name: str) -> tuple[str, ...]:
  value = item.get(name)
  if isinstance(value, str):  # a cell of a TSV file
    try:
      value = text_files.parse_json(value) if value.strip() else []
    except MalformedError as error:
      raise _RowFault(f'{name!r} must be a JSON list of strings') from error
  if value is None:
    return ()
  if not isinstance(value, list) or not all(
    isinstance(x, str | bytes) for x in value
  ):
    raise _RowFault(f'{name!r} must be a list of strings')
  try:
    return tuple(texts.text(x) for x in value)
  except MalformedError as error:
    raise _RowFault(f'{name!r} {error}') from error


def _check_id(
  row_id: Any, task: str, number: int, ids: dict[tuple[str, str], int]
) -> None:
  if row_id in (None, ''):
    return
  first = ids.setdefault((task, str(row_id)), number)
  if first != number:
    raise _RowFault(f'id {row_id!r} is that of line {first} already')
