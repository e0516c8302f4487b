"""Values of rows as the texts that are meant."""

import decimal
import math
import reprlib
from typing import Any

from hypertuning.text_files import MalformedError

_DEEPEST = 50  # levels of lists and objects in a raw row


def text(value: Any) -> str:
  """A value as a text: a string, UTF-8, or a number as Python writes it.

  Raises:
    MalformedError: it is something else. The message follows the name of the
      field.
  """
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError as error:
      raise MalformedError(f'is not UTF-8 at byte {error.start}') from error
  if isinstance(value, str):
    return _whole(value)
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
  return str(value)  # ids and sums are numbers in many files


def is_missing(value: Any) -> bool:
  """Whether a value stands for none: None, or NaN as pandas writes it."""
  if isinstance(value, (float, decimal.Decimal)):
    return math.isnan(value)
  return value is None


def plain(value: Any, depth: int = 0) -> Any:
  """A value of a raw row with texts for bytes, without halves of characters.

  Args:
    value: what a JSON object, a NumPy array or scalar may hold, nested or not.
    depth: level of the value in its row.

  Raises:
    MalformedError: see `text`; or the value is nested too deeply.
  """
  if depth > _DEEPEST:
    raise MalformedError('is nested too deeply')
  if isinstance(value, (bytes, str)):
    return text(value)
  if isinstance(value, dict):
    return {name: plain(x, depth + 1) for name, x in value.items()}
  if hasattr(value, 'tolist'):  # NumPy's
    value = value.tolist()
  if isinstance(value, list):
    return [plain(x, depth + 1) for x in value]
  return value


def _whole(value: str) -> str:
  """A string whose pairs of surrogates are joined to characters."""
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
