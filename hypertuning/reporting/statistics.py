"""Means, differences and ratios over a few runs, with 95% intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from hypertuning.spread import standard_error

_CONFIDENCE = 0.95
_NORMAL = float(stats.norm.ppf((1 + _CONFIDENCE) / 2))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number and its 95% interval.

  Attributes:
    mean: the number itself.
    low: lower bound of the interval, nan where too few runs leave it unknown.
    high: upper bound of the interval, nan where `low` is.
    n: number of runs behind the number.
  """

  mean: float
  low: float
  high: float
  n: int

  @property
  def has_interval(self) -> bool:
    """Whether the interval is known."""
    return not math.isnan(self.low)


def mean(values: Sequence[float]) -> Estimate:
  """The mean over runs, with an interval by Student's t.

  Args:
    values: numbers of the runs, at least one. With a single run, the interval
      is unknown.
  """
  array = np.asarray(values, float)
  centre = float(array.mean())
  half = _quantile(len(array)) * standard_error(array)
  return Estimate(centre, centre - half, centre + half, len(array))


def from_standard_error(value: float, error: float) -> Estimate:
  """The number of one run, with an interval over the run's own episodes.

  Args:
    value: number of the run.
    error: standard error of the number over episodes; nan if it is unknown.
  """
  half = _NORMAL * error
  return Estimate(value, value - half, value + half, 1)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
  """The mean of `first - second`, paired by run.

  Args:
    first: numbers that are subtracted from, one per run.
    second: numbers that are subtracted, of the same runs in the same order.
  """
  return mean(np.subtract(first, second).tolist())


def ratio(first: Sequence[float], second: Sequence[float]) -> Estimate:
  """The mean of `first` divided by the mean of `second`, paired by run.

  The interval is Fieller's: all `r` for which the t interval of `first - r *
  second` contains 0. It is unbounded if the mean of `second` may be 0.

  Args:
    first: numerators, one per run.
    second: denominators of the same runs, in the same order.

  Returns:
    The ratio and its interval; the ratio is nan if the mean of `second` is 0.
  """
  a, b = np.asarray(first, float), np.asarray(second, float)
  n = len(a)
  if b.mean() == 0:
    return Estimate(math.nan, math.nan, math.nan, n)
  centre = float(a.mean() / b.mean())
  if n < 2:
    return Estimate(centre, math.nan, math.nan, n)
  # Fieller's condition is quadratic in r, and its roots are the bounds.
  covariance = _quantile(n) ** 2 / n * np.cov(a, b)
  square = b.mean() ** 2 - covariance[1, 1]
  if square <= 0:
    return Estimate(centre, -math.inf, math.inf, n)
  middle = a.mean() * b.mean() - covariance[0, 1]
  rest = a.mean() ** 2 - covariance[0, 0]
  root = math.sqrt(max(middle**2 - square * rest, 0.0))
  low, high = (middle - root) / square, (middle + root) / square
  return Estimate(centre, float(low), float(high), n)


def _quantile(n: int) -> float:
  if n < 2:
    return math.nan
  return float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1))
