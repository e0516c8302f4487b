"""LoRA: low-rank updates of attention projections (Hu et al., 2021)."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from hypertuning import trees
from hypertuning.adapters.sites import (
  DECODER_CROSS,
  DECODER_SELF,
  ENCODER_SELF,
  LowRank,
  SiteAdapter,
)

_MODULES = {
  ENCODER_SELF: ('encoder', 'attention'),
  DECODER_SELF: ('decoder', 'self_attention'),
  DECODER_CROSS: ('decoder', 'encoder_decoder_attention'),
}


@flax.struct.dataclass
class LoRA:
  """Generated or learned low-rank factors, one set an episode.

  Attributes:
    sites: site name to projection name (`query`, `key`, `value`) to `LowRank`.
    scale: `alpha / rank`, applied to `b` when a network reads the factors.
  """

  sites: Mapping[str, Mapping[str, LowRank]]
  scale: float = flax.struct.field(pytree_node=False, default=1.0)

  def at(self, site: str) -> SiteAdapter | None:
    """The site's factors with the layers axis first and the scale in `b`."""
    if site not in self.sites:
      return None
    lora = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), self.sites[site])
    return SiteAdapter(
      lora={
        name: LowRank(a=factors.a, b=factors.b * self.scale)
        for name, factors in lora.items()
      }
    )


def merge(adapters: LoRA, params: Mapping[str, Any], episode: int) -> dict:
  """Adds one episode's `dW` to the downstream model's kernels.

  Args:
    adapters: factors with a leading `[episodes, ...]` axis.
    params: the parameter tree of a T5 (the `downstream` subtree).
    episode: whose factors to merge.

  Returns:
    A new parameter tree; the model that runs with it needs no adapter.
  """
  flat = trees.flatten_paths(params)
  for site, projections in adapters.sites.items():
    stack, module = _MODULES[site]
    for projection, factors in projections.items():
      delta = adapters.scale * jnp.einsum(
        'ldr,lrhk->ldhk', factors.a[episode], factors.b[episode]
      )
      delta = delta.reshape(*delta.shape[:2], -1)  # kernels are flat
      stacked = f'{stack}/layers/{module}/{projection}/kernel'
      if stacked in flat:
        flat[stacked] = flat[stacked] + delta.astype(flat[stacked].dtype)
        continue
      for layer, layer_delta in enumerate(delta):
        path = f'{stack}/layers_{layer}/{module}/{projection}/kernel'
        flat[path] = flat[path] + layer_delta.astype(flat[path].dtype)
  return trees.unflatten_paths(flat)
