"""Free adapter parameters: one phi for all episodes, whatever they show.

Prefix tuning (Li and Liang, 2021) and LoRA (Hu et al., 2021) trained on a
mixture, the shared baselines of HyperTuning; keys, values and factors are the
parameters, with no network behind them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters
from hypertuning.networks import layers

# Axes behind `[episodes]`, by leaf.
_AXES = {
  'key': ('stack', 'layers', 'heads', 'kv'),
  'value': ('stack', 'layers', 'heads', 'kv'),
  'a': ('layers', 'embed', 'stack'),
  'b': ('layers', 'stack', 'heads', 'kv'),
}


class Learned(nn.Module):
  """Adapters that are parameters themselves, in place of a hypermodel.

  Attributes:
    head: `heads.PrefixHead` or `heads.LoRAHead`; it says which adapters there
      are, and has no parameters here.
    prefix_stddev: of the initial keys and values. LoRA's `a` starts with the
      scale of a dense layer, its `b` at zero.
  """

  head: nn.Module
  prefix_stddev: float = 1.0

  @nn.compact
  def __call__(
    self, tokens: jax.Array, enable_dropout: bool = False
  ) -> Adapters:
    """The same adapters for every episode.

    Args:
      tokens: int32 `[episodes, length]`; only the number of episodes is used.
      enable_dropout: nothing; there is none.
    """
    del enable_dropout
    head = self.head.clone(parent=None)
    shapes = jax.eval_shape(
      lambda: head.init_with_output(
        jax.random.key(0), jnp.zeros((1, head.num_queries, 1))
      )[0]
    )

    def learn(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
      names = [str(getattr(x, 'key', getattr(x, 'name', x))) for x in path]
      value = layers.param_with_axes(
        '_'.join(['phi', *names[1:]]),  # without `sites`
        self._init(names[-1]),
        leaf.shape[1:],
        jnp.float32,
        axes=_AXES[names[-1]],
      )
      value = value.astype(head.downstream.dtype)
      return jnp.broadcast_to(value, (tokens.shape[0], *value.shape))

    return jax.tree_util.tree_map_with_path(learn, shapes)

  def _init(self, leaf: str) -> layers.Initializer:
    if leaf == 'b':
      return nn.initializers.zeros
    if leaf == 'a':
      return nn.initializers.variance_scaling(
        1.0, 'fan_in', 'normal', in_axis=1, out_axis=2, batch_axis=0
      )
    return nn.initializers.normal(self.prefix_stddev)
