"""What a file of weights is, whatever its format, and how one is opened.

Arrays are read by rows, so that a large one need never be in memory as a whole.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from hypertuning import text_files
from hypertuning.conversion import families
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.vocabulary import BYTE_LEVEL
from hypertuning.errors import UserError, one_line

CONFIG_FILE = 'config.json'
_INDEX = '.index.json'


class Stored(NamedTuple):
  """An array of a file.

  Attributes:
    shape: its shape.
    dtype: dtype of its values once they are read.
  """

  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def size(self) -> int:
    """Number of bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


class Rows(Protocol):
  """An array that is read by rows."""

  def __getitem__(self, rows: slice, /) -> np.ndarray:
    """Rows of the array; the numbers of a vector are its rows."""


class Source(Protocol):
  """A model's weights, under Hugging Face's names.

  Attributes:
    place: path that error messages begin with.
    fields: the fields of the model's `config.json`, or of one made from the
      file.
    arrays: shape and dtype of each array of the file, by name.
  """

  place: str
  fields: Fields
  arrays: Mapping[str, Stored]

  def open(self, name: str) -> contextlib.AbstractContextManager[Rows]:
    """A context in which an array can be read."""

  def vocabulary_files(self) -> Mapping[str, bytes]:
    """The content of the files of the vocabulary, by name."""


def read_config(folder: pathlib.Path) -> Fields:
  """The fields of the `config.json` in a folder.

  Raises:
    UserError: there is none, or it is damaged.
  """
  path = folder / CONFIG_FILE
  missing = 'no such file, but the configuration is read from it.'
  return Fields(text_files.read_json(path, missing), str(path))


def shards(folder: pathlib.Path, name: str) -> dict[str, pathlib.Path] | None:
  """The files that hold the arrays of a folder of Hugging Face's.

  Args:
    folder: the folder.
    name: name of the file where it is the only one, such as
      `model.safetensors`.

  Returns:
    Maps the name of each array to its file, or '' to the only file; None if the
    folder has neither that file nor an index of several.

  Raises:
    UserError: the index is damaged, or a file that it names is missing.
  """
  if (folder / name).is_file():
    return {'': folder / name}
  index = folder / f'{name}{_INDEX}'
  if not index.is_file():
    return None
  names = text_files.read_json(index).get('weight_map')
  if not isinstance(names, dict) or not all(
    isinstance(file, str) for file in names.values()
  ):
    raise UserError(f'{index}: has no mapping "weight_map" of names to files.')
  paths = {key: folder / pathlib.Path(file).name for key, file in names.items()}
  for path in sorted(set(paths.values())):
    if not path.is_file():
      raise UserError(f'{path}: no such file, but {index.name} names it.')
  return paths


def check_shards(
  named: Mapping[str, pathlib.Path], held: Mapping[str, pathlib.Path]
) -> None:
  """Compares the names of an index with what the files hold.

  Args:
    named: file of each array by the index, see `shards`.
    held: file of each array by the files themselves.

  Raises:
    UserError: an array is not in its file.
  """
  if '' in named:
    return
  for name, path in named.items():
    if held.get(name) != path:
      raise UserError(f'{path}: holds no {name}, which the index places there.')


@contextlib.contextmanager
def reading(path: str | pathlib.Path, kind: str) -> Iterator[None]:
  """Turns an error of a library that reads a file into one line.

  Args:
    path: path of the file.
    kind: what the file should be, with its article.
  """
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # the libraries raise errors of many kinds
    reason = one_line(error)[:200] or type(error).__name__
    raise UserError(
      f'{path}: not {kind}, or a damaged one ({reason}).'
    ) from error


def vocabulary_files(folder: pathlib.Path) -> dict[str, bytes]:
  """The files beside the weights that tell what the ids mean."""
  names = (BYTE_LEVEL, *(family.pieces for family in families.ALL))
  more = (
    *('tokenizer_config.json', 'special_tokens_map.json'),
    *('added_tokens.json', 'generation_config.json'),
  )
  return {
    name: text_files.read_bytes(folder / name)
    for name in (*names, *more)
    if (folder / name).is_file()
  }


def open_source(path: pathlib.Path, binding: str) -> Source:
  """Opens a model's weights.

  Args:
    path: a folder of Hugging Face's, or one of its files; or a GGUF file, or a
      folder that has one.
    binding: flag that gives the path, for error messages.

  Raises:
    UserError: there is no model, or its files cannot be read.
  """
  # These import libraries that take long, or that not everyone has.
  from hypertuning.conversion import (
    gguf_source,
    safetensors_source,
    torch_source,
  )

  if not path.exists():
    raise UserError(f'{binding} = {str(path)!r}: there is no such file.')
  readers: dict[str, Any] = {
    '.safetensors': safetensors_source.SafetensorsSource,
    '.bin': torch_source.TorchSource,
    '.gguf': gguf_source.GgufSource,
  }
  if path.is_file():
    if path.suffix not in readers:
      raise UserError(
        f'{binding} = {str(path)!r}: give a folder, or a file whose name ends '
        f'in {", ".join(readers)}.'
      )
    return readers[path.suffix](path)
  for reader in readers.values():
    if (found := reader.find(path)) is not None:
      return reader(found)
  raise UserError(
    f'{binding} = {str(path)!r}: has neither model.safetensors nor '
    'pytorch_model.bin nor one GGUF file.'
  )
