"""What a measurement ran on."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

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
      'device': jax.devices()[0].device_kind,
    },
    'versions': versions,
  }
