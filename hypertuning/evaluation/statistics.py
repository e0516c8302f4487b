"""Losses, gaps between phi modes and their standard errors."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from hypertuning.evaluation.phi_modes import GENERATED

Batch = Mapping[str, jax.Array]


def summarize(
  outputs: Mapping[str, np.ndarray], together: int = 1
) -> dict[str, float]:
  """Losses a token, their standard errors, and paired differences.

  Args:
    outputs: of `collect`.
    together: so many episodes in a row ask the same, and count as one.

  Returns:
    `loss/<mode>` and `loss/<mode>_stderr` in nats a token (episodes weighted
    by their tokens); where there is generated phi also `gap/<mode>`, the loss
    in that mode minus the loss with generated phi, with `_stderr`, `_low` and
    `_high` (95% interval over episodes, paired).
  """

  def of_rows(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).reshape(-1, together * x.shape[1]).sum(axis=1)

  tokens = of_rows(outputs['tokens'])
  losses = {
    name.removeprefix('score/'): -of_rows(x)
    for name, x in outputs.items()
    if name.startswith('score/')
  }
  summary: dict[str, float] = {}
  for mode, values in losses.items():
    mean, error = ratio(values, tokens)
    summary |= {f'loss/{mode}': mean, f'loss/{mode}_stderr': error}
  for mode in losses.keys() - {GENERATED} if GENERATED in losses else ():
    mean, error = ratio(losses[mode] - losses[GENERATED], tokens)
    summary |= {
      f'gap/{mode}': mean,
      f'gap/{mode}_stderr': error,
      f'gap/{mode}_low': mean - 1.96 * error,
      f'gap/{mode}_high': mean + 1.96 * error,
    }
  return dict(sorted(summary.items()))


def ratio(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
  """`sum(values) / sum(weights)` and its standard error over rows.

  Args:
    values: `[rows]` sums.
    weights: `[rows]` counts; rows are independent, what is in a row is not.
  """
  total = weights.sum()
  if total == 0:
    return math.nan, math.nan
  mean = values.sum() / total
  rows = len(values)
  residuals = values - mean * weights
  spread = rows / max(rows - 1, 1) * np.sum(np.square(residuals))
  return float(mean), float(math.sqrt(spread) / total)
