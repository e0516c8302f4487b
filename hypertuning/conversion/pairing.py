"""Finds the array of a file for each variable of a model, and checks both."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hypertuning.conversion.family import Family, Variable
from hypertuning.conversion.sources import Source
from hypertuning.errors import UserError

_MOST_NAMES = 6
BLOCK_BYTES = 32 * 2**20


class Pair(NamedTuple):
  """A variable and the name of its array in the file."""

  variable: Variable
  name: str


def pair(
  source: Source, family: Family, variables: Sequence[Variable]
) -> list[Pair]:
  """The array of each variable.

  Args:
    source: the file.
    family: the model's family.
    variables: the variables of the model.

  Raises:
    UserError: an array is missing, has another shape, or is not read; lists
      names.
  """
  pairs = []
  missing = []
  for variable in variables:
    name = _stored_name(source, family, variable.name)
    if name is None:
      missing.append(variable.name)
    else:
      pairs.append(Pair(variable, name))
  own_names = {pair.name for pair in pairs}
  unread = [
    name
    for name in source.arrays
    if name not in own_names
    and not re.fullmatch(family.names.computed, name)
    and not _is_copy(source, family, name)
  ]
  faults = [
    f'{kind} {_listed(names)}'
    for kind, names in (('lacks', missing), ('has no use for', unread))
    if names
  ]
  if faults:
    raise UserError(
      f'{source.place}: a model of this configuration {" and ".join(faults)}.'
    )
  for variable, name in pairs:
    shape = source.arrays[name].shape
    if shape != variable.their_shape:
      raise UserError(
        f'{source.place}: {name} is {shape}, but by the configuration it is '
        f'{variable.their_shape}.'
      )
  return pairs


def _stored_name(source: Source, family: Family, name: str) -> str | None:
  """The name under which a file has a variable, maybe as a copy."""
  if name in source.arrays:
    return name
  same = [family.names.embedding, *family.names.copies]
  if not source.fields.get('tie_word_embeddings', False):
    same.remove(family.names.head)
  if name not in same:
    return None
  return next((x for x in same if x in source.arrays), None)


def _is_copy(source: Source, family: Family, name: str) -> bool:
  """Whether an array has the values of the embedding."""
  original = family.names.embedding
  arrays = source.arrays
  if name not in family.names.copies or arrays.get(original) != arrays[name]:
    return False
  step = rows_per_block(arrays[name].shape, arrays[name].dtype)
  with source.open(name) as own, source.open(original) as others:
    return all(
      np.array_equal(own[i : i + step], others[i : i + step])
      for i in range(0, arrays[name].shape[0], step)
    )


def rows_per_block(shape: Sequence[int], dtype: np.dtype) -> int:
  """The number of rows that are read at a time.

  Args:
    shape: shape of the array.
    dtype: dtype of the values that are read.
  """
  per_row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
  return min(shape[0], max(1, BLOCK_BYTES // per_row))


def _listed(names: Sequence[str]) -> str:
  more = len(names) - _MOST_NAMES
  text = ', '.join(names[:_MOST_NAMES])
  return f'{text} and {more} more' if more > 0 else text
