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
    mask: whether a prefix token is attended to, bool `[episodes, prefix]`; None
      for all tokens. Texts of different lengths, kept as a prefix, need it.
  """

  sites: Mapping[str, KeyValue]
  mask: jax.Array | None = None

  def site_adapter(self, site: str) -> SiteAdapter | None:
    """The prefix of one site, in the form that a network reads.

    Args:
      site: name of the site.

    Returns:
      Keys and values `[layers, episodes, prefix, kv_heads, head_dim]` and, if
      there is a mask, `[layers, episodes, prefix]`; None if the site gets no
      prefix.
    """
    if site not in self.sites:
      return None
    prefix = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), self.sites[site])
    mask = self.mask
    if mask is not None:
      mask = jnp.broadcast_to(mask, (len(prefix.key), *mask.shape))
    return SiteAdapter(prefix=prefix, prefix_mask=mask)
