"""The memory of a network while it decodes, from one token to the next."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Memory:
  """The state of decoding, whose rows can be repeated and reordered.

  Attributes:
    first: ids that the first step reads, int32 `[rows]`.
    position: number of tokens that have been read, int32 `[]`.
    layers: pytree of the layers' own memories, such as keys and values; `axis`
      is the axis of rows.
    rows: pytree of other values per row; the axis of rows is the first one.
    shared: pytree of values that several rows share, such as the LoRA factors
      of an episode.
    length: number of tokens that the memory has room for.
    axis: axis of rows in the leaves of `layers`; 1 if layers are scanned.
  """

  first: jax.Array
  position: jax.Array
  layers: Any
  rows: Any
  shared: Any
  length: int = flax.struct.field(pytree_node=False)
  axis: int = flax.struct.field(pytree_node=False, default=0)

  def repeat(self, times: int) -> 'Memory':
    """Repeats every row `times` times, for several decodes of a text."""
    return self._map(lambda x, axis: jnp.repeat(x, times, axis))

  def take(self, rows: jax.Array) -> 'Memory':
    """Replaces every row by another row of the same episode.

    Rows of other episodes cannot be taken, as `shared` stays as it is.

    Args:
      rows: numbers of the rows that are taken, int32 `[rows]`.
    """
    return self._map(lambda x, axis: jnp.take(x, rows, axis))

  def _map(self, function: Any) -> 'Memory':
    return dataclasses.replace(
      self,
      first=function(self.first, 0),
      layers=jax.tree.map(lambda x: function(x, self.axis), self.layers),
      rows=jax.tree.map(lambda x: function(x, 0), self.rows),
    )
