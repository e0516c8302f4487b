"""Writes the weights of a folder that `transformers` reads."""

import json
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from hypertuning.conversion.pairing import rows_per_block
from hypertuning.conversion.sources import Source

_FILE = 'model.safetensors'
_DTYPES = {
  np.dtype(np.float32): 'F32',
  np.dtype(np.float16): 'F16',
  np.dtype(jnp.bfloat16): 'BF16',
}


def write(
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
