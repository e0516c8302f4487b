"""A hypermodel for a network of any family, without a tower of its own."""

import flax.linen as nn
import jax

from hypertuning.adapters import Adapters, PrefixSpec
from hypertuning.adapters.specs import HasSites
from hypertuning.networks import layers


class Reader(nn.Module):
  """Reads the examples with the frozen network; heads generate a prefix.

  Attributes:
    config: configuration of the network.
    adapter: the prefix that is generated.
  """

  config: HasSites
  adapter: PrefixSpec

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    downstream: nn.Module,
    enable_dropout: bool = False,
  ) -> Adapters:
    """One prefix per episode.

    Args:
      tokens: int32 `[episodes, length]`.
      downstream: the frozen network.
      enable_dropout: not used.
    """
    del enable_dropout
    hidden = downstream(tokens, tokens[:, :1])[:, 0]
    shapes = self.adapter.shapes(self.config)
    leaves, structure = jax.tree.flatten(shapes)
    made = [
      layers.DenseGeneral(x.shape[1:], ('embed', 'mlp'), name=f'head_{i}')(
        hidden
      )
      for i, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, made)
