"""Sites: the places in a network where adapters act.

The configuration of a network describes its sites: `config.sites` maps the name
of each site to a `Site`. Adapters, heads, files and merging depend on these
descriptions alone, and not on any network.
"""

import dataclasses
from collections.abc import Mapping

import flax
import jax


@dataclasses.dataclass(frozen=True)
class Matrix:
  """A projection that every layer of a site has, and that LoRA may update.

  Attributes:
    path: path of the projection in the parameter tree. If layers are not
      scanned, the part `layers` stands for `layers_0`, `layers_1` and so on.
    inputs: number of rows of the flat kernel.
    outputs: number of columns of the flat kernel.
    axes: logical names of the kernel's two axes.
  """

  path: str
  inputs: int
  outputs: int
  axes: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Site:
  """A place that all layers of a stack have, such as their self-attention.

  Attributes:
    layers: number of layers.
    modules: maps the name of each projection to its description.
    kv_heads: number of key and value heads; 0 if the site is no attention, and
      cannot have a prefix.
    head_dim: size of one head.
    kv_axis: logical name of the axis of key and value heads.
    key_scale: root mean square that a generated key starts with. It should be
      small for a network that does not divide its attention logits by
      sqrt(head_dim).
  """

  layers: int
  modules: Mapping[str, Matrix]
  kv_heads: int = 0
  head_dim: int = 0
  kv_axis: str = 'heads'
  key_scale: float = 1.0


@flax.struct.dataclass
class KeyValue:
  """Keys and values of an attention.

  Attributes:
    key: keys, `[rows, kv_heads, length, head_dim]` in a network, and
      `[episodes, prefix, layers, kv_heads, head_dim]` in a `Prefix`, where they
      have not been turned by positions.
    value: values, in the same shape.
  """

  key: jax.Array
  value: jax.Array


@flax.struct.dataclass
class LowRank:
  """The two factors of the update of a projection, `dW = scale * a @ b`.

  Attributes:
    a: first factor, `[episodes, layers, inputs, rank]`.
    b: second factor, `[episodes, layers, rank, outputs]`; like the kernel, it
      has one axis for all heads and their features.
    columns: number of first columns of a text that are updated, which a network
      sets where it reads the factors; None for all columns.
  """

  a: jax.Array
  b: jax.Array
  columns: int | None = flax.struct.field(pytree_node=False, default=None)


@flax.struct.dataclass
class SiteAdapter:
  """The part of an adapter that acts at one site.

  The first axis of all leaves is `layers`, which a network indexes or scans. A
  layer then reads leaves without this axis. Its rows belong to the episodes in
  order, equally many to each.

  Attributes:
    prefix: keys and values `[episodes, prefix, kv_heads, head_dim]` of a layer.
    lora: maps the name of each projection to the factors
      `[episodes, inputs, rank]` and `[episodes, rank, outputs]` of a layer; the
      scale is already in `b`.
    prefix_mask: whether a prefix token is attended to, bool
      `[episodes, prefix]` of a layer; None for all tokens.
  """

  prefix: KeyValue | None = None
  lora: Mapping[str, LowRank] | None = None
  prefix_mask: jax.Array | None = None

  def module(self, name: str) -> LowRank | None:
    """The factors of one projection; None if it is not updated."""
    return (self.lora or {}).get(name)
