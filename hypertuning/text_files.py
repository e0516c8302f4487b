"""Reads text files that people and their tools wrote; the only place that does.

Spreadsheets, shells and other languages' JSON writers leave byte order marks,
UTF-16, carriage returns, NaN, integers of any length and keys that come twice.
Text that has only one possible meaning is read with that meaning. All other
text is an error of one line that names the file and the place.
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
  # Before UTF-16: its mark is the beginning of this one.
  (codecs.BOM_UTF32_LE, 'utf-32-le'),
  (codecs.BOM_UTF32_BE, 'utf-32-be'),
  (codecs.BOM_UTF16_LE, 'utf-16-le'),
  (codecs.BOM_UTF16_BE, 'utf-16-be'),
)
_GZIP = b'\x1f\x8b'
# The first bytes of other kinds of files, which are often taken for text.
_OTHER_KINDS = {
  b'PK\x03\x04': 'a zip archive or a spreadsheet',
  b'PAR1\x15': 'a parquet file',
  b'\x28\xb5\x2f\xfd': 'compressed by zstd',
  b'\xfd7zXZ\x00': 'compressed by xz',
}
Report = Callable[[int, str], None]


class MalformedError(ValueError):
  """Raised for a malformed text or value.

  The message is a phrase, before which the caller puts the name of the file,
  the line or the field.
  """


def read_bytes(
  path: str | os.PathLike, missing: str = 'no such file.'
) -> bytes:
  """The content of a file, which is unpacked if it is gzipped.

  Args:
    path: path of the file, local or remote; `~` is the home folder.
    missing: error message, after the path, if the file does not exist.

  Raises:
    UserError: the file does not exist, cannot be read or is damaged.
  """
  try:
    data = epath.Path(path).expanduser().read_bytes()
    if data.startswith(_GZIP) or str(path).endswith('.gz'):
      data = gzip.decompress(data)
    return data
  except IsADirectoryError as error:
    raise UserError(f'{path}: is a folder, {missing}') from error
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f'{path}: {missing}') from error
  except Exception as error:  # the library of each kind of bucket has its own
    reason = ' '.join(str(error).split())
    raise UserError(f'{path}: cannot be read ({reason}).') from error


def read_text(path: str | os.PathLike, missing: str = 'no such file.') -> str:
  """The text of a file, without a byte order mark.

  Args:
    path: path of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order
      mark.
    missing: see `read_bytes`.

  Raises:
    UserError: see `read_bytes`; or the file is not text.
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
  """Opens a text file in the form that gin's parser needs: it has a `name`.

  Args:
    path: path of the file, see `read_text`.

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
  """Yields the lines of a file that are not blank, without line breaks.

  A line ends with a line feed, or with a carriage return and a line feed. In a
  file without line feeds, it ends with a carriage return.

  Args:
    path: see `read_text`.
    missing: see `read_bytes`.
    report: function that is called with the number of each line that is not
      UTF-8, and with the error message; None raises an error instead.

  Yields:
    The number of each line, counted from 1, and its text.

  Raises:
    UserError: see `read_text`; or, without `report`, a line is not UTF-8.
  """
  data = _utf8(path, missing)
  end = b'\r' if b'\n' not in data else b'\n'
  for number, line in enumerate(data.split(end), start=1):
    line = line.removeprefix(codecs.BOM_UTF8)  # if marked files were joined
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

  NaN and infinities are floats, as in Python. An integer with more digits than
  Python converts becomes a string of its digits.

  Raises:
    MalformedError: the text is not JSON, it is nested too deeply, or an object
      has two different values for a key.
  """
  try:
    try:
      return json.loads(text, object_pairs_hook=_object)
    except (json.JSONDecodeError, MalformedError):
      raise
    except ValueError:  # an integer with too many digits
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
    UserError: see `read_text`; or the file is not one JSON object.
  """
  try:
    return parse_object(read_text(path, missing))
  except MalformedError as error:
    raise UserError(f'{path}: {error}.') from error


def json_lines(
  path: str | os.PathLike, report: Report | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the objects of a file of JSON lines.

  Args:
    path: see `read_text`.
    report: function that is called with the number of each line that is not a
      JSON object, and with the error message; None raises an error instead.

  Yields:
    The number of each line, counted from 1, and its object.

  Raises:
    UserError: see `read_text`; or, without `report`, a line is not a JSON
      object; the message names the line.
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
    MalformedError: see `parse_json`; or the value is not an object.
  """
  value = parse_json(text)
  if not isinstance(value, dict):
    raise MalformedError('not an object: write {...}')
  return value


def _utf8(path: str | os.PathLike, missing: str) -> bytes:
  """The content of a text file in UTF-8, without a byte order mark."""
  data = read_bytes(path, missing)
  for first_bytes, kind in _OTHER_KINDS.items():
    if data.startswith(first_bytes):
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
