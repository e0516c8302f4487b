"""When Python looks for cycles of objects that nobody uses in a command."""

import atexit
import gc

# Objects made before the youngest are looked at; collections of one generation
# before one of the next.
_THRESHOLDS = (100_000, 20, 100)


def collect_rarely() -> None:
  """Keeps Python from looking at what the imports have made over and over.

  TensorFlow, seqio and jax make over a million objects, which all live to the
  end. By default Python starts a search for every 700 new ones, and looks at
  all that there are several times, the last time when the process ends: a
  fifth of the time of a run of two steps.
  """
  gc.set_threshold(*_THRESHOLDS)
  atexit.register(gc.freeze)
