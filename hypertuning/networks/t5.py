"""T5 1.1: encoder, decoder and the whole, with adapters in every layer.

Field and parameter names equal t5x's minimal T5, so that public checkpoints
load unchanged. With `scan_layers` the layers of a stack are one module,
`layers`, whose parameters have a leading `layers` axis.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters, SiteAdapter
from hypertuning.networks import attention, layers, stack
from hypertuning.networks import t5_config as t5
from hypertuning.networks.memory import Memory
from hypertuning.networks.stack import SiteAdapters
from hypertuning.networks.t5_config import T5Config
from hypertuning.networks.t5_layers import DecoderLayer, EncoderLayer
from hypertuning.padding import is_real

__all__ = ['T5', 'Decoder', 'Encoder', 'T5Config']


class _Stack(nn.Module):
  """What encoder and decoder stacks share: positions, norm, dropout."""

  config: T5Config

  def _relative_bias(
    self, queries: jax.Array, keys: jax.Array, bidirectional: bool
  ) -> jax.Array:
    cfg = self.config
    return layers.RelativePositionBias(
      cfg.num_heads,
      bidirectional,
      cfg.relpos_num_buckets,
      cfg.relpos_max_distance,
      cfg.relpos_init,
      name='relpos_bias',
    )(queries, keys)

  def _dropout(self, x: jax.Array, deterministic: bool) -> jax.Array:
    return nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))(
      x, deterministic=deterministic
    )


class Encoder(_Stack):
  """Embedded text to hidden states."""

  @nn.compact
  def __call__(
    self,
    embedded: jax.Array,
    mask: jax.Array,
    adapters: Adapters | None = None,
    deterministic: bool = True,
  ) -> jax.Array:
    """Encodes.

    Args:
      embedded: `[rows, length, embed]`.
      mask: bool `[rows, length]`, False on padding; padding is never attended.
      adapters: phi of episodes, equally many rows per episode.
      deterministic: no dropout.

    Returns:
      `[rows, length, embed]`; rows of padding hold nothing of use.
    """
    cfg = self.config
    positions = jnp.arange(embedded.shape[1])
    bias = self._relative_bias(positions, positions, bidirectional=True)
    bias = bias + attention.mask_to_bias(mask[:, None, None, :])
    x, _ = stack.run_layers(
      EncoderLayer,
      cfg.num_encoder_layers,
      cfg,
      {'deterministic': deterministic},
      self._dropout(embedded.astype(cfg.dtype), deterministic),
      stack.at_sites(adapters, (t5.ENCODER_SELF, t5.ENCODER_MLP)),
      None,
      bias,
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name='encoder_norm')(x)
    return self._dropout(x, deterministic)


class Decoder(_Stack):
  """Embedded text, or a hypermodel's learned queries, to hidden states.

  Attributes:
    causal: text attends to the past; a hypermodel's queries to one another.
    bidirectional_bias: T5's decoder table has no buckets for the future; a
      hypermodel may give it such (which changes what its rows mean).
  """

  causal: bool = True
  bidirectional_bias: bool = False

  def __call__(
    self,
    embedded: jax.Array,
    encoded: jax.Array,
    encoded_mask: jax.Array,
    adapters: Adapters | None = None,
    deterministic: bool = True,
  ) -> jax.Array:
    """Decodes a whole text at once.

    Args:
      embedded: `[rows, length, embed]`. A causal text needs no mask: padding
        comes last, where no token sees it.
      encoded: `[rows, inputs, embed]`.
      encoded_mask: bool `[rows, inputs]`.
      adapters: phi of episodes, equally many rows per episode.
      deterministic: no dropout.

    Returns:
      `[rows, length, embed]`; rows of padding hold nothing of use.
    """
    places = jnp.arange(embedded.shape[1])
    visible = jnp.ones((places.size, places.size), bool)
    if self.causal:
      visible = jnp.tril(visible)
    x, _ = self._run(
      embedded,
      self._sites(adapters),
      None,
      (places, places, visible[None, None]),
      encoded,
      encoded_mask,
      deterministic=deterministic,
    )
    return x

  def start(
    self,
    encoded: jax.Array,
    encoded_mask: jax.Array,
    adapters: Adapters | None,
    length: int,
  ) -> Memory:
    """The memory of a text that is to be decoded, token by token.

    Keys and values of the encoded text are computed here, once.

    Args:
      encoded: `[rows, inputs, embed]`.
      encoded_mask: bool `[rows, inputs]`.
      adapters: phi of episodes, equally many rows per episode.
      length: number of tokens that there must be room for.
    """
    parts = self._sites(adapters)
    rows, _, width = encoded.shape
    places = jnp.arange(0)
    _, kept = self._run(
      # A block of no tokens: layers compute what they remember, and no more.
      jnp.zeros((rows, 0, width), encoded.dtype),
      parts,
      None,
      (places, places, jnp.zeros((1, 1, 0, 0), bool)),
      encoded,
      encoded_mask,
      remembers=True,
    )
    scanned = self.config.scan_layers
    room = [(0, 0)] * (2 + scanned) + [(0, length), (0, 0)]
    return Memory(
      first=jnp.zeros(rows, jnp.int32),  # T5 starts from id 0
      position=jnp.zeros((), jnp.int32),
      layers=stack.each_layer(
        lambda layer: {
          **layer,
          'self': jax.tree.map(lambda x: jnp.pad(x, room), layer['self']),
        },
        kept,
      ),
      rows=encoded_mask,
      shared=jax.tree.map(
        lambda part: SiteAdapter(lora=part.lora),  # it stands in the keys
        parts,
        is_leaf=lambda x: isinstance(x, SiteAdapter),
      ),
      length=length,
      axis=int(scanned),
    )

  def step(
    self, embedded: jax.Array, memory: Memory
  ) -> tuple[jax.Array, Memory]:
    """Hidden states of the next token, `[rows, 1, embed]` to the same."""
    position, keys = memory.position, jnp.arange(memory.length)
    x, kept = self._run(
      embedded,
      memory.shared,
      memory.layers,
      (position[None], keys, (keys <= position)[None, None, None]),
      None,
      memory.rows,
      position,
      remembers=True,
    )
    changed = stack.each_layer(lambda a, b: {**a, **b}, memory.layers, kept)
    return x, dataclasses.replace(memory, position=position + 1, layers=changed)

  def _sites(self, adapters: Adapters | None) -> SiteAdapters:
    return stack.at_sites(
      adapters, (t5.DECODER_SELF, t5.DECODER_CROSS, t5.DECODER_MLP)
    )

  @nn.compact
  def _run(
    self,
    embedded: jax.Array,
    adapters: SiteAdapters,
    memory: Any,
    view: tuple[jax.Array, jax.Array, jax.Array],
    encoded: jax.Array | None,
    encoded_mask: jax.Array,
    position: jax.Array | None = None,
    remembers: bool = False,
    deterministic: bool = True,
  ) -> tuple[jax.Array, Any]:
    """The layers over a block, and what they remember.

    Args:
      embedded: the block, `[rows, length, embed]`.
      adapters: of `_sites`.
      memory: see `DecoderLayer`.
      view: places of the block `[length]`, places of all text that it may see,
        and what it sees, broadcastable to `[rows, heads, length, text]`.
      encoded: see `DecoderLayer`.
      encoded_mask: bool `[rows, inputs]`.
      position: see `DecoderLayer`.
      remembers: see `DecoderLayer`.
      deterministic: no dropout.
    """
    cfg = self.config
    queries, keys, visible = view
    bias = self._relative_bias(queries, keys, self.bidirectional_bias)
    x, kept = stack.run_layers(
      DecoderLayer,
      cfg.num_decoder_layers,
      cfg,
      {'deterministic': deterministic, 'remembers': remembers},
      self._dropout(embedded.astype(cfg.dtype), deterministic),
      adapters,
      memory,
      bias + attention.mask_to_bias(visible),
      encoded,
      attention.mask_to_bias(encoded_mask[:, None, None, :]),
      position,
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name='decoder_norm')(x)
    return self._dropout(x, deterministic), kept

  @nn.compact
  def logits(self, x: jax.Array) -> jax.Array:
    """Float32 logits of an untied head, `[rows, length, vocab]`."""
    return layers.DenseGeneral(
      self.config.vocab_size, ('embed', 'vocab'), name='logits_dense'
    )(x)


class T5(nn.Module):
  """A T5 1.1 encoder-decoder language model that takes adapters."""

  config: T5Config

  def setup(self) -> None:
    cfg = self.config
    self.token_embedder = layers.Embed(
      cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype
    )
    self.encoder = Encoder(cfg)
    self.decoder = Decoder(cfg)

  def __call__(
    self,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Hidden states that predict the targets, see `networks.Network`."""
    hidden = self.decoder(
      # Shifted right: a target is predicted from those before it, the first one
      # from id 0.
      self.token_embedder(jnp.pad(targets[:, :-1], [(0, 0), (1, 0)])),
      self.encode(inputs, adapters, enable_dropout),
      is_real(inputs),
      adapters,
      not enable_dropout,
    )
    if self.is_initializing():
      self.logits(hidden)  # makes the head's parameters
    return hidden

  def encode(
    self,
    tokens: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Int32 `[rows, length]`, 0 on padding, to `[rows, length, embed]`."""
    return self.encoder(
      self.token_embedder(tokens), is_real(tokens), adapters, not enable_dropout
    )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Float32 `[rows, length, vocab]` from `[rows, length, embed]`."""
    if self.config.logits_via_embedding:
      return self.token_embedder.attend(hidden) / jnp.sqrt(hidden.shape[-1])
    return self.decoder.logits(hidden)

  def start(
    self, inputs: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """A memory of the inputs, from which `length` tokens can be decoded."""
    return self.decoder.start(
      self.encode(inputs, adapters), is_real(inputs), adapters, length
    )

  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """Logits `[rows, vocab]` of the token behind int32 `[rows]` ids."""
    hidden, memory = self.decoder.step(
      self.token_embedder(ids)[:, None], memory
    )
    return self.logits(hidden)[:, 0], memory
