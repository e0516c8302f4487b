"""Checkpoints in t5x's own format, in which T5 models are published.

Such a checkpoint is a folder with a msgpack file `checkpoint`. In place of each
large array, this file names a zarr array beside it (see t5x's
`checkpoints.py`). t5x itself is not needed.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import numpy as np
import tensorstore as ts
from etils import epath

from hypertuning import trees
from hypertuning.errors import UserError

_FILE = 'checkpoint'
_VERSION = 3


def is_checkpoint(folder: epath.Path) -> bool:
  """Whether a folder holds a checkpoint of this format."""
  return (folder / _FILE).is_file()


def read(folder: epath.Path) -> dict[str, Any]:
  """Reads a checkpoint, except for the state of its optimizer.

  Args:
    folder: folder of the checkpoint.

  Returns:
    `{'target': ..., 'flax_mutables': ...}` with numpy arrays; without
    `flax_mutables` if the checkpoint has none.

  Raises:
    UserError: names the file that cannot be read.
  """
  parts = _read_index(folder)
  return {name: _load_arrays(part, folder) for name, part in parts.items()}


def open_target(folder: epath.Path) -> dict[str, np.ndarray | ts.TensorStore]:
  """The variables of a checkpoint, whose values are not read yet.

  Args:
    folder: folder of the checkpoint.

  Returns:
    Maps names, such as `decoder/norm/scale`, to arrays. `numpy.asarray` reads
    one, or a part of it.

  Raises:
    UserError: names the file that cannot be read.
  """
  leaves = trees.flatten_paths(_read_index(folder)['target'], _is_reference)
  return {
    name: _open(leaf, folder) if _is_reference(leaf) else np.asarray(leaf)
    for name, leaf in leaves.items()
  }


def _read_index(folder: epath.Path) -> dict[str, Any]:
  """The parts of a checkpoint, with references in place of large arrays."""
  try:
    contents = flax.serialization.msgpack_restore((folder / _FILE).read_bytes())
    tree = contents['optimizer']
    return {k: tree[k] for k in ('target', 'flax_mutables') if k in tree}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{folder / _FILE}: not a checkpoint of t5x ({error}).'
    ) from error


def create_array(
  folder: epath.Path,
  name: str,
  shape: Sequence[int],
  dtype: np.dtype,
  chunk: Sequence[int],
) -> ts.TensorStore:
  """Makes an array of a new checkpoint, whose values are written into it.

  Args:
    folder: folder of the checkpoint.
    name: name of the variable, such as `decoder/norm/scale`.
    shape: shape of the array.
    dtype: dtype of the array.
    chunk: shape of the parts that are stored, and best written, as a whole.
  """
  path = os.fspath(folder / _array_name(name))
  spec = {
    'driver': 'zarr',
    'kvstore': _store(path),
    'metadata': {'chunks': list(chunk), 'compressor': None},
  }
  return ts.open(
    spec, create=True, dtype=ts.dtype(dtype), shape=list(shape)
  ).result()


def write_index(folder: epath.Path, names: Sequence[str]) -> None:
  """Writes the file that names the arrays of a new checkpoint, as step 0.

  Args:
    folder: folder of the checkpoint, in which `create_array` made the arrays.
    names: names of the variables.
  """
  arrays = {
    name: {
      'driver': 'zarr',
      'kvstore': {'driver': 'file', 'path': _array_name(name)},
    }
    for name in names
  }
  optimizer = {
    'target': trees.unflatten_paths(arrays),
    'state': {'step': np.int32(0), 'param_states': {}},
  }
  data = flax.serialization.msgpack_serialize(
    {'version': _VERSION, 'optimizer': optimizer}
  )
  (folder / _FILE).write_bytes(data)


def _array_name(name: str) -> str:
  return f'target.{name.replace("/", ".")}'


def _load_arrays(tree: Any, folder: epath.Path) -> Any:
  """The tree with numpy arrays, also in place of references to zarr arrays."""
  if _is_reference(tree):
    return np.asarray(_open(tree, folder))
  if isinstance(tree, Mapping):
    return {name: _load_arrays(value, folder) for name, value in tree.items()}
  return np.asarray(tree)


def _is_reference(node: Any) -> bool:
  return isinstance(node, Mapping) and {'driver', 'kvstore'} <= node.keys()


def _open(spec: Mapping[str, Any], folder: epath.Path) -> ts.TensorStore:
  """Opens a zarr array in the folder of the checkpoint.

  Args:
    spec: the reference to the array, a TensorStore spec.
    folder: folder of the checkpoint.

  Raises:
    UserError: names the array that cannot be read.
  """
  # Only the name of the array is taken from the spec. The rest of its path may
  # be that of another bucket or disk, from which the folder was copied.
  name = os.path.basename(
    spec['kvstore'].get('path', spec.get('path')).rstrip('/')
  )
  path = os.fspath(folder / name)
  try:
    return ts.open(
      {'driver': spec['driver'], 'kvstore': _store(path)}, read=True
    ).result()
  except ValueError as error:
    raise UserError(f'{path}: no array of a checkpoint ({error}).') from error


def _store(path: str) -> dict[str, str]:
  """TensorStore's description of a path in a bucket or on a disk."""
  if path.startswith('gs://'):
    bucket, _, rest = path.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': rest}
  return {'driver': 'file', 'path': os.path.abspath(path)}
