"""Weights in GGUF, the format of llama.cpp, quantized or not.

The values are those that `transformers` gives them: each block of a quantized
array is its numbers times its scale, in float32.
"""

import contextlib
import pathlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from hypertuning.conversion import (
  families,
  gguf_config,
  gguf_vocabulary,
  sources,
)
from hypertuning.conversion.sources import Rows, Stored
from hypertuning.errors import UserError

_KIND = 'a GGUF file'
_FLOATS = {
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
}
_QUANTIZED = ('Q8_0', 'Q4_0', 'Q4_1', 'Q4_K', 'Q6_K')


class GgufSource:
  """A `sources.Source` of one GGUF file."""

  def __init__(self, path: pathlib.Path) -> None:
    """Reads the header of a file.

    Args:
      path: path of the file.

    Raises:
      UserError: the file is damaged, is one part of several, or holds an
        architecture or a type of numbers that is not read; or the library
        `gguf` is not installed.
    """
    self.place = str(path)
    library = _library(path)
    with sources.reading(path, _KIND):
      reader = library.GGUFReader(path)
      if reader.byte_order == 'S':
        raise UserError(f'{path}: has the byte order of other machines.')
      values = {
        name: field.contents()
        for name, field in reader.fields.items()
        if name.startswith(gguf_config.KEYS)
      }
      tensors = {tensor.name: tensor for tensor in reader.tensors}
    self.fields = gguf_config.config(values, tensors, self.place)
    self._family = families.find(self.fields)
    self._tensors: dict[str, Any] = {}
    for name, tensor in self._named(library, tensors).items():
      # What is needed is kept, and the reader with its large tables is not.
      self._tensors[name] = _Tensor(path, tensor)
    self.arrays = {name: x.stored for name, x in self._tensors.items()}
    self._values = values

  @classmethod
  def find(cls, folder: pathlib.Path) -> pathlib.Path | None:
    """The GGUF file of a folder; None if it has none.

    Raises:
      UserError: the folder has several.
    """
    found = sorted(folder.glob('*.gguf'))
    if len(found) > 1:
      raise UserError(
        f'{folder}: has {len(found)} GGUF files; give one of them, such as '
        f'{found[0].name}.'
      )
    return found[0] if found else None

  def _named(
    self, library: types.ModuleType, tensors: Mapping[str, Any]
  ) -> dict[str, Any]:
    """The arrays by Hugging Face's names; one that it lacks keeps its own."""
    config = self._family.config(self.fields)
    names = library.get_tensor_name_map(
      {
        architecture: kind
        for kind, architecture in library.MODEL_ARCH_NAMES.items()
      }[self._family.gguf.architecture],
      max(site.layers for site in config.sites.values()),
    )
    theirs = {}
    for variable in self._family.variables(config):
      base = variable.name.removesuffix('.weight')
      theirs[f'{names.get_name(base)}.weight'] = variable.name
    return {
      theirs.get(name, name): tensor
      for name, tensor in tensors.items()
      if name not in self._family.gguf.read
    }

  @contextlib.contextmanager
  def open(self, name: str) -> Iterator[Rows]:
    """A context in which an array can be read."""
    heads = self._family.gguf.paired_heads(name, self.fields)
    yield self._tensors[name].rows(heads)

  def vocabulary_files(self) -> Mapping[str, bytes]:
    """The content of the files of the vocabulary, by name."""
    return gguf_vocabulary.files(self._values, self.place)


class _Tensor:
  """Where an array is in the file, and how its numbers are stored."""

  def __init__(self, path: pathlib.Path, tensor: Any) -> None:
    kind = tensor.tensor_type.name
    if kind not in (*_FLOATS, *_QUANTIZED):
      known = ', '.join((*_FLOATS, *_QUANTIZED))
      raise UserError(
        f'{path}: {tensor.name} is {kind}; only {known} are read.'
      )
    self._path, self._kind = path, tensor.tensor_type
    self._offset = int(tensor.data_offset)
    shape = tuple(int(n) for n in reversed(tensor.shape))
    self.stored = Stored(shape, _FLOATS.get(kind, np.dtype(np.float32)))
    # Blocks of a quantized array are bytes.
    self._bytes = self.stored if kind in _FLOATS else _bytes_of(tensor)

  def rows(self, heads: int | None) -> Rows:
    """The array by rows, see `_GgufRows`."""
    shape, dtype = self._bytes
    # Mapped for each array: pages that were read count as memory until then.
    data = np.memmap(self._path, dtype, 'r', self._offset, shape)
    return _GgufRows(data, self._kind, self.stored, heads)


def _bytes_of(tensor: Any) -> Stored:
  return Stored(tuple(tensor.data.shape), tensor.data.dtype)


class _GgufRows:
  """An array that is read by rows.

  Args:
    data: the array's bytes or numbers, with its rows first.
    kind: the library's type of the array.
    stored: shape and dtype of the values.
    heads: number of heads whose rows stand in pairs `(2i, 2i + 1)`, which our
      network, like Hugging Face's, has in halves; None for other arrays.
  """

  def __init__(
    self, data: np.memmap, kind: Any, stored: Stored, heads: int | None
  ) -> None:
    self._data, self._kind, self._stored = data, kind, stored
    self._order = None
    if heads is not None:
      places = np.arange(stored.shape[0]).reshape(heads, -1, 2)
      self._order = places.swapaxes(1, 2).reshape(-1)

  def __getitem__(self, rows: slice) -> np.ndarray:
    from gguf import quants

    block = self._data[rows if self._order is None else self._order[rows]]
    if self._kind.name in _FLOATS:
      return np.array(block)
    return quants.dequantize(np.ascontiguousarray(block), self._kind)


def _library(path: pathlib.Path) -> Any:
  try:
    import gguf
  except ImportError as error:
    raise UserError(
      f"{path}: the library gguf is needed to read it: pip install '.[gguf]'."
    ) from error
  return gguf
