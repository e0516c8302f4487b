"""Counts the rows and prompts of a published benchmark that have faults.

A published benchmark has a few such rows among very many. It is not refused for
them: they are left out or mended, and one line says how many they are.
"""

import functools
import sys


class Oddities:
  """Counts rows and prompts with faults, by what was done with them."""

  def __init__(self, name: str) -> None:
    """Starts with counts of zero.

    Args:
      name: name of the benchmark, file or folder, which begins the line.
    """
    self._name = name
    self._counts: dict[str, tuple[int, str]] = {}

  def add(self, kind: str, example: object, count: int = 1) -> None:
    """Counts rows or prompts.

    Args:
      kind: what is counted, such as `rows left out`.
      example: the file and line of the first one, and what is odd about it.
      count: number of rows or prompts.
    """
    if count:
      total, first_example = self._counts.get(kind, (0, str(example)))
      self._counts[kind] = total + count, first_example

  def say(self) -> None:
    """Prints the counts as one line on stderr, if any is not zero.

    A process prints equal lines only once.
    """
    if self._counts:
      counts = '; '.join(
        f'{kind}: {count} (first: {example})'
        for kind, (count, example) in self._counts.items()
      )
      _print(f'{self._name}: {" ".join(counts.split())}')


@functools.cache  # the rows of a split are read once per form of its task
def _print(line: str) -> None:
  print(line, file=sys.stderr)
