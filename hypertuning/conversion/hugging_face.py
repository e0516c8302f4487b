"""Writes a folder that `transformers` reads."""

import json
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from hypertuning import files, folders
from hypertuning.conversion import model_folder, sources
from hypertuning.conversion.pairing import rows_per_block
from hypertuning.conversion.sources import Source

_FILE = 'model.safetensors'
_DTYPES = {
  np.dtype(np.float32): 'F32',
  np.dtype(np.float16): 'F16',
  np.dtype(jnp.bfloat16): 'BF16',
}


def write(source: Source, output: pathlib.Path, binding: str) -> None:
  """Writes a model, with its configuration and the files of its vocabulary.

  Args:
    source: the model's weights.
    output: folder that is made; it appears whole or not at all.
    binding: name of the flag or argument that gives the folder.

  Raises:
    UserError: the folder has files already, or cannot be written.
  """
  contents = source.vocabulary_files()
  size = sum(stored.size for stored in source.arrays.values())
  room = model_folder.room(size, 1, contents)
  with folders.written(output, binding, room) as folder:
    for name, data in contents.items():
      (folder / name).write_bytes(data)
    files.write_text(folder, sources.CONFIG_FILE, source.fields.text())
    with model_folder.bar(size) as bar:
      _write_weights(folder, source, bar.update)


def _write_weights(
  folder: pathlib.Path,
  source: Source,
  report: Callable[[int], object],
) -> None:
  """Writes a model's arrays into one safetensors file, a block at a time.

  Args:
    folder: the folder of the file.
    source: the model's weights.
    report: function that is called with the number of bytes written since its
      last call.

  Raises:
    OSError: the file cannot be written.
  """
  # The library writes only what is in memory as a whole. The format is eight
  # bytes with the length of the header, the header and the arrays.
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  place = 0
  for name, stored in sorted(source.arrays.items()):
    header[name] = {
      'dtype': _DTYPES[stored.dtype],
      'shape': stored.shape,
      'data_offsets': [place, place + stored.size],
    }
    place += stored.size
  text = json.dumps(header).encode()
  text += b' ' * (-len(text) % 8)  # so that arrays are aligned
  with open(folder / _FILE, 'wb') as file:
    file.write(struct.pack('<Q', len(text)) + text)
    for name, stored in sorted(source.arrays.items()):
      step = rows_per_block(stored.shape, stored.dtype)
      with source.open(name) as rows:
        for start in range(0, stored.shape[0], step):
          block = rows[start : min(start + step, stored.shape[0])]
          file.write(np.ascontiguousarray(block).tobytes())
          report(block.nbytes)
