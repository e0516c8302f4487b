"""Weights in safetensors, in one file or in several with an index."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping

import jax.numpy as jnp
import numpy as np
import safetensors

from hypertuning.conversion import sources
from hypertuning.conversion.sources import Rows, Stored
from hypertuning.errors import UserError

_FILE = 'model.safetensors'
_KIND = 'a safetensors file'
_DTYPES = {
  'F32': np.dtype(np.float32),
  'F16': np.dtype(np.float16),
  'BF16': np.dtype(jnp.bfloat16),
}


class SafetensorsSource:
  """A `sources.Source` of a folder of Hugging Face's."""

  def __init__(self, path: pathlib.Path) -> None:
    """Reads the headers of the files.

    Args:
      path: the folder, or the only file with weights in it.

    Raises:
      UserError: a file is missing or damaged, or holds other types of numbers.
    """
    folder = path if path.is_dir() else path.parent
    self.place = str(path)
    self.fields = sources.read_config(folder)
    named = {'': path} if path.is_file() else sources.shards(folder, _FILE)
    assert named is not None  # `find` has found it
    self._folder = folder
    self._paths: dict[str, pathlib.Path] = {}
    self.arrays: dict[str, Stored] = {}
    for shard in sorted(set(named.values())):
      with sources.reading(shard, _KIND), _open(shard) as file:
        for name in file.keys():  # noqa: SIM118, it is no mapping
          array = file.get_slice(name)
          self.arrays[name] = Stored(
            tuple(array.get_shape()), _dtype(shard, name, array.get_dtype())
          )
          self._paths[name] = shard
    sources.check_shards(named, self._paths)

  @classmethod
  def find(cls, folder: pathlib.Path) -> pathlib.Path | None:
    """The folder itself, if it has such files."""
    return folder if sources.shards(folder, _FILE) else None

  @contextlib.contextmanager
  def open(self, name: str) -> Iterator[Rows]:
    """A context in which an array can be read."""
    path = self._paths[name]
    # Opened for each array: pages that were read count as memory until then.
    with contextlib.ExitStack() as stack:
      with sources.reading(path, _KIND):
        file = stack.enter_context(_open(path))
      yield file.get_slice(name)

  def vocabulary_files(self) -> Mapping[str, bytes]:
    """The content of the files of the vocabulary, by name."""
    return sources.vocabulary_files(self._folder)


def _open(path: pathlib.Path) -> contextlib.AbstractContextManager:
  return safetensors.safe_open(path, framework='numpy')


def _dtype(path: pathlib.Path, name: str, dtype: str) -> np.dtype:
  if dtype not in _DTYPES:
    raise UserError(
      f'{path}: {name} is {dtype}; only {", ".join(_DTYPES)} are read.'
    )
  return _DTYPES[dtype]
