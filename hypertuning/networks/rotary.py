"""Rotary positions (Su et al., 2021) with Llama 3's scaling of frequencies.

The two halves of a head are the pairs that turn, `(i, i + head_dim / 2)`, the
order of Hugging Face's checkpoints. Files that pair neighbours, `(2i, 2i + 1)`,
are put into this order when they are converted.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning.errors import UserError
from hypertuning.ranges import Count, Positive


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
  """How Llama 3.1 and later stretch the positions of an older model.

  Attributes:
    factor: division of the frequencies whose wave is longer than the old text.
    low_freq_factor: waves longer than `original_length / low_freq_factor` are
      stretched in full.
    high_freq_factor: waves shorter than `original_length / high_freq_factor`
      stay as they are; those between the two are blended.
    original_length: number of positions that the older model was trained for.

  Raises:
    UserError: the two factors are in the wrong order.
  """

  factor: Positive = 8.0
  low_freq_factor: Positive = 1.0
  high_freq_factor: Positive = 4.0
  original_length: Count = 8192

  def __post_init__(self) -> None:
    if self.low_freq_factor >= self.high_freq_factor:
      raise UserError(
        f'rotary.RotaryScaling: low_freq_factor = {self.low_freq_factor} must '
        f'be less than high_freq_factor = {self.high_freq_factor}.'
      )


@dataclasses.dataclass(frozen=True)
class Rotary:
  """Turns queries and keys by their positions.

  Attributes:
    theta: base of the wave lengths.
    scaling: stretching of the long waves; None for none.
  """

  theta: Positive = 10_000.0
  scaling: RotaryScaling | None = None

  def frequencies(self, head_dim: int) -> np.ndarray:
    """Angle per position of every pair, float64 `[head_dim / 2]`."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    plain = self.theta**-exponents
    if self.scaling is None:
      return plain
    # How many waves fit into the text that the model was first trained on.
    waves = self.scaling.original_length * plain / (2 * math.pi)
    low, high = self.scaling.low_freq_factor, self.scaling.high_freq_factor
    keep = np.clip((waves - low) / (high - low), 0.0, 1.0)
    return plain * (keep + (1 - keep) / self.scaling.factor)

  def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
    """Turns `x` `[rows, heads, length, head_dim]`; float32 inside.

    Args:
      x: queries or keys.
      positions: int32 `[rows or 1, length]`.

    Returns:
      The shape and type of `x`.
    """
    frequencies = jnp.asarray(self.frequencies(x.shape[-1]), jnp.float32)
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
