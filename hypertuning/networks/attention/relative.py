"""The module that owns a table of T5's relative biases."""

import flax.linen as nn
import jax.numpy as jnp

from hypertuning.networks import layers
from hypertuning.networks.attention.view import Places, RelativeBiases


class RelativePositionBias(nn.Module):
  """A table of attention biases, which all layers of a stack share.

  Attributes:
    num_heads: number of attention heads.
    bidirectional: whether keys after the query have buckets of their own.
    num_buckets: number of buckets.
    max_distance: distance from which on all keys share the last bucket.
    embedding_init: initializer of the table `[heads, buckets]`.
  """

  num_heads: int
  bidirectional: bool
  num_buckets: int
  max_distance: int
  embedding_init: layers.Initializer

  @nn.compact
  def __call__(self, places: Places) -> RelativeBiases:
    """The biases between queries and keys at these places."""
    table = layers.param_with_axes(
      'rel_embedding',
      self.embedding_init,
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=('heads', 'relpos_buckets'),
    )
    return RelativeBiases(table, places, self.bidirectional, self.max_distance)
