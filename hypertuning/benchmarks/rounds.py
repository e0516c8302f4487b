"""Measures several ways of one work, and says how far rounds differ."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypertuning.engine import summaries

Ways = Mapping[str, Callable[[], Any]]


def in_turn(ways: Ways, count: int) -> dict[str, list[float]]:
  """Calls every way once per round, so that a drift of the machine hits all.

  Args:
    ways: functions by name, each of which returns when its work is done.
    count: number of rounds.

  Returns:
    The seconds of every call, by name.
  """
  seconds: dict[str, list[float]] = {name: [] for name in ways}
  progress = summaries.Progress(count, label='rounds')
  for _ in range(count):
    for name, function in ways.items():
      start = time.perf_counter()
      function()
      seconds[name].append(time.perf_counter() - start)
    progress.update()
  progress.close()
  return seconds


def spread(seconds: Sequence[float]) -> dict[str, Any]:
  """The median, least and most of the rounds, and all of them."""
  return {
    'seconds': statistics.median(seconds),
    'low': min(seconds),
    'high': max(seconds),
    'rounds': list(seconds),
  }
