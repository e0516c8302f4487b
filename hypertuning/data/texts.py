"""Converts the values of rows to text."""

import decimal
import math
import reprlib
from typing import Any

from hypertuning.text_files import MalformedError

_DEEPEST = 50  # levels of lists and objects in a raw row


def text(value: Any) -> str:
  """Converts a value to text.

  Args:
    value: a string, bytes in UTF-8, or a finite number, which becomes the text
      that Python prints for it.

  Raises:
    MalformedError: the value is something else. The message continues a
      sentence that begins with the name of the field.
  """
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError as error:
      raise MalformedError(f'is not UTF-8 at byte {error.start}') from error
  if isinstance(value, str):
    return _joined_surrogates(value)
  if isinstance(value, bool) or not isinstance(
    value, (int, float, decimal.Decimal)
  ):
    raise MalformedError(f'must be a string, not {reprlib.repr(value)}')
  if is_missing(value):
    raise MalformedError(
      'is not a text or a number (NaN stands for what is missing)'
    )
  if not math.isfinite(value):
    raise MalformedError(f'is not a text or a number, but {value}')
  return str(value)  # in many files, ids and sums are numbers


def is_missing(value: Any) -> bool:
  """Whether a value is None, or NaN, which pandas writes for a missing one."""
  if isinstance(value, (float, decimal.Decimal)):
    return math.isnan(value)
  return value is None


def plain_value(value: Any, depth: int = 0) -> Any:
  """Converts a value of a raw row to plain Python values.

  Bytes become strings, and NumPy's arrays and scalars lists and numbers.

  Args:
    value: a value as JSON or NumPy has it, nested or not.
    depth: number of lists and objects around the value in its row.

  Raises:
    MalformedError: see `text`; or the value is nested too deeply.
  """
  if depth > _DEEPEST:
    raise MalformedError('is nested too deeply')
  if isinstance(value, (bytes, str)):
    return text(value)
  if isinstance(value, dict):
    return {text(name): plain_value(x, depth + 1) for name, x in value.items()}
  if hasattr(value, 'tolist'):  # NumPy's
    value = value.tolist()
  if isinstance(value, list):
    return [plain_value(x, depth + 1) for x in value]
  return value


def _joined_surrogates(value: str) -> str:
  """A string in which each pair of surrogates is one character.

  Raises:
    MalformedError: a surrogate is alone.
  """
  try:
    value.encode()
    return value
  except UnicodeEncodeError:
    units = value.encode('utf-16-le', 'surrogatepass')
  try:
    return units.decode('utf-16-le')
  except UnicodeDecodeError as error:
    place = len(units[: error.start].decode('utf-16-le'))
    raise MalformedError(
      'holds half a character (a lone surrogate) at character '
      f'{place + 1}: write the whole one, or leave it out'
    ) from error
