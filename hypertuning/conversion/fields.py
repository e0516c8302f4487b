"""Reads the fields of a model's configuration; errors name file and field."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hypertuning.errors import UserError

_MOST = 2**31 - 1  # as `ranges.Count` allows


class Fields:
  """The fields of a `config.json`, or of a part of it.

  A field that is null counts as missing.

  Attributes:
    values: the fields by their names.
    place: what error messages begin with, such as the path of the file.
  """

  def __init__(self, values: Mapping[str, Any], place: str) -> None:
    """Wraps the fields that a file holds."""
    self.values = values
    self.place = place

  def text(self) -> str:
    """The fields as the text of a `config.json`."""
    return json.dumps(dict(self.values), indent=2) + '\n'

  def get(self, name: str, default: Any = None) -> Any:
    """The value of a field, or `default` if the field is missing."""
    value = self.values.get(name)
    return default if value is None else value

  def count(self, name: str, default: int | None = None) -> int:
    """A field that is a positive whole number.

    Args:
      name: name of the field.
      default: value of a missing field; None if it must be there.

    Raises:
      UserError: the field is missing or something else.
    """
    value = self._required(name, default)
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= _MOST:
      raise self.refuse(name, 'must be a positive whole number')
    return value

  def number(self, name: str, default: float | None = None) -> float:
    """A field that is a positive number, see `count`."""
    value = self._required(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (math.isfinite(value) and value > 0):
      raise self.refuse(name, 'must be a positive number')
    return float(value)

  def float32(self, name: str, default: float | None = None) -> float:
    """A positive float32, with the fewest digits that tell it apart.

    Args:
      name: name of the field.
      default: value of a missing field; None if it must be there.

    Raises:
      UserError: the field is missing or something else.
    """
    return float(str(np.float32(self.number(name, default))))

  def part(self, name: str) -> 'Fields':
    """The fields of a field that is a mapping; none if it is missing.

    Raises:
      UserError: the field is something else.
    """
    value = self.get(name, {})
    if not isinstance(value, Mapping):
      raise self.refuse(name, 'must be a mapping')
    return Fields(value, f'{self.place}: {name}')

  def expect(self, name: str, allowed: Any, default: Any) -> None:
    """Refuses a field that has another value than the one that is read.

    Args:
      name: name of the field.
      allowed: the only value that is read.
      default: value of a missing field.

    Raises:
      UserError: the field has another value.
    """
    if self.get(name, default) != allowed:
      raise self.refuse(name, f'only {allowed!r} is read', default)

  def refuse(self, name: str, reason: str, default: Any = None) -> UserError:
    """The error about the value of a field."""
    return UserError(
      f'{self.place}: {name} = {self.get(name, default)!r}: {reason}.'
    )

  def missing(self, name: str) -> UserError:
    """The error about a field that must be there."""
    return UserError(f'{self.place}: has no field {name!r}.')

  def _required(self, name: str, default: Any) -> Any:
    value = self.get(name, default)
    if value is None:
      raise self.missing(name)
    return value
