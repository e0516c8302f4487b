"""Layers of a T5 1.1, with adapters in every part."""

from typing import Any

import flax.linen as nn
import jax
from flax.linen import partitioning

from hypertuning.adapters import KeyValue, SiteAdapter
from hypertuning.networks import attention, layers
from hypertuning.networks import t5_config as t5
from hypertuning.networks.stack import SiteAdapters
from hypertuning.networks.t5_config import T5Config

_ACTIVATIONS = ('batch', 'length', 'embed')


class _Layer(nn.Module):
  """What encoder and decoder layers share: residual branches."""

  config: T5Config
  deterministic: bool

  def _norm(self, name: str, x: jax.Array) -> jax.Array:
    return layers.RMSNorm(dtype=self.config.dtype, name=name)(x)

  def _attention(self, name: str) -> attention.Attention:
    cfg = self.config
    return attention.Attention(
      features=cfg.emb_dim,
      num_heads=cfg.num_heads,
      head_dim=cfg.head_dim,
      # T5 folds the 1 / sqrt(head_dim) of its logits into the initial queries.
      query_init=nn.initializers.variance_scaling(
        1.0 / cfg.head_dim, 'fan_in', 'truncated_normal'
      ),
      dropout_rate=cfg.dropout_rate,
      dtype=cfg.dtype,
      float32_logits=cfg.float32_attention_logits,
      name=name,
    )

  def _feed_forward(
    self, x: jax.Array, adapter: SiteAdapter | None
  ) -> jax.Array:
    cfg = self.config
    y = layers.MLP(
      cfg.mlp_dim, cfg.mlp_activations, cfg.dropout_rate, cfg.dtype, name='mlp'
    )(
      self._norm('pre_mlp_layer_norm', x),
      self.deterministic,
      adapter.lora if adapter else None,
    )
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
    self, x: jax.Array, adapters: SiteAdapters, memory: None, bias: jax.Array
  ) -> tuple[jax.Array, None]:
    adapter = adapters[t5.ENCODER_SELF]
    y = self._norm('pre_attention_layer_norm', x)
    attend = self._attention('attention')
    text = attend.prepend(adapter, attend.keys_values(y, adapter))
    x = self._residual(x, attend(y, text, bias, adapter, self.deterministic))
    return self._feed_forward(x, adapters[t5.ENCODER_MLP]), None


class DecoderLayer(_Layer):
  """Self-attention, cross-attention and feed-forward.

  Attributes:
    remembers: whether keys and values are returned, for the next token.
  """

  remembers: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    adapters: SiteAdapters,
    memory: dict[str, KeyValue] | None,
    bias: jax.Array,
    encoded: Any,
    encoded_bias: jax.Array,
    position: Any,
  ) -> tuple[jax.Array, dict[str, KeyValue] | None]:
    """One layer over a block of text.

    Args:
      x: `[rows, length, embed]`.
      adapters: of `stack.at_sites`, this layer's.
      memory: keys and values of what was read before the block, `self` with
        room for it, and of the encoded text, `cross`; None at first.
      bias: of the block, or with a memory of all of its text.
      encoded: `[rows, inputs, embed]`; None with a memory.
      encoded_bias: `[rows, 1, 1, inputs]`.
      position: with a memory, int32 place of the block in the text.
    """
    adapter = adapters[t5.DECODER_SELF]
    y = self._norm('pre_self_attention_layer_norm', x)
    attend = self._attention('self_attention')
    text = attend.keys_values(y, adapter)
    if memory is None:
      text = attend.prepend(adapter, text)
    else:
      before = memory['self'].key.shape[2] - bias.shape[-1]  # the prefix
      text = attention.write(memory['self'], text, before + position)
    x = self._residual(x, attend(y, text, bias, adapter, self.deterministic))

    adapter = adapters[t5.DECODER_CROSS]
    y = self._norm('pre_cross_attention_layer_norm', x)
    attend = self._attention('encoder_decoder_attention')
    if memory is None:
      inputs = attend.prepend(adapter, attend.keys_values(encoded, adapter))
    else:
      inputs = memory['cross']
    y = attend(y, inputs, encoded_bias, adapter, self.deterministic)
    x = self._feed_forward(self._residual(x, y), adapters[t5.DECODER_MLP])
    if not self.remembers:
      return x, None
    # What has not changed need not be copied.
    return x, {'self': text} if memory else {'self': text, 'cross': inputs}
