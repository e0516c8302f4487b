"""T5 1.1: the encoder, the decoder and both, with adapters in every layer.

Names of fields and parameters are those of t5x's minimal T5, so that public
checkpoints can be loaded unchanged. With `scan_layers`, the layers of a stack
are one module, `layers`, whose parameters have the axis `layers` first.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters, LoRA, Prefix
from hypertuning.networks import attention, layers, stack
from hypertuning.networks import t5_config as t5
from hypertuning.networks.gist_sequence import append_gists, gist_mask
from hypertuning.networks.memory import Memory
from hypertuning.networks.stack import SiteAdapters
from hypertuning.networks.t5_config import T5Config
from hypertuning.networks.t5_encoder import Encoder, Stack
from hypertuning.networks.t5_layers import DecoderLayer
from hypertuning.padding import is_real

__all__ = ['T5', 'Decoder', 'Encoder', 'T5Config']


class Decoder(Stack):
  """Turns embedded text, or a hypermodel's learned queries, into hidden states.

  Attributes:
    causal: whether a token attends only to tokens before it, as text does. The
      queries of a hypermodel attend to one another.
    bidirectional_bias: whether the table of relative biases has buckets for
      tokens that come later. T5's decoder has none. If a hypermodel has them,
      the rows of a T5's table get another meaning.
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
      embedded: embeddings of the tokens, `[rows, length, embed]`. A causal text
        needs no mask: padding comes last, and no token attends to it.
      encoded: hidden states of the encoder, `[rows, inputs, embed]`.
      encoded_mask: mask of the encoder's tokens, bool `[rows, inputs]`, False
        on padding.
      adapters: phi of the episodes, which have equally many rows each; None for
        no phi.
      deterministic: whether dropout is off.

    Returns:
      Hidden states, `[rows, length, embed]`; those of padding have no meaning.
    """
    length = embedded.shape[1]
    x, _ = self._apply_layers(
      embedded,
      self._sites(adapters),
      None,
      attention.View(length, causal=self.causal),
      attention.column_places(length),
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
    """Makes the memory of a text that will be decoded token by token.

    The keys and values of the encoded text are computed only here.

    Args:
      encoded: hidden states of the encoder, `[rows, inputs, embed]`.
      encoded_mask: mask of the encoder's tokens, bool `[rows, inputs]`, False
        on padding.
      adapters: phi of the episodes, which have equally many rows each; None for
        no phi.
      length: number of tokens that the memory has room for.
    """
    site_parts = self._sites(adapters)
    rows, _, width = encoded.shape
    _, layer_memory = self._apply_layers(
      # The block has no tokens, so that layers compute their memories alone.
      jnp.zeros((rows, 0, width), encoded.dtype),
      site_parts,
      None,
      attention.View(0),
      attention.column_places(0),
      encoded,
      encoded_mask,
      remembers=True,
    )
    is_scanned = self.config.scan_layers
    room = [(0, 0)] * (2 + is_scanned) + [(0, length), (0, 0)]
    return Memory(
      first=jnp.zeros(rows, jnp.int32),  # T5 starts from id 0
      position=jnp.zeros((), jnp.int32),
      layers=stack.each_layer(
        lambda layer: {
          **layer,
          'self': jax.tree.map(lambda x: jnp.pad(x, room), layer['self']),
        },
        layer_memory,
      ),
      rows=encoded_mask,
      # The prefix is among the keys and values of the memory already.
      shared=stack.without_prefix(site_parts),
      length=length,
      axis=int(is_scanned),
    )

  def step(
    self, embedded: jax.Array, memory: Memory
  ) -> tuple[jax.Array, Memory]:
    """Decodes one more token.

    Args:
      embedded: embedding of one token per row, `[rows, 1, embed]`.
      memory: memory of the tokens before it.

    Returns:
      Hidden states that predict the next token, `[rows, 1, embed]`, and the new
      memory.
    """
    position, keys = memory.position, jnp.arange(memory.length)
    x, layer_memory = self._apply_layers(
      embedded,
      memory.shared,
      memory.layers,
      attention.View(memory.length, keys=(keys <= position)[None]),
      attention.Places(position[None], keys),
      None,
      memory.rows,
      position,
      remembers=True,
    )
    new_layers = stack.each_layer(
      lambda a, b: {**a, **b}, memory.layers, layer_memory
    )
    return x, dataclasses.replace(
      memory, position=position + 1, layers=new_layers
    )

  def _sites(self, adapters: Adapters | None) -> SiteAdapters:
    return stack.site_adapters(
      adapters, (t5.DECODER_SELF, t5.DECODER_CROSS, t5.DECODER_MLP)
    )

  @nn.compact
  def _apply_layers(
    self,
    embedded: jax.Array,
    adapters: SiteAdapters,
    memory: Any,
    view: attention.View,
    places: attention.Places,
    encoded: jax.Array | None,
    encoded_mask: jax.Array,
    position: jax.Array | None = None,
    remembers: bool = False,
    deterministic: bool = True,
  ) -> tuple[jax.Array, Any]:
    """Applies the layers to a block of tokens.

    Args:
      embedded: embeddings of the block, `[rows, length, embed]`.
      adapters: parts of the adapter, from `_sites`.
      memory: memories of the layers, see `DecoderLayer`.
      view: the tokens of its text that each token of the block may see, without
        relative biases.
      places: positions of the block's tokens, and of all tokens.
      encoded: hidden states of the encoder, see `DecoderLayer`.
      encoded_mask: mask of the encoder's tokens, bool `[rows, inputs]`, False
        on padding.
      position: position of the block, see `DecoderLayer`.
      remembers: whether the layers return memories.
      deterministic: whether dropout is off.

    Returns:
      Hidden states, `[rows, length, embed]`, and the memories of the layers.
    """
    cfg = self.config
    relative = self._relative_biases(places, self.bidirectional_bias)
    view = dataclasses.replace(view, relative=relative)
    encoded_view = attention.View(encoded_mask.shape[1], keys=encoded_mask)
    views = {t5.DECODER_SELF: view, t5.DECODER_CROSS: encoded_view}
    if remembers:  # decodes token by token
      seen: list[Any] = [attention.Plain(x.bias()) for x in views.values()]
    else:
      seen = [
        self._prepare(x, adapters[site], deterministic)
        for site, x in views.items()
      ]
    x, layer_memory = stack.run_layers(
      DecoderLayer,
      cfg.num_decoder_layers,
      cfg,
      {'deterministic': deterministic, 'remembers': remembers},
      self._dropout(embedded.astype(cfg.dtype), deterministic),
      adapters,
      memory,
      seen[0],
      encoded,
      seen[1],
      position,
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name='decoder_norm')(x)
    return self._dropout(x, deterministic), layer_memory

  @nn.compact
  def logits(self, x: jax.Array) -> jax.Array:
    """Logits of an untied head, float32 `[rows, length, vocab]`."""
    return layers.DenseGeneral(
      self.config.vocab_size,
      ('embed', 'vocab'),
      dtype=self.config.dtype,
      is_head=True,
      name='logits_dense',
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
    encoded = self.encode(inputs, adapters, enable_dropout)
    hidden = self._predict(encoded, inputs, targets, adapters, enable_dropout)
    if self.is_initializing():
      self.logits(hidden)  # makes the parameters of the output head
    return hidden

  def _predict(
    self,
    encoded: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: Adapters | None,
    enable_dropout: bool,
  ) -> jax.Array:
    """Decodes whole targets from their encoded inputs."""
    return self.decoder(
      # Targets are shifted to the right: each is predicted from those before
      # it, and the first one from id 0.
      self.token_embedder(jnp.pad(targets[:, :-1], [(0, 0), (1, 0)])),
      encoded,
      is_real(inputs),
      adapters,
      not enable_dropout,
    )

  def encode(
    self,
    tokens: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Encodes a text.

    Args:
      tokens: token ids, int32 `[rows, length]`, 0 on padding.
      adapters: phi of the episodes; None for no phi.
      enable_dropout: whether dropout is on.

    Returns:
      Hidden states, `[rows, length, embed]`.
    """
    return self.encoder(
      self.token_embedder(tokens),
      attention.View(tokens.shape[1], keys=is_real(tokens), at_end=True),
      attention.column_places(tokens.shape[1]),
      adapters,
      not enable_dropout,
    )[0]

  def compress(
    self,
    tokens: jax.Array,
    gists: jax.Array,
    adapters: Adapters | None = None,
    before: Prefix | None = None,
    enable_dropout: bool = False,
  ) -> tuple[jax.Array, Prefix]:
    """The encoder reads texts and gists, see `networks.Compressor`."""
    count = gists.shape[0]
    embedded, real, positions = append_gists(
      self.token_embedder(tokens), is_real(tokens), gists
    )
    hidden, kept = self.encoder(
      embedded,
      attention.View(real.shape[1], keys=real),
      attention.Places(positions, positions),
      adapters,
      not enable_dropout,
      before,
      count,
    )
    return hidden[:, -count:], stack.as_prefix(kept, t5.ENCODER_SELF)

  def compress_and_predict(
    self,
    tokens: jax.Array,
    gists: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: LoRA | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """All inputs in one sequence, see `networks.Compressor`.

    The encoder reads it. Its relative biases count within the text and gists,
    and within each input; from inputs to gists they are 0, as to a prefix. The
    decoder reads each input by itself, and no gist.
    """
    (rows, length), episodes = inputs.shape, tokens.shape[0]
    head, real, positions = append_gists(
      self.token_embedder(tokens), is_real(tokens), gists
    )
    mask = gist_mask(tokens.shape[1], gists.shape[0], rows // episodes, length)
    read = inputs.reshape(episodes, -1)
    real = jnp.concatenate([real, is_real(read)], axis=1)
    own = jnp.broadcast_to(jnp.arange(length), inputs.shape)
    positions = jnp.concatenate([positions, own.reshape(episodes, -1)], axis=1)
    encoded, _ = self.encoder(
      jnp.concatenate([head, self.token_embedder(read)], axis=1),
      attention.View(real.shape[1], keys=real, visible=mask.visible[None]),
      attention.Places(positions, positions, mask.through),
      stack.on_first_columns(adapters, head.shape[1]),
      not enable_dropout,
    )
    encoded = encoded[:, head.shape[1] :].reshape(rows, length, -1)
    return self._predict(encoded, inputs, targets, None, enable_dropout)

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Logits, float32 `[rows, length, vocab]`, of `[rows, length, embed]`."""
    if self.config.logits_via_embedding:
      return self.token_embedder.attend(hidden) / jnp.sqrt(hidden.shape[-1])
    return self.decoder.logits(hidden)

  def start(
    self, inputs: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """Reads the inputs, see `networks.Network.start`."""
    return self.decoder.start(
      self.encode(inputs, adapters), is_real(inputs), adapters, length
    )

  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """Reads one token per row, see `networks.Network.step`."""
    hidden, memory = self.decoder.step(
      self.token_embedder(ids)[:, None], memory
    )
    return self.logits(hidden)[:, 0], memory
