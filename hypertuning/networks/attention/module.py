"""Multi-head attention with an optional prefix and optional LoRA factors.

Keys and values are `[rows, kv_heads, length, head_dim]`: the axis of heads is
before that of tokens, the order in which a step of decoding reads memory.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.ad_checkpoint import checkpoint_name

from hypertuning.adapters.sites import KeyValue, SiteAdapter
from hypertuning.networks import layers
from hypertuning.networks.attention.choice import Prepared

# A function that turns queries or keys, `[rows, heads, length, head_dim]`, by
# their positions, int32 `[rows or 1, length]`.
Rotary = Callable[[jax.Array, jax.Array], jax.Array]


def prepend(prefix: KeyValue | None, text: KeyValue) -> KeyValue:
  """Puts the keys and values of a prefix before those of a text.

  Args:
    prefix: keys and values of one layer's prefix,
      `[episodes, prefix, kv_heads, head_dim]`; None for no prefix.
    text: keys and values of the text, `[rows, kv_heads, length, head_dim]`;
      `rows` is a multiple of `episodes`.

  Returns:
    `[rows, kv_heads, prefix + length, head_dim]`, in the dtype of the text.
  """
  if prefix is None:
    return text
  rows = text.key.shape[0]

  def join(prefix_part: jax.Array, x: jax.Array) -> jax.Array:
    prefix_part = prefix_part.swapaxes(1, 2).astype(x.dtype)
    prefix_part = jnp.repeat(prefix_part, rows // prefix_part.shape[0], axis=0)
    return jnp.concatenate([prefix_part, x], axis=2)

  return jax.tree.map(join, prefix, text)


def last_columns(keys_values: KeyValue, count: int) -> KeyValue | None:
  """The last `count` keys and values of a text; None if there are none.

  Layers cut them by this before they return them: a scan over layers would
  otherwise keep those of the whole text.
  """
  if not count:
    return None
  return jax.tree.map(lambda x: x[:, :, -count:], keys_values)


def write(memory: KeyValue, new: KeyValue, place: jax.Array) -> KeyValue:
  """Writes keys and values into a memory, from the position `place` on."""
  return jax.tree.map(
    lambda x, y: jax.lax.dynamic_update_slice_in_dim(
      x, y.astype(x.dtype), place, axis=2
    ),
    memory,
    new,
  )


class Attention(nn.Module):
  """Attention over text, with this layer's part of an adapter, if any.

  One method makes keys and values (`keys_values`), another attends to them
  (`__call__`), so that decoding makes the keys of a text once, and attends to
  them at every token.

  Attributes:
    features: width of the residual stream, which is the output.
    num_heads: number of query heads.
    head_dim: size of one head, which need not be `features / num_heads`.
    num_kv_heads: number of key and value heads; `num_heads` if None.
    scale: factor of the attention logits.
    rotary: function that turns queries and keys by their positions; None leaves
      them as they are.
    query_init: initializer of the query kernel.
    out_init: initializer of the output kernel.
    dropout_rate: dropout rate of the attention weights.
    dtype: dtype of the computation; parameters are float32.
    float32_logits: whether queries and keys are multiplied in float32.
  """

  features: int
  num_heads: int
  head_dim: int
  num_kv_heads: int | None = None
  scale: float = 1.0
  rotary: Rotary | None = None
  query_init: layers.Initializer = layers.FAN_IN
  out_init: layers.Initializer = layers.FAN_IN
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  float32_logits: bool = False

  def setup(self) -> None:
    kv_heads = self.num_kv_heads or self.num_heads
    # If there are fewer key heads, the number of devices along `heads` may not
    # divide them: they get an axis of their own, which is never divided.
    is_grouped = kv_heads != self.num_heads
    self.kv_axis = 'kv_heads' if is_grouped else 'heads'
    kv_axes = ('embed', 'joined_kv_heads' if is_grouped else 'joined_kv')
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
      self.features,
      ('joined_kv', 'embed'),
      num_input_dims=2,
      dtype=self.dtype,
      kernel_init=self.out_init,
    )
    self.dropout = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))

  def keys_values(
    self, x: jax.Array, adapter: SiteAdapter | None = None
  ) -> KeyValue:
    """Keys and values of a text, not yet turned, and without the prefix.

    Args:
      x: hidden states of the text, `[rows, length, features]`.
      adapter: adapter part whose LoRA factors apply to keys and values.
    """
    adapter = adapter or SiteAdapter()
    key = checkpoint_name(self.key(x, adapter.module('key')), 'key')
    value = checkpoint_name(self.value(x, adapter.module('value')), 'value')
    return KeyValue(
      key=_heads_first(key, self.kv_axis),
      value=_heads_first(value, self.kv_axis),
    )

  def place(self, keys_values: KeyValue, positions: jax.Array) -> KeyValue:
    """Turns keys by their positions, int32 `[rows or 1, length]`."""
    if self.rotary is None:
      return keys_values
    key = self.rotary(keys_values.key, positions)
    return KeyValue(key=key, value=keys_values.value)

  def prepend(
    self, adapter: SiteAdapter | None, keys_values: KeyValue
  ) -> KeyValue:
    """Puts the adapter's prefix, if any, before keys that have been turned.

    The keys of a prefix are stored unturned; their positions are 0, 1 and so
    on up to `prefix - 1`.
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
    view: Prepared,
    adapter: SiteAdapter | None,
    deterministic: bool,
    positions: jax.Array | None = None,
  ) -> jax.Array:
    """Attends from `x` to keys and values.

    Args:
      x: hidden states that attend, `[rows, q, features]`.
      keys_values: keys and values, `[rows, kv_heads, k, head_dim]`; those of a
        prefix are before those of the text.
      view: what the queries may see of the text alone, prepared for one of the
        ways to compute attention. A prefix has the bias 0 where it is not
        masked.
      adapter: adapter part whose LoRA factors apply to queries and outputs, and
        whose mask applies to the prefix.
      deterministic: whether dropout is off.
      positions: positions of the queries, int32 `[rows or 1, q]`; only needed
        if there is a `rotary`.

    Returns:
      `[rows, q, features]`.
    """
    adapter = adapter or SiteAdapter()
    query = checkpoint_name(self.query(x, adapter.module('query')), 'query')
    query = _heads_first(query, 'heads')
    if self.rotary is not None and positions is not None:
      query = self.rotary(query, positions)
    y = view.attend(
      query,
      keys_values,
      adapter.prefix_mask,
      lambda weights: self.dropout(weights, deterministic=deterministic),
      self.scale,
      self.float32_logits,
    )
    return self.out(y.swapaxes(1, 2), adapter.module('out'))


def _heads_first(x: jax.Array, axis: str) -> jax.Array:
  """Moves the axis of heads to the front: `[rows, heads, length, head_dim]`."""
  x = partitioning.with_sharding_constraint(x, ('batch', 'length', axis, 'kv'))
  return x.swapaxes(1, 2)
