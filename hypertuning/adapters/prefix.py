"""Prefix: keys and values put before the text's own in every layer.

Prefix tuning (Li and Liang, 2021); HyperTuning section 3 generates them.
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
    sites: site name to `KeyValue`; a site that is missing gets no prefix.
      Leaves are `[episodes, prefix, layers, kv_heads, head_dim]`. An episodes
      axis of 1 is a prefix that all episodes share.
  """

  sites: Mapping[str, KeyValue]

  def at(self, site: str) -> SiteAdapter | None:
    """The site's part, `[layers, episodes, prefix, kv_heads, head_dim]`."""
    if site not in self.sites:
      return None
    return SiteAdapter(
      prefix=jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), self.sites[site])
    )
