"""Multi-head attention that takes an optional prefix and LoRA factors.

Keys and values have their heads before their length, the order in which a step
of decoding reads them: `[rows, kv_heads, length, head_dim]`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters.sites import KeyValue, SiteAdapter
from hypertuning.networks import layers

# Finite, so that a row with nothing to attend to is uniform and not NaN.
MASKED = -1e10
# Turns `[rows, heads, length, head_dim]` by int32 `[rows or 1, length]`.
Rotary = Callable[[jax.Array, jax.Array], jax.Array]


def mask_to_bias(mask: jax.Array) -> jax.Array:
  """Boolean mask (True = attend) to an additive float32 bias."""
  return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)


def prepend(prefix: KeyValue | None, text: KeyValue) -> KeyValue:
  """A text's keys and values behind those of a prefix.

  Args:
    prefix: one layer's, `[episodes, prefix, kv_heads, head_dim]`.
    text: `[rows, kv_heads, length, head_dim]`; `episodes` divides `rows`.

  Returns:
    `[rows, kv_heads, prefix + length, head_dim]`, in the text's type.
  """
  if prefix is None:
    return text
  rows = text.key.shape[0]

  def join(before: jax.Array, x: jax.Array) -> jax.Array:
    before = before.swapaxes(1, 2).astype(x.dtype)
    before = jnp.repeat(before, rows // before.shape[0], axis=0)
    return jnp.concatenate([before, x], axis=2)

  return jax.tree.map(join, prefix, text)


def write(memory: KeyValue, new: KeyValue, place: jax.Array) -> KeyValue:
  """A memory with new keys and values from `place` on."""
  return jax.tree.map(
    lambda x, y: jax.lax.dynamic_update_slice_in_dim(
      x, y.astype(x.dtype), place, axis=2
    ),
    memory,
    new,
  )


def dot_product_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  bias: jax.Array,
  dropout: Callable[[jax.Array], jax.Array],
  scale: float = 1.0,
  float32_logits: bool = False,
) -> jax.Array:
  """Attention with softmax in float32.

  Args:
    query: `[rows, heads, q, head_dim]`.
    key: `[rows, kv_heads, k, head_dim]`; each serves `heads / kv_heads` heads.
    value: the shape of `key`.
    bias: additive, broadcastable to `[rows, heads, q, k]`.
    dropout: applied to the attention weights.
    scale: of the logits; T5 has none, others 1 / sqrt(head_dim).
    float32_logits: multiply queries and keys in float32 too.

  Returns:
    `[rows, heads, q, head_dim]`.
  """
  rows, heads, length, head_dim = query.shape
  _, kv_heads, columns, _ = key.shape
  # The heads of a group are rows of one matmul: keys are never repeated.
  grouped = (rows, kv_heads, heads // kv_heads * length)
  query = query.reshape(*grouped, head_dim)
  if float32_logits:
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  logits = jnp.einsum('bhqd,bhkd->bhqk', query, key).astype(jnp.float32)
  logits = logits.reshape(rows, heads, length, columns)
  logits = logits * scale + bias if scale != 1.0 else logits + bias
  weights = dropout(jax.nn.softmax(logits).astype(value.dtype))
  x = jnp.einsum('bhqk,bhkd->bhqd', weights.reshape(*grouped, columns), value)
  return x.reshape(rows, heads, length, value.shape[-1])


class Attention(nn.Module):
  """Attention over text, with an adapter's part for this layer if there is one.

  What is attended to (`keys_values`) and attending (`__call__`) are apart, so
  that decoding projects a text once and reads it at every token.

  Attributes:
    features: width of the residual stream that is written to.
    num_heads: number of query heads.
    head_dim: size of one head, which need not be `features / num_heads`.
    num_kv_heads: number of key and value heads; `num_heads` if None.
    scale: of the attention logits.
    rotary: turns queries and keys by their positions; None for no such thing.
    query_init: initializer of the query kernel.
    dropout_rate: of the attention weights.
    dtype: computation type.
    float32_logits: see `dot_product_attention`.
  """

  features: int
  num_heads: int
  head_dim: int
  num_kv_heads: int | None = None
  scale: float = 1.0
  rotary: Rotary | None = None
  query_init: layers.Initializer = layers.FAN_IN
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  float32_logits: bool = False

  def setup(self) -> None:
    kv_heads = self.num_kv_heads or self.num_heads
    # Fewer heads may not divide the devices that `heads` are divided over.
    grouped = kv_heads != self.num_heads
    self.kv_axis = 'kv_heads' if grouped else 'heads'
    kv_axes = ('embed', 'joined_kv_heads' if grouped else 'joined_kv')
    self.query = layers.DenseGeneral(
      (self.num_heads, self.head_dim),
      ('embed', 'joined_kv'),
      dtype=self.dtype,
      kernel_init=self.query_init,
    )
    self.key = layers.DenseGeneral(
      (kv_heads, self.head_dim), kv_axes, dtype=self.dtype
    )
    self.value = layers.DenseGeneral(
      (kv_heads, self.head_dim), kv_axes, dtype=self.dtype
    )
    self.out = layers.DenseGeneral(
      self.features, ('joined_kv', 'embed'), num_input_dims=2, dtype=self.dtype
    )
    self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

  def keys_values(
    self, x: jax.Array, adapter: SiteAdapter | None = None
  ) -> KeyValue:
    """Keys and values of a text, without positions and without the prefix.

    Args:
      x: `[rows, length, features]`.
      adapter: this layer's LoRA factors.
    """
    adapter = adapter or SiteAdapter()
    key = self.key(x, adapter.module('key'))
    value = self.value(x, adapter.module('value'))
    return KeyValue(
      key=_heads_first(key, self.kv_axis),
      value=_heads_first(value, self.kv_axis),
    )

  def place(self, keys_values: KeyValue, positions: jax.Array) -> KeyValue:
    """Keys turned by their int32 positions `[rows or 1, length]`."""
    if self.rotary is None:
      return keys_values
    key = self.rotary(keys_values.key, positions)
    return KeyValue(key=key, value=keys_values.value)

  def prepend(
    self, adapter: SiteAdapter | None, keys_values: KeyValue
  ) -> KeyValue:
    """Placed keys and values behind the adapter's prefix, if it has one.

    A prefix is stored without positions and stands at 0..prefix-1.
    """
    prefix = adapter.prefix if adapter else None
    if prefix is None:
      return keys_values
    if self.rotary is not None:
      positions = jnp.arange(prefix.key.shape[1])[None]
      key = self.rotary(prefix.key.swapaxes(1, 2), positions)
      prefix = KeyValue(key=key.swapaxes(1, 2), value=prefix.value)
    return prepend(prefix, keys_values)

  def __call__(
    self,
    x: jax.Array,
    keys_values: KeyValue,
    bias: jax.Array,
    adapter: SiteAdapter | None,
    deterministic: bool,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """Attends from `x` to keys and values.

    Args:
      x: `[rows, q, features]`.
      keys_values: `[rows, kv_heads, k, head_dim]`, a prefix before the text.
      bias: float32, broadcastable to `[rows, heads, q, text]`. It holds the
        masks and T5's relative bias of text to text only: the columns before
        the text, a prefix, get 0 and are never masked.
      adapter: this layer's LoRA factors.
      deterministic: no dropout.
      positions: int32 `[rows or 1, q]`, needed where there is `rotary`.

    Returns:
      `[rows, q, features]`.
    """
    adapter = adapter or SiteAdapter()
    query = _heads_first(self.query(x, adapter.module('query')), 'heads')
    if self.rotary is not None and positions is not None:
      query = self.rotary(query, positions)
    before = keys_values.key.shape[2] - bias.shape[-1]
    y = dot_product_attention(
      query,
      keys_values.key,
      keys_values.value,
      jnp.pad(bias, [(0, 0)] * 3 + [(before, 0)]) if before else bias,
      lambda weights: self.dropout(weights, deterministic=deterministic),
      self.scale,
      self.float32_logits,
    )
    return self.out(y.swapaxes(1, 2), adapter.module('out'))


def _heads_first(x: jax.Array, axis: str) -> jax.Array:
  """`[rows, length, heads, head_dim]` to `[rows, heads, length, head_dim]`."""
  x = partitioning.with_sharding_constraint(x, ('batch', 'length', axis, 'kv'))
  return x.swapaxes(1, 2)
