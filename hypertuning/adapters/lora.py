"""LoRA: low-rank updates of projections (Hu et al., 2021)."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from hypertuning import trees
from hypertuning.adapters.sites import LowRank, Site, SiteAdapter


@flax.struct.dataclass
class LoRA:
  """Generated or learned low-rank factors, one set per episode.

  Attributes:
    sites: site name to projection name (such as `query`) to `LowRank`. An
      episodes axis of 1 holds factors that all episodes share.
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


def without_heads(shape: tuple[int, ...]) -> tuple[int, ...]:
  """Today's shape of a factor `b` that was saved as `[..., heads, head_dim]`.

  Earlier versions kept the two axes apart, in adapter files and checkpoints.
  """
  return (*shape[:-2], shape[-2] * shape[-1])


def merge(
  adapters: LoRA,
  params: Mapping[str, Any],
  sites: Mapping[str, Site],
  episode: int,
) -> dict:
  """Adds one episode's `dW` to the downstream model's kernels.

  Args:
    adapters: factors with a leading `[episodes, ...]` axis.
    params: the parameter tree of the network (the `downstream` subtree).
    sites: where the network takes adapters, `config.sites`.
    episode: number of the episode whose factors are merged.

  Returns:
    A new parameter tree; the model that runs with it needs no adapter.
  """
  flat = trees.flatten_paths(params)
  for site, projections in adapters.sites.items():
    for name, factors in projections.items():
      path = f'{sites[site].modules[name].path}/kernel'
      delta = adapters.scale * jnp.einsum(
        'lir,lro->lio', factors.a[episode], factors.b[episode]
      )
      if path in flat:  # scanned: one kernel holds all layers
        flat[path] = flat[path] + delta.astype(flat[path].dtype)
        continue
      for layer, layer_delta in enumerate(delta):
        own = path.replace('/layers/', f'/layers_{layer}/')
        flat[own] = flat[own] + layer_delta.astype(flat[own].dtype)
  return trees.unflatten_paths(flat)
