"""Losses, gaps between phi modes and their standard errors."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from hypertuning.evaluation.phi_modes import GENERATED

Batch = Mapping[str, jax.Array]


def summarize(
  outputs: Mapping[str, np.ndarray], group_size: int = 1
) -> dict[str, float]:
  """Losses per token, their standard errors, and paired gaps between modes.

  Args:
    outputs: result of `eval_step.collect`: `tokens` and one `score/<mode>`
      per mode, each `[episodes, queries]`.
    group_size: number of consecutive episodes that ask the same queries. They
      are not independent, so that each group is one sample of the statistics.

  Returns:
    `loss/<mode>` and `loss/<mode>_stderr` in nats per target token, each
    episode weighted by its number of target tokens. If the modes include
    `generated`, also `gap/<mode>` for every other mode: its loss minus the loss
    with generated phi, with `_stderr`, and with `_low` and `_high` for the
    paired 95% interval over episodes.
  """

  def group_sums(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).reshape(-1, group_size * x.shape[1]).sum(axis=1)

  tokens = group_sums(outputs['tokens'])
  losses = {
    name.removeprefix('score/'): -group_sums(x)
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
  """`sum(values) / sum(weights)` and the standard error of that ratio.

  Args:
    values: sums of the rows, for example of losses, float `[rows]`.
    weights: number of terms in each sum, float `[rows]`. Rows are assumed to be
      independent of one another; the terms within a row need not be.

  Returns:
    The ratio and its standard error. The error of a single row is unknown: NaN.
    Both are NaN if the weights are all zero.
  """
  total = weights.sum()
  if total == 0:
    return math.nan, math.nan
  mean = values.sum() / total
  rows = len(values)
  if rows < 2:
    return float(mean), math.nan
  # A weighted mean is a ratio of two random sums: its error comes from the
  # residuals of the rows, not from the spread of their own means.
  residuals = values - mean * weights
  squares = rows / (rows - 1) * np.sum(np.square(residuals))
  return float(mean), float(math.sqrt(squares) / total)
