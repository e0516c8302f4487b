"""Learned adapters: one phi for all episodes, whatever their examples are.

These are prefix tuning (Li and Liang, 2021) and LoRA (Hu et al., 2021), trained
on a mixture: the baselines that HyperTuning compares with. The keys and values,
or the factors, are parameters themselves.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters, Spec
from hypertuning.adapters.specs import HasSites
from hypertuning.networks import layers
from hypertuning.ranges import Positive


class Learned(nn.Module):
  """Adapters that are parameters themselves, in place of a hypermodel.

  Attributes:
    downstream: configuration of the network that reads the adapters.
    adapter: spec of the adapters: their kind, sizes and sites.
    prefix_stddev: standard deviation of the initial keys and values. LoRA's `a`
      starts with the scale of a dense layer, and its `b` at zero.

  Raises:
    UserError: the network has no such site or projection.
  """

  downstream: HasSites
  adapter: Spec
  prefix_stddev: Positive = 1.0

  def __post_init__(self) -> None:
    super().__post_init__()
    self.adapter.selected_sites(self.downstream)  # refuses missing sites

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    downstream: nn.Module | None = None,
    enable_dropout: bool = False,
  ) -> Adapters:
    """The same adapters for every episode.

    A hypermodel takes the same arguments; here, all of them are ignored.

    Args:
      tokens: token ids of the examples.
      downstream: the downstream network.
      enable_dropout: whether dropout is on.

    Returns:
      Adapters with an episodes axis of 1, which is never broadcast.
    """
    del tokens, downstream, enable_dropout

    def learn(path: Any, leaf: jax.ShapeDtypeStruct, axes: Any) -> jax.Array:
      names = [str(getattr(x, 'key', getattr(x, 'name', x))) for x in path]
      value = layers.param_with_axes(
        '_'.join(['phi', *names[1:]]),  # the first name is `sites`
        self._init(names[-1]),
        leaf.shape[1:],
        jnp.float32,
        axes=axes,
      )
      return value.astype(self.downstream.dtype)[None]

    return jax.tree_util.tree_map_with_path(
      learn,
      self.adapter.shapes(self.downstream),
      self.adapter.axes(self.downstream),
    )

  def _init(self, leaf: str) -> layers.Initializer:
    if leaf == 'b':
      return nn.initializers.zeros
    if leaf == 'a':
      return nn.initializers.variance_scaling(
        1.0, 'fan_in', 'normal', in_axis=1, out_axis=2, batch_axis=0
      )
    return nn.initializers.normal(self.prefix_stddev)
