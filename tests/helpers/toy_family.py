"""A second model family in a few lines: a decoder-only network with rotary
positions, grouped heads and the prompt before the targets in one sequence.

It is made of the library's parts and named nowhere in it: whatever takes a
network must take this one.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters, Matrix, Prefix, Site
from hypertuning.networks import attention, layers, stack
from hypertuning.networks.memory import Memory
from hypertuning.padding import is_real


@flax.struct.dataclass
class ToyConfig:
  """Sizes: two key and value heads for four query heads."""

  vocab_size: int = 37
  dtype: Any = jnp.float32
  scan_layers: bool = False
  remat_policy: str = 'none'
  width: int = 20
  depth: int = 2

  @property
  def sites(self) -> Mapping[str, Site]:
    embed, heads = ('embed', 'joined_kv'), ('joined_kv', 'embed')
    kv = ('embed', 'joined_kv_heads')
    path = 'decoder/layers'
    return {
      'self': Site(
        self.depth,
        {
          'query': Matrix(f'{path}/attention/query', self.width, 24, embed),
          'key': Matrix(f'{path}/attention/key', self.width, 12, kv),
          'value': Matrix(f'{path}/attention/value', self.width, 12, kv),
          'out': Matrix(f'{path}/attention/out', 24, self.width, heads),
        },
        kv_heads=2,
        head_dim=6,
        kv_axis='kv_heads',
      ),
      'mlp': Site(
        self.depth,
        {'wi': Matrix(f'{path}/mlp/wi', self.width, 28, ('embed', 'mlp'))},
      ),
    }


def rotary(x: jax.Array, positions: jax.Array) -> jax.Array:
  half = x.shape[-1] // 2
  angles = positions[:, None, :, None] / 100 ** (jnp.arange(half) / half)
  a, b = x[..., :half], x[..., half:]
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class Layer(nn.Module):
  config: ToyConfig
  remembers: bool

  @nn.compact
  def __call__(self, x, adapters, memory, view, positions, place):
    width, adapter = self.config.width, adapters['self']
    attend = attention.Attention(
      width, 4, 6, 2, 6**-0.5, rotary, name='attention'
    )
    y = layers.RMSNorm(name='norm')(x)
    text = attend.place(attend.keys_values(y, adapter), positions)
    if memory is None:
      text = attend.prepend(adapter, text)
    else:
      prefix = memory.key.shape[2] - view.text
      text = attention.write(memory, text, prefix + place)
    x = x + attend(y, text, view, adapter, True, positions)
    mlp = layers.MLP(28, ('relu',), name='mlp')
    lora = adapters['mlp'].lora if adapters['mlp'] else None
    x = x + mlp(layers.RMSNorm(name='mlp_norm')(x), True, lora)
    return x, text if self.remembers else None


class Decoder(nn.Module):
  config: ToyConfig

  @nn.compact
  def __call__(
    self, x, adapters, memory, visible, positions, place=None, **how
  ):
    bias = attention.mask_to_bias(visible[:, None])
    x, kept = stack.run_layers(
      *(Layer, self.config.depth, self.config, how),
      *(x, adapters, memory, attention.Plain(bias), positions, place),
    )
    return layers.RMSNorm(name='final_norm')(x), kept


class Toy(nn.Module):
  """The network; see `networks.Network`."""

  config: ToyConfig

  def setup(self) -> None:
    self.embedder = layers.Embed(self.config.vocab_size, self.config.width)
    self.decoder = Decoder(self.config)

  def __call__(self, inputs, targets, adapters=None, enable_dropout=False):
    del enable_dropout
    mask, last, first = self._prompt(inputs, adapters)
    ids = jnp.concatenate([inputs, last[:, None], targets[:, :-1]], axis=1)
    own = jnp.arange(targets.shape[1])
    visible = jnp.pad(mask, [(0, 0), (0, own.size)], constant_values=True)
    visible = visible[:, None] & jnp.tri(ids.shape[1], dtype=bool)
    before = jnp.arange(inputs.shape[1]) + self._prefix(adapters)
    before = jnp.broadcast_to(before, inputs.shape)
    positions = jnp.concatenate([before, first + own], axis=1)
    x, _ = self.decoder(
      self.embedder(ids),
      self._sites(adapters),
      None,
      visible,
      positions,
      remembers=False,
    )
    return x[:, inputs.shape[1] :]

  def logits(self, hidden):
    return self.embedder.attend(hidden)

  def start(self, inputs, adapters: Adapters | None, length: int) -> Memory:
    mask, last, first = self._prompt(inputs, adapters)
    places = jnp.arange(inputs.shape[1])
    parts = self._sites(adapters)
    _, kept = self.decoder(
      self.embedder(inputs),
      parts,
      None,
      mask[:, None] & jnp.tri(places.size, dtype=bool),
      (places + self._prefix(adapters))[None],
      remembers=True,
    )
    scanned = self.config.scan_layers
    room = [(0, 0)] * (2 + scanned) + [(0, length), (0, 0)]
    return Memory(
      first=last,
      position=jnp.zeros((), jnp.int32),
      layers=jax.tree.map(lambda x: jnp.pad(x, room), kept),
      rows={'mask': mask, 'first': first},
      shared=jax.tree.map(
        lambda part: dataclasses.replace(part, prefix=None),
        parts,
        is_leaf=lambda x: hasattr(x, 'prefix'),
      ),
      length=length,
      axis=int(scanned),
    )

  def step(self, ids, memory: Memory):
    mask, position = memory.rows['mask'], memory.position
    written = jnp.arange(memory.length) <= position
    written = jnp.broadcast_to(written, (mask.shape[0], memory.length))
    x, kept = self.decoder(
      self.embedder(ids)[:, None],
      memory.shared,
      memory.layers,
      jnp.concatenate([mask, written], axis=1)[:, None],
      memory.rows['first'] + position,
      mask.shape[1] + position,
      remembers=True,
    )
    memory = dataclasses.replace(memory, position=position + 1, layers=kept)
    return self.logits(x)[:, 0], memory

  def _prompt(self, inputs, adapters):
    """The prompt's mask without its last token, which starts the targets."""
    count = is_real(inputs).sum(axis=1, keepdims=True)
    mask = jnp.arange(inputs.shape[1]) < count - 1
    last = jnp.take_along_axis(inputs, jnp.maximum(count - 1, 0), axis=1)[:, 0]
    return mask, last, jnp.maximum(count - 1, 0) + self._prefix(adapters)

  def _prefix(self, adapters) -> int:
    if not isinstance(adapters, Prefix):
      return 0
    return adapters.sites['self'].key.shape[1]

  def _sites(self, adapters):
    return stack.site_adapters(adapters, ('self', 'mlp'))
