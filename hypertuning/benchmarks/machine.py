"""What a measurement ran on."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from hypertuning.planning import chips

_PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'transformers', 'peft')


def describe() -> dict[str, Any]:
  """The machine, and the versions of what ran on it, as JSON values."""
  versions = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = ''
  return {
    'machine': {
      'processor': platform.processor() or platform.machine(),
      'cores': os.cpu_count(),
      'load': os.getloadavg()[0],
      'device': jax.devices()[0].device_kind,
    },
    'versions': versions,
  }


def peak_flops() -> float | None:
  """The bfloat16 FLOPs per second of the first device; None if not known."""
  kind = jax.devices()[0].device_kind
  names = ((chip.name.upper(), chip) for chip in chips.CHIPS if chip.is_gpu)
  return next((chip.flops for name, chip in names if name in kind), None)
