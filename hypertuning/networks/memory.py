"""What a network remembers between two tokens that it decodes."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Memory:
  """The state of decoding, which knows its rows.

  Attributes:
    first: int32 `[rows]`, the ids that the first step reads.
    position: int32, number of tokens that were read.
    layers: what every layer keeps, such as keys and values; row axis `axis`.
    rows: whatever else belongs to rows, row axis 0.
    shared: what no row has for itself, such as an episode's LoRA factors.
    length: number of tokens that there is room for.
    axis: row axis of the leaves of `layers`: 1 where layers are scanned.
  """

  first: jax.Array
  position: jax.Array
  layers: Any
  rows: Any
  shared: Any
  length: int = flax.struct.field(pytree_node=False)
  axis: int = flax.struct.field(pytree_node=False, default=0)

  def repeat(self, times: int) -> 'Memory':
    """Every row `times` in a row, for several decodes of one text."""
    return self._map(lambda x, axis: jnp.repeat(x, times, axis))

  def take(self, rows: jax.Array) -> 'Memory':
    """The rows of these numbers, int32 `[rows]`.

    A row may only take the place of another one of its own episode.
    """
    return self._map(lambda x, axis: jnp.take(x, rows, axis))

  def _map(self, function: Any) -> 'Memory':
    return dataclasses.replace(
      self,
      first=function(self.first, 0),
      layers=jax.tree.map(lambda x: function(x, self.axis), self.layers),
      rows=jax.tree.map(lambda x: function(x, 0), self.rows),
    )
