"""Reads text that people and their tools wrote; the one place that does.

Spreadsheets, shells and other languages' JSON writers leave byte order marks,
UTF-16, carriage returns, NaN, integers of any length and keys that come twice.
What can be meant in one way only is read in that way. The rest is one line that
names the file and the place.
"""

import codecs
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from hypertuning.errors import UserError

_MARKS = (
  (codecs.BOM_UTF8, 'utf-8'),
  (
    codecs.BOM_UTF32_LE,
    'utf-32-le',
  ),  # before UTF-16, whose mark it begins with
  (codecs.BOM_UTF32_BE, 'utf-32-be'),
  (codecs.BOM_UTF16_LE, 'utf-16-le'),
  (codecs.BOM_UTF16_BE, 'utf-16-be'),
)
_GZIP = b'\x1f\x8b'
# Files that are often given a text's name.
_NO_TEXTS = {
  b'PK\x03\x04': 'a zip archive or a spreadsheet',
  b'PAR1\x15': 'a parquet file',
  b'\x28\xb5\x2f\xfd': 'compressed by zstd',
  b'\xfd7zXZ\x00': 'compressed by xz',
}
Report = Callable[[int, str], None]


class MalformedError(ValueError):
  """A text or value is not what it should be; the message is a phrase.

  The caller knows the file, the line or the field, and puts it before.
  """


def read_bytes(
  path: str | os.PathLike, missing: str = 'no such file.'
) -> bytes:
  """The content of a file, unpacked if it is gzipped, whatever its name.

  Args:
    path: path of the file, local or remote; `~` is the home folder.
    missing: what to say of a file that does not exist.

  Raises:
    UserError: the file does not exist, cannot be read or is damaged.
  """
  try:
    data = epath.Path(path).expanduser().read_bytes()
    if data.startswith(_GZIP) or str(path).endswith('.gz'):
      data = gzip.decompress(data)
    return data
  except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
    raise UserError(f'{path}: {missing}') from error
  except Exception as error:  # the library of each kind of bucket has its own
    reason = ' '.join(str(error).split())
    raise UserError(f'{path}: cannot be read ({reason}).') from error


def read_text(path: str | os.PathLike, missing: str = 'no such file.') -> str:
  """The text of a file, without a byte order mark.

  Args:
    path: a file in UTF-8, or one whose mark says UTF-16 or UTF-32.
    missing: see `read_bytes`.

  Raises:
    UserError: see `read_bytes`; or the file is no text.
  """
  data = _utf8(path, missing)
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    line = data.count(b'\n', 0, error.start) + 1
    raise UserError(
      f'{path}: not UTF-8 at byte {error.start} (line {line}); convert it.'
    ) from error


def open_text(path: str | os.PathLike) -> io.StringIO:
  """A file of text as gin's parser takes it, which asks for its name.

  Raises:
    UserError: see `read_text`.
  """
  file = io.StringIO(read_text(path), newline=None)
  file.name = os.fspath(path)
  return file


def lines(
  path: str | os.PathLike,
  missing: str = 'no such file.',
  report: Report | None = None,
) -> Iterator[tuple[int, str]]:
  """The lines of a file that are not blank, without their ends.

  A line ends with a line feed, and a carriage return before it is dropped. If
  the file has no line feed, carriage returns end its lines.

  Args:
    path: see `read_text`.
    missing: see `read_bytes`.
    report: called with the number of each line that is not UTF-8 and what is
      wrong with it; None raises.

  Yields:
    The number of each line, from 1, and its text.

  Raises:
    UserError: see `read_text`.
  """
  data = _utf8(path, missing)
  end = b'\r' if b'\n' not in data else b'\n'
  for number, line in enumerate(data.split(end), start=1):
    line = line.removeprefix(codecs.BOM_UTF8)  # of files that were joined
    try:
      text = line.decode().rstrip('\r')
    except UnicodeDecodeError as error:
      reason = f'not UTF-8 at byte {error.start}; convert it.'
      if report is None:
        raise UserError(f'{path}:{number}: {reason}') from error
      report(number, reason)
      continue
    if text.strip():
      yield number, text


def parse_json(text: str) -> Any:
  """The value of a JSON text.

  NaN and infinities are floats, as in Python. An integer that is too long for
  Python's is a string of its digits.

  Raises:
    MalformedError: the text is not JSON, or is nested too deeply, or an object
      has two values for a key.
  """
  try:
    try:
      return json.loads(text, object_pairs_hook=_object)
    except (json.JSONDecodeError, MalformedError):
      raise
    except ValueError:  # a long integer
      return json.loads(text, object_pairs_hook=_object, parse_int=_integer)
  except json.JSONDecodeError as error:
    if '\0' in text:
      reason = 'NUL bytes: it was cut off in writing, or is UTF-16 without mark'
    elif text.count('\n', 0, error.pos):
      reason = f'{error.msg}, line {error.lineno} column {error.colno}'
    else:
      reason = f'{error.msg}, column {error.colno}'
    raise MalformedError(f'not JSON ({reason})') from error
  except RecursionError as error:
    raise MalformedError('nested too deeply') from error


def read_json(
  path: str | os.PathLike, missing: str = 'no such file.'
) -> dict[str, Any]:
  """The object of a JSON file.

  Args:
    path: see `read_text`.
    missing: see `read_bytes`.

  Raises:
    UserError: see `read_text` and `parse_json`; or the file is no object.
  """
  try:
    return parse_object(read_text(path, missing))
  except MalformedError as error:
    raise UserError(f'{path}: {error}.') from error


def json_lines(
  path: str | os.PathLike, report: Report | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """The objects of a file of JSON lines, each with the number of its line.

  Args:
    path: see `read_text`.
    report: called with the number of each line that is no object and what is
      wrong with it; None raises.

  Raises:
    UserError: see `read_text`; or a line is no object, and the message names
      it.
  """
  for number, line in lines(path, report=report):
    try:
      yield number, parse_object(line)
    except MalformedError as error:
      if report is None:
        raise UserError(f'{path}:{number}: {error}.') from error
      report(number, f'{error}.')


def parse_object(text: str) -> dict[str, Any]:
  """The JSON object of a text.

  Raises:
    MalformedError: see `parse_json`; or the value is no object.
  """
  value = parse_json(text)
  if not isinstance(value, dict):
    raise MalformedError('not an object: write {...}')
  return value


def _utf8(path: str | os.PathLike, missing: str) -> bytes:
  """The content of a file of text, in UTF-8 and without a mark."""
  data = read_bytes(path, missing)
  for start, kind in _NO_TEXTS.items():
    if data.startswith(start):
      raise UserError(f'{path}: this is {kind}, and not text.')
  for mark, encoding in _MARKS:
    if data.startswith(mark):
      data = data.removeprefix(mark)
      if encoding == 'utf-8':
        break
      try:
        return data.decode(encoding).encode()
      except UnicodeDecodeError as error:
        raise UserError(
          f'{path}: not UTF-8 at byte 0, nor at byte {error.start + len(mark)} '
          f'the {encoding[:6].upper()} that it starts as; convert it.'
        ) from error
  return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  members = dict(pairs)
  if len(members) < len(pairs):
    for key, value in pairs:
      if value != members[key]:
        raise MalformedError(f'not JSON (two values for the key {key[:40]!r})')
  return members


def _integer(digits: str) -> int | str:
  try:
    return int(digits)
  except ValueError:  # more digits than `sys.get_int_max_str_digits()`
    return digits
