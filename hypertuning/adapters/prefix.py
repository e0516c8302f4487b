"""Prefixes: keys and values that stand before those of the text in all layers.

In prefix tuning (Li and Liang, 2021) they are learned; in HyperTuning (section
3), a hypermodel generates them.
"""

from collections.abc import Mapping

import flax
import jax
import jax.numpy as jnp

from hypertuning.adapters.sites import KeyValue, SiteAdapter


@flax.struct.dataclass
class Prefix:
  """Generated or learned prefixes, one set per episode.

  Attributes:
    sites: maps the name of each site that gets a prefix to keys and values
      `[episodes, prefix, layers, kv_heads, head_dim]`. If the episodes axis has
      the size 1, all episodes share the prefix.
  """

  sites: Mapping[str, KeyValue]

  def site_adapter(self, site: str) -> SiteAdapter | None:
    """The prefix of one site, in the form that a network reads.

    Args:
      site: name of the site.

    Returns:
      Keys and values `[layers, episodes, prefix, kv_heads, head_dim]`; None if
      the site gets no prefix.
    """
    if site not in self.sites:
      return None
    return SiteAdapter(
      prefix=jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), self.sites[site])
    )
