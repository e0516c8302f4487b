"""Means, differences and ratios over a few runs, with 95% intervals."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
_NORMAL = float(stats.norm.ppf((1 + _CONFIDENCE) / 2))


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A number and its 95% interval.

  Attributes:
    mean: the number.
    low: of the interval; nan where runs are too few to tell.
    high: as `low`.
    n: runs.
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
  """The mean of runs, and its interval by Student's t.

  Args:
    values: one a run, at least one; of one run there is no interval.
  """
  array = np.asarray(values, float)
  centre = float(array.mean())
  half = _quantile(len(array)) * _standard_error(array)
  return Estimate(centre, centre - half, centre + half, len(array))


def from_standard_error(value: float, error: float) -> Estimate:
  """One run, whose interval is that over its own episodes.

  Args:
    value: the run's number.
    error: its standard error, nan if that is not known.
  """
  half = _NORMAL * error
  return Estimate(value, value - half, value + half, 1)


def difference(first: Sequence[float], second: Sequence[float]) -> Estimate:
  """The mean of `first - second`, paired run by run."""
  return mean(np.subtract(first, second).tolist())


def ratio(first: Sequence[float], second: Sequence[float]) -> Estimate:
  """The mean of `first` over that of `second`, paired run by run.

  The interval is Fieller's: all `r` for which the t interval of `first - r *
  second` has 0 in it. It is unbounded where `second` may be 0.

  Args:
    first: one a run.
    second: one a run.

  Returns:
    Estimate with nan as mean if `second` is 0 in all runs.
  """
  a, b = np.asarray(first, float), np.asarray(second, float)
  n = len(a)
  if b.mean() == 0:
    return Estimate(math.nan, math.nan, math.nan, n)
  centre = float(a.mean() / b.mean())
  if n < 2:
    return Estimate(centre, math.nan, math.nan, n)
  spread = _quantile(n) ** 2 / n * np.cov(a, b)
  square = b.mean() ** 2 - spread[1, 1]
  if square <= 0:
    return Estimate(centre, -math.inf, math.inf, n)
  middle = a.mean() * b.mean() - spread[0, 1]
  rest = a.mean() ** 2 - spread[0, 0]
  root = math.sqrt(max(middle**2 - square * rest, 0.0))
  low, high = (middle - root) / square, (middle + root) / square
  return Estimate(centre, float(low), float(high), n)


def _standard_error(values: np.ndarray) -> float:
  if len(values) < 2:
    return math.nan
  return float(values.std(ddof=1) / math.sqrt(len(values)))


def _quantile(n: int) -> float:
  if n < 2:
    return math.nan
  return float(stats.t.ppf((1 + _CONFIDENCE) / 2, n - 1))
