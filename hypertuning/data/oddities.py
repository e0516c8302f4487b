"""Counts what is odd about a benchmark as it is published, and says it.

Of a hundred thousand rows, one is odd. It is left out or mended, and counted:
the benchmark is not refused for it.
"""

import functools
import sys


class Oddities:
  """Counts of odd rows and prompts, by what was done with them."""

  def __init__(self, name: str) -> None:
    """Starts with no odd rows.

    Args:
      name: benchmark, file or folder, as the line names it.
    """
    self._name = name
    self._found: dict[str, tuple[int, str]] = {}

  def add(self, done: str, first: object, count: int = 1) -> None:
    """Counts rows or prompts.

    Args:
      done: what is counted, such as `rows left out`.
      first: the file and line of the first one, and what is odd about it.
      count: number of rows or prompts.
    """
    if count:
      known, place = self._found.get(done, (0, str(first)))
      self._found[done] = known + count, place

  def say(self) -> None:
    """Prints one line on stderr, once per process, if anything is odd."""
    if self._found:
      counts = '; '.join(
        f'{done}: {count} (first: {first})'
        for done, (count, first) in self._found.items()
      )
      _print(f'{self._name}: {" ".join(counts.split())}')


@functools.cache  # the splits of a task are read for each of its forms
def _print(line: str) -> None:
  print(line, file=sys.stderr)
