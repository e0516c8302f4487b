"""Intervals beside those of scipy, and of sums by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from hypertuning.reporting import claims, statistics
from hypertuning.reporting.statistics import Estimate


def test_mean_has_students_interval():
  values = [91.0, 94.5, 99.0, 93.25]
  estimate = statistics.mean(values)
  low, high = stats.t.interval(
    0.95, df=3, loc=np.mean(values), scale=stats.sem(values)
  )
  assert estimate.n == 4
  np.testing.assert_allclose(
    [estimate.mean, estimate.low, estimate.high],
    [np.mean(values), low, high],
    rtol=1e-12,
  )


def test_mean_by_hand():
  # Of 1, 2, 3: standard error 1 / sqrt(3), t quantile of 2 degrees 4.302653.
  estimate = statistics.mean([1, 2, 3])
  assert estimate.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_one_run_has_no_interval_over_runs():
  estimate = statistics.mean([7.0])
  assert (estimate.mean, estimate.n) == (7.0, 1)
  assert not estimate.has_interval


def test_one_run_has_one_over_its_episodes():
  estimate = statistics.from_standard_error(50.0, 2.0)
  assert estimate.low == pytest.approx(50 - 1.959964 * 2, rel=1e-6)
  assert not statistics.from_standard_error(50.0, math.nan).has_interval


def test_difference_is_paired():
  first, second = [10.0, 20.0, 30.0], [9.0, 18.9, 29.1]
  paired = stats.ttest_rel(first, second).confidence_interval(0.95)
  estimate = statistics.difference(first, second)
  np.testing.assert_allclose(
    [estimate.low, estimate.high], [paired.low, paired.high], rtol=1e-9
  )
  assert estimate.low > 0  # unpaired, the spread of seeds would hide it


def test_ratio_has_fiellers_interval():
  first, second = [12.0, 15.0, 11.0, 14.0], [40.0, 44.0, 37.0, 47.0]
  estimate = statistics.ratio(first, second)
  assert estimate.mean == pytest.approx(np.mean(first) / np.mean(second))
  assert estimate.low < estimate.mean < estimate.high
  # At its ends, 0 is at an end of the t interval of first - ratio * second.
  for end in (estimate.low, estimate.high):
    rest = statistics.mean(np.subtract(first, np.multiply(end, second)))
    assert min(abs(rest.low), abs(rest.high)) == pytest.approx(0, abs=1e-9)


def test_ratios_interval_covers_as_often_as_it_says():
  random = np.random.default_rng(0)
  inside = 0
  for _ in range(2000):
    common = random.normal(0, 1, 4)  # of a seed: the two are correlated
    first = 3 + common + random.normal(0, 0.5, 4)
    second = 10 + common + random.normal(0, 0.5, 4)
    estimate = statistics.ratio(first.tolist(), second.tolist())
    inside += estimate.low <= 0.3 <= estimate.high
  assert inside / 2000 == pytest.approx(0.95, abs=0.02)


def test_ratio_by_what_may_be_zero_is_unbounded():
  estimate = statistics.ratio([1.0, 2.0], [-1.0, 3.0])
  assert (estimate.low, estimate.high) == (-math.inf, math.inf)
  assert math.isnan(statistics.ratio([1.0, 2.0], [0.0, 0.0]).mean)
  one = statistics.ratio([1.0], [4.0])
  assert one.mean == 0.25 and not one.has_interval


def test_ratio_without_spread_is_a_point():
  estimate = statistics.ratio([0.1, 0.1, 0.1], [0.3, 0.3, 0.3])
  assert estimate.low == pytest.approx(1 / 3)
  assert estimate.high == pytest.approx(1 / 3)


@pytest.mark.parametrize(
  ('low', 'high', 'more', 'less'),
  [
    (0.5, 2.0, 'holds', 'does not hold'),
    (-2.0, -0.5, 'does not hold', 'holds'),
    (-0.5, 0.5, 'undecided', 'undecided'),
    (0.0, 0.0, 'undecided', 'undecided'),
    (math.nan, math.nan, 'undecided', 'undecided'),
    (-math.inf, math.inf, 'undecided', 'undecided'),
  ],
)
def test_verdict_needs_the_whole_interval(low, high, more, less):
  estimate = Estimate((low + high) / 2, low, high, 3)
  assert claims.verdict(estimate, 0.0, less=False) == more
  assert claims.verdict(estimate, 0.0, less=True) == less


def test_verdict_of_nothing_is_undecided():
  assert claims.verdict(None, 0.0, less=False) == 'undecided'
