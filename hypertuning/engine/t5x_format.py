"""Reads checkpoints in t5x's own format, in which T5 models are published.

Such a checkpoint is a folder with a msgpack file `checkpoint`. In place of each
large array, this file names a zarr array beside it (see t5x's
`checkpoints.py`). t5x itself is not needed.
"""

import os
from collections.abc import Mapping
from typing import Any

import flax
import numpy as np
import tensorstore as ts
from etils import epath

from hypertuning.errors import UserError

_FILE = 'checkpoint'


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
  try:
    contents = flax.serialization.msgpack_restore((folder / _FILE).read_bytes())
    tree = contents['optimizer']
    parts = {k: tree[k] for k in ('target', 'flax_mutables') if k in tree}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{folder / _FILE}: not a checkpoint of t5x ({error}).'
    ) from error
  return {name: _load_arrays(part, folder) for name, part in parts.items()}


def _load_arrays(tree: Any, folder: epath.Path) -> Any:
  """The tree with numpy arrays, also in place of references to zarr arrays."""
  if isinstance(tree, Mapping) and {'driver', 'kvstore'} <= tree.keys():
    return _array(tree, folder)
  if isinstance(tree, Mapping):
    return {name: _load_arrays(value, folder) for name, value in tree.items()}
  return np.asarray(tree)


def _array(spec: Mapping[str, Any], folder: epath.Path) -> np.ndarray:
  """Reads a zarr array in the folder of the checkpoint.

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
    array = ts.open(
      {'driver': spec['driver'], 'kvstore': _store(path)}, read=True
    ).result()
    return np.asarray(array.read().result())
  except ValueError as error:
    raise UserError(f'{path}: no array of a checkpoint ({error}).') from error


def _store(path: str) -> dict[str, str]:
  """TensorStore's description of a path in a bucket or on a disk."""
  if path.startswith('gs://'):
    bucket, _, rest = path.removeprefix('gs://').partition('/')
    return {'driver': 'gcs', 'bucket': bucket, 'path': rest}
  return {'driver': 'file', 'path': os.path.abspath(path)}
