"""Tables with a row per token, in which two ids have changed places.

Id 0 is padding here. Where a file has an ordinary token there, its vocabulary
exchanges that id with an unused one, see `TokenizerJson.swapped_ids`.
"""

import numpy as np

from hypertuning.conversion.sources import Rows


class TokenRows:
  """Rows of a table in the order of the other vocabulary.

  Args:
    rows: the table as it is stored.
    stored: number of rows that are stored. A row behind them is zero.
    swapped: two ids that have changed places; None if all are in theirs.
  """

  def __init__(
    self, rows: Rows, stored: int, swapped: tuple[int, int] | None
  ) -> None:
    self._rows, self._stored, self._swapped = rows, stored, swapped

  def __getitem__(self, rows: slice) -> np.ndarray:
    block = np.array(
      self._rows[slice(rows.start, min(rows.stop, self._stored))]
    )
    lacking = rows.stop - rows.start - len(block)
    block = np.pad(block, [(0, lacking)] + [(0, 0)] * (block.ndim - 1))
    if self._swapped is not None:
      for own, other in (self._swapped, self._swapped[::-1]):
        if rows.start <= own < rows.stop:
          block[own - rows.start] = self._row(other, block)
    return block

  def _row(self, number: int, like: np.ndarray) -> np.ndarray:
    if number >= self._stored:
      return np.zeros_like(like[0])
    return np.array(self._rows[number : number + 1])[0]
