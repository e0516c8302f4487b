"""Weights that torch has pickled; no code in them is executed."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from hypertuning.conversion import sources
from hypertuning.conversion.sources import Rows, Stored
from hypertuning.errors import UserError

_FILE = 'pytorch_model.bin'
_KIND = "a file of torch's with arrays alone"


class TorchSource:
  """A `sources.Source` of a folder of Hugging Face's."""

  def __init__(self, path: pathlib.Path) -> None:
    """Reads which arrays the files hold.

    Args:
      path: the folder, or the only file with weights in it.

    Raises:
      UserError: a file is missing or damaged, holds objects other than arrays,
        or other types of numbers; or torch is not installed.
    """
    folder = path if path.is_dir() else path.parent
    self.place = str(path)
    self.fields = sources.read_config(folder)
    named = {'': path} if path.is_file() else sources.shards(folder, _FILE)
    assert named is not None  # `find` has found it
    self._folder = folder
    self._paths: dict[str, pathlib.Path] = {}
    self.arrays: dict[str, Stored] = {}
    # Files of torch before 1.6 cannot be mapped: they stay in memory.
    self._old: dict[pathlib.Path, dict[str, Any]] = {}
    for shard in sorted(set(named.values())):
      for name, tensor in self._load(shard).items():
        dtype = _dtype(shard, name, tensor)
        self.arrays[name] = Stored(tuple(tensor.shape), dtype)
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
    # Mapped for each array: pages that were read count as memory until then.
    yield _TorchRows(self._load(path)[name], self.arrays[name].dtype)

  def vocabulary_files(self) -> Mapping[str, bytes]:
    """The content of the files of the vocabulary, by name."""
    return sources.vocabulary_files(self._folder)

  def _load(self, path: pathlib.Path) -> dict[str, Any]:
    """The tensors of a file, by name."""
    if path in self._old:
      return self._old[path]
    torch = _torch(path)
    with sources.reading(path, _KIND):
      is_new = zipfile.is_zipfile(path)
      tensors = torch.load(
        path, map_location='cpu', weights_only=True, mmap=is_new
      )
      if not isinstance(tensors, dict) or not all(
        isinstance(x, torch.Tensor) for x in tensors.values()
      ):
        raise UserError(f'{path}: holds other objects than named arrays.')
    if not is_new:
      self._old[path] = tensors
    return tensors


class _TorchRows:
  """A tensor that is read by rows."""

  def __init__(self, tensor: Any, dtype: np.dtype) -> None:
    self._tensor, self._dtype = tensor, dtype

  def __getitem__(self, rows: slice) -> np.ndarray:
    block = self._tensor[rows].contiguous()
    if self._dtype == jnp.bfloat16:  # which torch cannot give to numpy
      import torch

      return block.view(torch.int16).numpy().view(jnp.bfloat16)
    return block.numpy()


def _torch(path: pathlib.Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise UserError(
      f"{path}: torch is needed to read it: pip install '.[hf]'."
    ) from error
  return torch


def _dtype(path: pathlib.Path, name: str, tensor: Any) -> np.dtype:
  kind = str(tensor.dtype).removeprefix('torch.')
  if kind not in ('float32', 'float16', 'bfloat16'):
    raise UserError(
      f'{path}: {name} is {kind}; only float32, float16, bfloat16 are read.'
    )
  return np.dtype(kind if kind != 'bfloat16' else jnp.bfloat16)
