"""The layers of a T5 1.1, with adapters in all of their parts."""

from typing import Any

import flax.linen as nn
import jax
from flax.linen import partitioning
from jax.ad_checkpoint import checkpoint_name

from hypertuning.adapters import KeyValue, SiteAdapter
from hypertuning.networks import attention, layers
from hypertuning.networks import t5_config as t5
from hypertuning.networks.stack import SiteAdapters
from hypertuning.networks.t5_config import T5Config

_ACTIVATIONS = ('batch', 'length', 'embed')


class _Layer(nn.Module):
  """The parts that encoder and decoder layers share: residual branches."""

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

  def _after_attention(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return checkpoint_name(self._residual(x, y), 'residual')

  def _residual(self, x: jax.Array, y: jax.Array) -> jax.Array:
    y = nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))(
      y, deterministic=self.deterministic
    )
    return partitioning.with_sharding_constraint(x + y, _ACTIVATIONS)


class EncoderLayer(_Layer):
  """A layer of self-attention and a feed-forward block.

  Attributes:
    gists: number of last columns whose keys and values are returned, without a
      prefix; 0 for none.
  """

  gists: int = 0

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    adapters: SiteAdapters,
    memory: None,
    view: attention.Prepared,
  ) -> tuple[jax.Array, KeyValue | None]:
    adapter = adapters[t5.ENCODER_SELF]
    y = self._norm('pre_attention_layer_norm', x)
    attend = self._attention('attention')
    own = attend.keys_values(y, adapter)
    text = attend.prepend(adapter, own)
    y = attend(y, text, view, adapter, self.deterministic)
    x = self._after_attention(x, y)
    x = self._feed_forward(x, adapters[t5.ENCODER_MLP])
    return x, attention.last_columns(own, self.gists)


class DecoderLayer(_Layer):
  """A layer of self-attention, cross-attention and a feed-forward block.

  Attributes:
    remembers: whether the layer returns its keys and values, which the next
      token needs.
  """

  remembers: bool = False

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    adapters: SiteAdapters,
    memory: dict[str, KeyValue] | None,
    view: attention.Prepared,
    encoded: Any,
    encoded_view: attention.Prepared,
    position: Any,
  ) -> tuple[jax.Array, dict[str, KeyValue] | None]:
    """Applies the layer to a block of tokens.

    Args:
      x: hidden states of the block, `[rows, length, embed]`.
      adapters: parts of the adapter for this layer, from `stack.site_adapters`.
      memory: keys and values of this layer, as an earlier call returned them:
        those of the decoded text (`self`), with room for the block, and those
        of the encoded text (`cross`). None in the first call.
      view: the tokens of its text that each token of the block may see; without
        a memory, the text is the block itself.
      encoded: hidden states of the encoder, `[rows, inputs, embed]`; None with
        a memory.
      encoded_view: the tokens of the encoded text that the block may see.
      position: position of the block in the text, int32 `[]`; only needed with
        a memory.

    Returns:
      Hidden states, `[rows, length, embed]`, and this layer's new memory, if
      the layer `remembers`. With a memory, it has no `cross`, which does not
      change.
    """
    adapter = adapters[t5.DECODER_SELF]
    y = self._norm('pre_self_attention_layer_norm', x)
    attend = self._attention('self_attention')
    text = attend.keys_values(y, adapter)
    if memory is None:
      text = attend.prepend(adapter, text)
    else:
      prefix_length = memory['self'].key.shape[2] - view.text
      text = attention.write(memory['self'], text, prefix_length + position)
    y = attend(y, text, view, adapter, self.deterministic)
    x = self._after_attention(x, y)

    adapter = adapters[t5.DECODER_CROSS]
    y = self._norm('pre_cross_attention_layer_norm', x)
    attend = self._attention('encoder_decoder_attention')
    if memory is None:
      inputs = attend.prepend(adapter, attend.keys_values(encoded, adapter))
    else:
      inputs = memory['cross']
    y = attend(y, inputs, encoded_view, adapter, self.deterministic)
    x = self._feed_forward(
      self._after_attention(x, y), adapters[t5.DECODER_MLP]
    )
    if not self.remembers:
      return x, None
    # The keys and values of the encoded text do not change, and returning them
    # would copy them.
    return x, {'self': text} if memory else {'self': text, 'cross': inputs}
