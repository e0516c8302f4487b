"""T5 1.1: encoder, decoder and the whole, with adapters in every attention.

Field and parameter names equal t5x's minimal T5, so that public checkpoints
load unchanged. With `scan_layers` the layers of a stack are one module,
`layers`, whose parameters have a leading `layers` axis.
"""

from collections.abc import Sequence
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters import Adapters, sites
from hypertuning.adapters.sites import SiteAdapter
from hypertuning.networks import attention, layers

_ACTIVATIONS = ('batch', 'length', 'embed')
_REMAT_POLICIES = {
  'full': None,
  'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@flax.struct.dataclass
class T5Config:
  """Sizes and numerics of a T5 1.1.

  Attributes:
    vocab_size: rows of the embedding and columns of the output head.
    dtype: computation type; parameters are float32.
    emb_dim: width of the residual stream.
    num_heads: attention heads.
    num_encoder_layers: depth of the encoder.
    num_decoder_layers: depth of the decoder.
    head_dim: size of one head.
    mlp_dim: hidden size of the feed-forward blocks.
    mlp_activations: gated GELU for T5 1.1.
    dropout_rate: used only where a call enables dropout.
    logits_via_embedding: tied output head (T5 1.0); 1.1 has its own.
    float32_attention_logits: multiply queries and keys in float32.
    scan_layers: one scanned layer instead of an unrolled stack.
    remat_policy: `none`, `full` (save nothing) or `minimal` (save matmuls).
    relpos_num_buckets: rows of the relative bias tables.
    relpos_max_distance: distance from which on all share a bucket.
    relpos_init: initializer of the relative bias tables.
  """

  vocab_size: int
  dtype: Any = jnp.float32
  emb_dim: int = 512
  num_heads: int = 8
  num_encoder_layers: int = 6
  num_decoder_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  mlp_activations: Sequence[str] = ('gelu', 'linear')
  dropout_rate: float = 0.0
  logits_via_embedding: bool = False
  float32_attention_logits: bool = False
  scan_layers: bool = False
  remat_policy: str = 'none'
  relpos_num_buckets: int = 32
  relpos_max_distance: int = 128
  relpos_init: layers.Initializer = nn.initializers.variance_scaling(
    1.0, 'fan_avg', 'uniform'
  )


class _Layer(nn.Module):
  """What encoder and decoder layers share: residual branches."""

  config: T5Config
  deterministic: bool
  cache_length: int | None = None

  def _attend(
    self,
    x: jax.Array,
    kv: jax.Array | None,
    bias: jax.Array,
    adapter: SiteAdapter | None,
    norm: str,
    name: str,
    position: jax.Array | None = None,
    cache_length: int | None = None,
  ) -> jax.Array:
    cfg = self.config
    y = layers.RMSNorm(dtype=cfg.dtype, name=norm)(x)
    y = attention.Attention(
      cfg.num_heads,
      cfg.head_dim,
      cfg.dropout_rate,
      cfg.dtype,
      cfg.float32_attention_logits,
      name=name,
    )(
      y,
      y if kv is None else kv,
      bias,
      adapter,
      self.deterministic,
      position,
      cache_length,
    )
    return self._residual(x, y)

  def _feed_forward(self, x: jax.Array) -> jax.Array:
    cfg = self.config
    y = layers.RMSNorm(dtype=cfg.dtype, name='pre_mlp_layer_norm')(x)
    y = layers.MLP(
      cfg.mlp_dim, cfg.mlp_activations, cfg.dropout_rate, cfg.dtype, name='mlp'
    )(y, self.deterministic)
    return self._residual(x, y)

  def _residual(self, x: jax.Array, y: jax.Array) -> jax.Array:
    y = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))(
      y, deterministic=self.deterministic
    )
    return partitioning.with_sharding_constraint(x + y, _ACTIVATIONS)


class EncoderLayer(_Layer):
  """Self-attention and feed-forward."""

  @nn.compact
  def __call__(
    self, x: jax.Array, adapters: dict[str, SiteAdapter | None], bias: jax.Array
  ) -> tuple[jax.Array, None]:
    x = self._attend(
      x,
      None,
      bias,
      adapters[sites.ENCODER_SELF],
      'pre_attention_layer_norm',
      'attention',
    )
    return self._feed_forward(x), None


class DecoderLayer(_Layer):
  """Self-attention, cross-attention and feed-forward."""

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    adapters: dict[str, SiteAdapter | None],
    self_bias: jax.Array,
    encoded: jax.Array,
    cross_bias: jax.Array,
    position: jax.Array | None,
  ) -> tuple[jax.Array, None]:
    x = self._attend(
      x,
      None,
      self_bias,
      adapters[sites.DECODER_SELF],
      'pre_self_attention_layer_norm',
      'self_attention',
      position,
      self.cache_length,
    )
    x = self._attend(
      x,
      encoded,
      cross_bias,
      adapters[sites.DECODER_CROSS],
      'pre_cross_attention_layer_norm',
      'encoder_decoder_attention',
    )
    return self._feed_forward(x), None


def _run_layers(
  layer_class: type[_Layer],
  num_layers: int,
  settings: dict[str, Any],
  x: jax.Array,
  adapters: dict[str, SiteAdapter | None],
  *shared: Any,
) -> jax.Array:
  """Runs a stack; leaves of `adapters` have `layers` first."""
  config = settings['config']
  if config.remat_policy != 'none':
    layer_class = nn.remat(
      layer_class,
      policy=_REMAT_POLICIES[config.remat_policy],
      prevent_cse=not config.scan_layers,
    )
  if config.scan_layers:
    scanned = partitioning.scan_with_axes(
      layer_class,
      variable_axes={'params': 0, 'cache': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0,) + (nn.broadcast,) * len(shared),
      length=num_layers,
      axis_name='layers',
      axes_collections=('params',),
    )
    return scanned(**settings, name='layers')(x, adapters, *shared)[0]
  for i in range(num_layers):
    layer_adapters = jax.tree.map(lambda leaf, i=i: leaf[i], adapters)
    layer = layer_class(**settings, name=f'layers_{i}')
    x, _ = layer(x, layer_adapters, *shared)
  return x


def _at(adapters: Adapters | None, *names: str) -> dict:
  return {name: adapters.at(name) if adapters else None for name in names}


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
      embedded: `[batch, length, embed]`.
      mask: bool `[batch, length]`, False on padding; padding is never attended.
      adapters: phi with a leading `[batch]` axis.
      deterministic: no dropout.

    Returns:
      `[batch, length, embed]`; rows of padding hold nothing of use.
    """
    cfg = self.config
    positions = jnp.arange(embedded.shape[1])
    bias = self._relative_bias(positions, positions, bidirectional=True)
    bias = bias + attention.mask_to_bias(mask[:, None, None, :])
    x = self._dropout(embedded.astype(cfg.dtype), deterministic)
    x = _run_layers(
      EncoderLayer,
      cfg.num_encoder_layers,
      {'config': cfg, 'deterministic': deterministic},
      x,
      _at(adapters, sites.ENCODER_SELF),
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

  @nn.compact
  def __call__(
    self,
    embedded: jax.Array,
    mask: jax.Array,
    encoded: jax.Array,
    encoded_mask: jax.Array,
    adapters: Adapters | None = None,
    deterministic: bool = True,
    cache_length: int | None = None,
  ) -> jax.Array:
    """Decodes.

    Args:
      embedded: `[batch, length, embed]`; with a cache, the next token's only.
      mask: bool `[batch, length]`, False on padding (without a cache).
      encoded: `[batch, encoded_length, embed]`.
      encoded_mask: bool `[batch, encoded_length]`.
      adapters: phi with a leading `[batch]` axis.
      deterministic: no dropout.
      cache_length: if given, decode one token at a time with a key / value
        cache of that many positions (collection `cache`).

    Returns:
      `[batch, length, embed]`.
    """
    cfg = self.config
    self_bias, position = self._self_bias(mask, cache_length)
    x = self._dropout(embedded.astype(cfg.dtype), deterministic)
    x = _run_layers(
      DecoderLayer,
      cfg.num_decoder_layers,
      {
        'config': cfg,
        'deterministic': deterministic,
        'cache_length': cache_length,
      },
      x,
      _at(adapters, sites.DECODER_SELF, sites.DECODER_CROSS),
      self_bias,
      encoded,
      attention.mask_to_bias(encoded_mask[:, None, None, :]),
      position,
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name='decoder_norm')(x)
    return self._dropout(x, deterministic)

  def _self_bias(
    self, mask: jax.Array, cache_length: int | None
  ) -> tuple[jax.Array, jax.Array | None]:
    """Relative bias plus masks, and the position of the next cached token."""
    if cache_length is not None:
      index = self.variable('cache', 'cache_index', jnp.zeros, (), jnp.int32)
      position = index.value
      if not self.is_initializing():
        index.value = position + 1
      queries, keys = position[None], jnp.arange(cache_length)
      visible = (keys <= position)[None, None, None]
    else:
      position = None
      queries = keys = jnp.arange(mask.shape[1])
      visible = mask[:, None, None, :]
      if self.causal:
        visible = visible & (keys[None, :] <= queries[:, None])
    bias = self._relative_bias(queries, keys, self.bidirectional_bias)
    return bias + attention.mask_to_bias(visible), position

  @nn.compact
  def logits(self, x: jax.Array) -> jax.Array:
    """Float32 logits of an untied head, `[batch, length, vocab]`."""
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

  def encode(
    self,
    tokens: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """`[batch, length]` int32 (0 = padding) to `[batch, length, embed]`."""
    return self.encoder(
      self.token_embedder(tokens), tokens > 0, adapters, not enable_dropout
    )

  def decode(
    self,
    encoded: jax.Array,
    encoder_input_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
    cache_length: int | None = None,
  ) -> jax.Array:
    """Logits of every target position.

    Args:
      encoded: `[batch, inputs, embed]` from `encode`.
      encoder_input_tokens: `[batch, inputs]`, for their padding.
      decoder_input_tokens: `[batch, targets]`, shifted right; one token a call
        where there is a cache.
      decoder_target_tokens: `[batch, targets]`, for their padding.
      adapters: phi with a leading `[batch]` axis.
      enable_dropout: whether dropout is on.
      cache_length: see `Decoder`.

    Returns:
      Float32 `[batch, targets, vocab]`.
    """
    hidden = self.decoder(
      self.token_embedder(decoder_input_tokens),
      decoder_target_tokens > 0,
      encoded,
      encoder_input_tokens > 0,
      adapters,
      not enable_dropout,
      cache_length,
    )
    if self.config.logits_via_embedding:
      return self.token_embedder.attend(hidden) / jnp.sqrt(hidden.shape[-1])
    return self.decoder.logits(hidden)

  def __call__(
    self,
    encoder_input_tokens: jax.Array,
    decoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Teacher-forced logits, `[batch, targets, vocab]`; see `decode`."""
    encoded = self.encode(encoder_input_tokens, adapters, enable_dropout)
    return self.decode(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      adapters,
      enable_dropout,
    )
