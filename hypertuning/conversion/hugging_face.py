"""Writes a checkpoint of ours as a folder that `transformers` reads."""

import json
import math
import pathlib
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from hypertuning import trees
from hypertuning.conversion import sources
from hypertuning.conversion.families import Family, Variable
from hypertuning.conversion.pairing import rows_per_block
from hypertuning.conversion.token_rows import TokenRows
from hypertuning.conversion.vocabulary import Vocabulary
from hypertuning.engine import checkpoint_folders, t5x_format
from hypertuning.errors import UserError

_FILE = 'model.safetensors'
_DTYPES = {
  np.dtype(np.float32): 'F32',
  np.dtype(np.float16): 'F16',
  np.dtype(jnp.bfloat16): 'BF16',
}
_DOWNSTREAM = 'downstream/'


class _Entry(NamedTuple):
  """A variable, and how it is stored."""

  variable: Variable
  dtype: np.dtype
  array: Any

  @property
  def size(self) -> int:
    """Number of bytes."""
    return math.prod(self.variable.shape) * self.dtype.itemsize


def origin(source: pathlib.Path) -> pathlib.Path:
  """The folder whose configuration a checkpoint has.

  Args:
    source: a folder that `convert` made, or the folder of its checkpoint.

  Raises:
    UserError: neither has a `config.json`.
  """
  for folder in (source, source.parent):
    if (folder / sources.CONFIG_FILE).is_file():
      return folder
  raise UserError(
    f'--source = {str(source)!r}: has no {sources.CONFIG_FILE}; give a folder '
    'that hypertuning.convert made, or name one as --like.'
  )


class Arrays:
  """The arrays of a checkpoint of ours, in Hugging Face's form.

  Attributes:
    entries: one for each array.
    tokens: number of tokens of the checkpoint, see `Vocabulary.rows`.
    size: number of bytes of all arrays.
  """

  def __init__(
    self,
    source: pathlib.Path,
    binding: str,
    family: Family,
    config: Any,
    vocabulary: Vocabulary,
  ) -> None:
    """Finds the arrays.

    Args:
      source: folder of a run, or of one of its checkpoints.
      binding: flag that gives the path, for error messages.
      family: family of the model.
      config: config of the model, with Hugging Face's number of tokens.
      vocabulary: the model's vocabulary.

    Raises:
      UserError: there is no checkpoint, or it has other variables.
    """
    folder = checkpoint_folders.find(str(source), binding)
    variables = family.variables(config)
    tokens = vocabulary.rows(config.vocab_size)
    ours = [variable.with_rows(tokens) for variable in variables]
    if t5x_format.is_checkpoint(folder):
      arrays = _converted(folder, ours)
    else:
      arrays = _trained(folder, binding, ours)
    self.entries = [
      _Entry(x, _dtype(arrays[x.path]), arrays[x.path]) for x in variables
    ]
    self.tokens = tokens
    self.size = sum(entry.size for entry in self.entries)


def _dtype(array: Any) -> np.dtype:
  dtype = array.dtype
  return np.dtype(getattr(dtype, 'numpy_dtype', dtype))  # TensorStore's own


def _converted(folder: epath.Path, ours: list[Variable]) -> dict[str, Any]:
  """The arrays of a checkpoint that `convert` wrote; they are not read yet."""
  arrays = t5x_format.open_target(folder)
  shapes = {x.path: x.shape for x in ours}
  found = {name: tuple(array.shape) for name, array in arrays.items()}
  for name in sorted(shapes.keys() | found.keys()):
    if shapes.get(name) != found.get(name):
      raise UserError(
        f'{folder}: {name} is {found.get(name, "missing")}, but by '
        f'{sources.CONFIG_FILE} it is {shapes.get(name, "missing")}.'
      )
  return arrays


def _trained(
  folder: epath.Path, binding: str, ours: list[Variable]
) -> dict[str, Any]:
  """The arrays of the downstream model in a checkpoint of a run."""
  from hypertuning.engine import checkpoints  # loads Orbax, for these alone

  target = trees.unflatten_paths(
    {x.path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in ours}
  )
  filled = checkpoints.fill(
    target, str(folder), binding, (('(.*)', r'downstream/\1'), ('(.*)', r'\1'))
  )
  return trees.flatten_paths(filled)


def write(
  folder: pathlib.Path,
  arrays: Arrays,
  vocabulary: Vocabulary,
  report: Callable[[int], object],
) -> None:
  """Writes the arrays into one safetensors file, a block of rows at a time.

  Args:
    folder: the folder of the file.
    arrays: what is written.
    vocabulary: the model's vocabulary.
    report: function that is called with the number of bytes written since its
      last call.

  Raises:
    OSError: the file cannot be written.
  """
  # The library writes only what is in memory as a whole. The format is eight
  # bytes with the length of the header, the header and the arrays.
  entries = sorted(arrays.entries, key=lambda entry: entry.variable.name)
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  place = 0
  for entry in entries:
    header[entry.variable.name] = {
      'dtype': _DTYPES[entry.dtype],
      'shape': entry.variable.their_shape,
      'data_offsets': [place, place + entry.size],
    }
    place += entry.size
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # so that arrays are aligned
  with open(folder / _FILE, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for entry in entries:
      shape = entry.variable.their_shape
      rows: Any = _Rows(entry)
      if entry.variable.per_token:
        rows = TokenRows(rows, arrays.tokens, vocabulary.swapped)
      step = rows_per_block(shape, entry.dtype)
      for start in range(0, shape[0], step):
        block = rows[start : min(start + step, shape[0])]
        file.write(np.ascontiguousarray(block).tobytes())
        report(block.nbytes)


class _Rows:
  """An array of ours by the rows of Hugging Face's."""

  def __init__(self, entry: _Entry) -> None:
    self._array = entry.array
    self._is_transposed = entry.variable.is_transposed

  def __getitem__(self, rows: slice) -> np.ndarray:
    if self._is_transposed:
      return np.asarray(self._array[:, rows]).T
    return np.asarray(self._array[rows])
