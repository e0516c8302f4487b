"""Attention as XLA computes it, with one array of all biases and masks."""

from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from hypertuning.adapters.sites import KeyValue
from hypertuning.networks.attention.view import mask_to_bias


def dot_product_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  bias: jax.Array,
  dropout: Callable[[jax.Array], jax.Array],
  scale: float = 1.0,
  float32_logits: bool = False,
) -> jax.Array:
  """Attention, whose softmax is computed in float32.

  Args:
    query: queries, `[rows, heads, q, head_dim]`.
    key: keys, `[rows, kv_heads, k, head_dim]`; each of their heads serves
      `heads / kv_heads` heads of queries.
    value: values, in the shape of `key`.
    bias: float32 array that is added to the logits, broadcastable to
      `[rows, heads, q, k]`.
    dropout: function that is applied to the attention weights.
    scale: factor of the logits: 1 in T5, 1 / sqrt(head_dim) in most other
      networks.
    float32_logits: whether queries and keys are multiplied in float32 as well.

  Returns:
    `[rows, heads, q, head_dim]`, in the dtype of `value`.
  """
  rows, heads, length, head_dim = query.shape
  _, kv_heads, columns, _ = key.shape
  # The query heads that share a key head are rows of the same matmul, so that
  # no key is ever repeated.
  group_shape = (rows, kv_heads, heads // kv_heads * length)
  query = query.reshape(*group_shape, head_dim)
  if float32_logits:
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  logits = jnp.einsum('bhqd,bhkd->bhqk', query, key).astype(jnp.float32)
  logits = logits.reshape(rows, heads, length, columns)
  logits = logits * scale + bias if scale != 1.0 else logits + bias
  weights = dropout(jax.nn.softmax(logits).astype(value.dtype))
  x = jnp.einsum(
    'bhqk,bhkd->bhqd', weights.reshape(*group_shape, columns), value
  )
  return x.reshape(rows, heads, length, value.shape[-1])


@flax.struct.dataclass
class Plain:
  """What queries may see, as one array.

  Attributes:
    bias: float32, broadcastable to `[rows, heads, q, text]`: masks and T5's
      relative biases, for the text alone.
  """

  bias: jax.Array

  @property
  def text(self) -> int:
    """Number of keys of the text, without those of a prefix before it."""
    return self.bias.shape[-1]

  def attend(
    self,
    query: jax.Array,
    keys_values: KeyValue,
    prefix_mask: jax.Array | None,
    dropout: Callable[[jax.Array], jax.Array],
    scale: float,
    float32_logits: bool,
  ) -> jax.Array:
    """Attends to a prefix, if any, and the text behind it.

    Args:
      query: queries, `[rows, heads, q, head_dim]`.
      keys_values: keys and values, `[rows, kv_heads, prefix + text, head_dim]`.
      prefix_mask: which keys of the prefix are seen, bool `[episodes, prefix]`;
        None for all.
      dropout: function that is applied to the attention weights.
      scale: factor of the logits.
      float32_logits: whether queries and keys are multiplied in float32.

    Returns:
      `[rows, heads, q, head_dim]`, in the dtype of the values.
    """
    prefix = keys_values.key.shape[2] - self.text
    attended = dot_product_attention(
      query,
      keys_values.key,
      keys_values.value,
      with_prefix(self.bias, prefix, prefix_mask, query.shape[0]),
      dropout,
      scale,
      float32_logits,
    )
    return checkpoint_name(attended, 'attended')


def with_prefix(
  bias: jax.Array, length: int, mask: jax.Array | None, rows: int
) -> jax.Array:
  """The bias of a text, with that of a prefix before it.

  Args:
    bias: float32, broadcastable to `[rows, heads, q, text]`.
    length: number of prefix tokens.
    mask: bool `[episodes, length]`, or None for a prefix without a mask.
    rows: number of rows, a multiple of `episodes`.
  """
  if mask is None or not length:
    return jnp.pad(bias, [(0, 0)] * 3 + [(length, 0)]) if length else bias
  own = mask_to_bias(jnp.repeat(mask, rows // len(mask), axis=0))
  shape = (rows, *bias.shape[1:3])
  return jnp.concatenate(
    [
      jnp.broadcast_to(own[:, None, None], (*shape, length)),
      jnp.broadcast_to(bias, (*shape, bias.shape[-1])),
    ],
    axis=-1,
  )
