"""LoRA: low-rank updates of projections (Hu et al., 2021)."""

import dataclasses
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
    sites: maps the name of a site to a dict from the name of a projection, such
      as `query`, to its factors. If the episodes axis has the size 1, all
      episodes share the factors.
    scale: number `alpha / rank`, by which `b` is multiplied when a network
      reads the factors.
  """

  sites: Mapping[str, Mapping[str, LowRank]]
  scale: float = flax.struct.field(pytree_node=False, default=1.0)

  def site_adapter(self, site: str) -> SiteAdapter | None:
    """The factors of one site, in the form that a network reads.

    Args:
      site: name of the site.

    Returns:
      Factors whose first axis is `layers`, with the scale in `b`; None if the
      adapter does not act at the site.
    """
    if site not in self.sites:
      return None
    lora = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), self.sites[site])
    return SiteAdapter(
      lora={
        name: dataclasses.replace(factors, b=factors.b * self.scale)
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
  """Adds the update of one episode to the downstream model's kernels.

  Args:
    adapters: factors with a leading `[episodes, ...]` axis.
    params: parameter tree of the downstream network (the subtree `downstream`).
    sites: sites of the network, `config.sites`.
    episode: number of the episode whose factors are merged.

  Returns:
    A new parameter tree. A model with these parameters needs no adapter.
  """
  flat = trees.flatten_paths(params)
  for site, projections in adapters.sites.items():
    for name, factors in projections.items():
      path = f'{sites[site].modules[name].path}/kernel'
      delta = adapters.scale * jnp.einsum(
        'lir,lro->lio', factors.a[episode], factors.b[episode]
      )
      if path in flat:  # layers are scanned, and one kernel holds all of them
        flat[path] = flat[path] + delta.astype(flat[path].dtype)
        continue
      for layer, layer_delta in enumerate(delta):
        own = path.replace('/layers/', f'/layers_{layer}/')
        flat[own] = flat[own] + layer_delta.astype(flat[own].dtype)
  return trees.unflatten_paths(flat)
