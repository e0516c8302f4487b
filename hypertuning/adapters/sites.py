"""Where in a network an adapter acts, and what one layer of it gets.

A network's configuration names its sites: `config.sites` is a mapping from a
site's name to `Site`. Adapters, heads, files and merging read that and know no
network.
"""

import dataclasses
from collections.abc import Mapping

import flax
import jax


@dataclasses.dataclass(frozen=True)
class Matrix:
  """One projection of every layer of a site, which LoRA may update.

  Attributes:
    path: name of the projection in the parameter tree; the part `layers` stands
      for `layers_0`, `layers_1` and so on where layers are not scanned.
    inputs: rows of the flat kernel.
    outputs: columns of the flat kernel.
    axes: logical names of the kernel's two axes.
  """

  path: str
  inputs: int
  outputs: int
  axes: tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Site:
  """A place that all layers of a stack have.

  Attributes:
    layers: number of layers.
    modules: name of a projection to what it is.
    kv_heads: key and value heads of an attention; 0 where there is none, and
      no prefix can go.
    head_dim: size of one head.
    kv_axis: logical name of the axis of key and value heads.
    key_scale: root mean square that a generated key starts with. A network that
      does not divide its attention logits by sqrt(head_dim) wants small ones.
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
    key: in a `Prefix` `[episodes, prefix, layers, kv_heads, head_dim]`, without
      a position. In a network's memory `[rows, kv_heads, length, head_dim]`.
    value: the same shape.
  """

  key: jax.Array
  value: jax.Array


@flax.struct.dataclass
class LowRank:
  """The two factors of one projection's update, `dW = scale * a @ b`.

  Both are flat, like the kernels that they update.

  Attributes:
    a: `[episodes, layers, inputs, rank]`.
    b: `[episodes, layers, rank, outputs]`.
  """

  a: jax.Array
  b: jax.Array


@flax.struct.dataclass
class SiteAdapter:
  """An adapter's part for one site, the layers axis moved to the front.

  A network indexes or scans that axis. One layer then sees leaves without it:
  `prefix` `[episodes, prefix, kv_heads, head_dim]`, and `lora` factors
  `[episodes, inputs, rank]` and `[episodes, rank, outputs]`, the scale in `b`.
  A layer's rows are those of the episodes in order, equally many per episode.
  """

  prefix: KeyValue | None = None
  lora: Mapping[str, LowRank] | None = None

  def module(self, name: str) -> LowRank | None:
    """The factors of one projection, or None where it is not updated."""
    return (self.lora or {}).get(name)
