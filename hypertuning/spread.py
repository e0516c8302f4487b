"""The standard error of a mean, and the standard deviation of a sample."""

import math
from collections.abc import Sequence

import numpy as np


def standard_error(values: Sequence[float] | np.ndarray) -> float:
  """Standard error of the mean of independent values.

  Args:
    values: numbers; fewer than two give nan.
  """
  if len(values) < 2:
    return math.nan
  return standard_deviation(values) / math.sqrt(len(values))


def standard_deviation(values: Sequence[float] | np.ndarray) -> float:
  """Standard deviation of a sample of two or more values."""
  return float(np.std(np.asarray(values, float), ddof=1))
