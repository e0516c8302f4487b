"""Peers may be missing or fail: a line says so, and the others go on."""

import gc
import sys
from collections.abc import Callable
from typing import Any

from hypertuning.errors import one_line

_INSTALL = "pip install '.[hf]'"
_MOST_LETTERS = 160


def attempt(name: str, make: Callable[[], Any]) -> Any:
  """What `make` makes; None, and a line on stderr, where it fails.

  Args:
    name: name of the peer.
    make: function that imports the peer's libraries and makes it.
  """
  try:
    return make()
  except ImportError as error:
    reason = f'{one_line(error)}; {_INSTALL}'
  # PyTorch and its compilers fail with errors of many kinds, and a peer that
  # fails must not end the measurement.
  except Exception as error:
    reason = f'{type(error).__name__}: {one_line(error)}'[:_MOST_LETTERS]
  print(f'{name}: left out ({reason}).', file=sys.stderr)
  return None


def free() -> None:
  """Gives the GPU's memory back that no peer uses any more."""
  gc.collect()
  torch = sys.modules.get('torch')
  if torch is not None and torch.cuda.is_available():
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
