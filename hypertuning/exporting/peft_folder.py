"""Writes a folder of Hugging Face's PEFT, without PEFT or PyTorch."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hypertuning import folders

_TENSORS, _CONFIG = 'adapter_model.safetensors', 'adapter_config.json'
_BYTES_OF_CONFIG = 2**16


def write(
  tensors: Mapping[str, np.ndarray],
  config: Mapping[str, Any],
  folder: str,
  base: str,
  binding: str,
) -> None:
  """Writes a folder, which appears whole or not at all.

  Args:
    tensors: tensors by PEFT's names.
    config: fields of `adapter_config.json` but for those that all kinds of
      adapters share.
    folder: folder that is made.
    base: name or path of the frozen model in `transformers`.
    binding: name of the flag or argument that gives the folder.

  Raises:
    UserError: the folder has files already, or cannot be written.
  """
  fields = {
    'base_model_name_or_path': base or None,
    'inference_mode': True,
    **config,
  }
  # safetensors writes the raw buffer of an array, which for a strided view does
  # not hold the values in their order.
  arrays = {k: np.ascontiguousarray(x) for k, x in tensors.items()}
  room = _BYTES_OF_CONFIG + sum(x.nbytes for x in arrays.values())
  with folders.written(folder, binding, room) as place:
    text = json.dumps(fields, indent=2, sort_keys=True)
    (place / _CONFIG).write_text(f'{text}\n', encoding='utf-8')
    save_file(arrays, place / _TENSORS, {'format': 'pt'})
