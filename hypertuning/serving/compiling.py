"""How long compilation has taken, which a first request of a size waits for."""

import functools
import os
import pathlib

import jax

_EVENTS = (
  '/jax/core/compile/jaxpr_trace_duration',
  '/jax/core/compile/jaxpr_to_mlir_module_duration',
  '/jax/core/compile/backend_compile_duration',
)


class Clock:
  """Adds up the seconds that jax compiles in this process.

  Attributes:
    seconds: the sum so far.
  """

  def __init__(self) -> None:
    self.seconds = 0.0

  def add(self, event: str, duration_secs: float, **_: str | int) -> None:
    """Takes an event of jax."""
    if event in _EVENTS:
      self.seconds += duration_secs


@functools.cache
def clock() -> Clock:
  """The clock of this process, which runs from the first call on."""
  made = Clock()
  jax.monitoring.register_event_duration_secs_listener(made.add)
  return made


def keep(folder: pathlib.Path) -> None:
  """Keeps compiled programs in a folder, so that the next start is short.

  Args:
    folder: the folder; jax's own setting comes first.
  """
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    jax.config.update('jax_compilation_cache_dir', str(folder))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
