"""What a measurement ran on."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

_PACKAGES = ('jax', 'jaxlib', 'flax', 'torch', 'transformers', 'peft')
# bfloat16 operations per second without sparsity, by a part of the device's
# name: NVIDIA's data sheets of the SXM cards.
_PEAKS = {'H100': 989e12, 'H200': 989e12, 'A100': 312e12}


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
  return next((peak for part, peak in _PEAKS.items() if part in kind), None)
