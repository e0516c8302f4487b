"""How sure a mean is."""

import math
from collections.abc import Sequence

import numpy as np


def standard_error(values: Sequence[float] | np.ndarray) -> float:
  """Standard error of the mean of independent values, nan of fewer than two."""
  if len(values) < 2:
    return math.nan
  return standard_deviation(values) / math.sqrt(len(values))


def standard_deviation(values: Sequence[float] | np.ndarray) -> float:
  """Standard deviation of a sample of two or more values."""
  return float(np.std(np.asarray(values, float), ddof=1))
