"""Multi-head attention that takes an optional prefix and LoRA factors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters.sites import LowRank, SiteAdapter
from hypertuning.networks import layers

# Finite, so that a row with nothing to attend to is uniform and not NaN.
MASKED = -1e10


def mask_to_bias(mask: jax.Array) -> jax.Array:
  """Boolean mask (True = attend) to an additive float32 bias."""
  return jnp.where(mask, 0.0, MASKED).astype(jnp.float32)


def low_rank_delta(x: jax.Array, factors: LowRank) -> jax.Array:
  """`(x a) b` for every example's own factors; `a b` is never formed.

  Args:
    x: `[batch, length, embed]`.
    factors: `a` `[batch, embed, rank]`, `b` `[batch, rank, heads, head_dim]`,
      the scale already in `b`.

  Returns:
    `[batch, length, heads, head_dim]` in the type of `x`.
  """
  inner = jnp.einsum('bld,bdr->blr', x, factors.a.astype(x.dtype))
  return jnp.einsum('blr,brhk->blhk', inner, factors.b.astype(x.dtype))


def dot_product_attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  bias: jax.Array,
  dropout: nn.Module,
  deterministic: bool,
  float32_logits: bool = False,
) -> jax.Array:
  """Attention without T5's missing `1 / sqrt(head_dim)`; softmax in float32.

  Args:
    query: `[batch, q, heads, head_dim]`.
    key: `[batch, k, heads, head_dim]`.
    value: as `key`.
    bias: additive, broadcastable to `[batch, heads, q, k]`.
    dropout: applied to the attention weights.
    deterministic: no dropout.
    float32_logits: also multiply queries and keys in float32.

  Returns:
    `[batch, q, heads, head_dim]`.
  """
  if float32_logits:
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
  logits = jnp.einsum('bqhd,bkhd->bhqk', query, key).astype(jnp.float32) + bias
  weights = jax.nn.softmax(logits).astype(value.dtype)
  weights = dropout(weights, deterministic=deterministic)
  return jnp.einsum('bhqk,bkhd->bqhd', weights, value)


class Attention(nn.Module):
  """Attention over text, with an adapter's part for this layer if there is one.

  Attributes:
    num_heads: number of heads.
    head_dim: size of one head (free of `embed`, as in T5).
    dropout_rate: of the attention weights.
    dtype: computation type.
    float32_logits: see `dot_product_attention`.
  """

  num_heads: int
  head_dim: int
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  float32_logits: bool = False

  @nn.compact
  def __call__(
    self,
    inputs_q: jax.Array,
    inputs_kv: jax.Array,
    bias: jax.Array,
    adapter: SiteAdapter | None,
    deterministic: bool,
    position: jax.Array | None = None,
    cache_length: int | None = None,
  ) -> jax.Array:
    """Attends from `inputs_q` to `inputs_kv` (and to the adapter's prefix).

    Args:
      inputs_q: `[batch, q, embed]`.
      inputs_kv: `[batch, k, embed]`.
      bias: float32, broadcastable to `[batch, heads, q, k]` (with a cache:
        `[..., 1, cache_length]`). It holds the masks and T5's relative bias of
        text to text only: prefix columns get 0 and are never masked.
      adapter: this layer's prefix and LoRA factors; leaves have `batch` first.
      deterministic: no dropout.
      position: with a cache, the index of the one token in `inputs_q`.
      cache_length: if given, keys and values live in a cache of that many
        text positions; the prefix takes no slot of it.

    Returns:
      `[batch, q, embed]`.
    """
    adapter = adapter or SiteAdapter()
    query = self._project('query', inputs_q, adapter)
    key = self._project('key', inputs_kv, adapter)
    value = self._project('value', inputs_kv, adapter)
    if cache_length is not None:
      key, value = self._update_cache(key, value, position, cache_length)
    if adapter.prefix is not None:
      prefix = adapter.prefix
      key = jnp.concatenate([prefix.key.astype(key.dtype), key], axis=1)
      value = jnp.concatenate([prefix.value.astype(value.dtype), value], axis=1)
      bias = jnp.pad(bias, [(0, 0)] * 3 + [(prefix.key.shape[1], 0)])
    x = dot_product_attention(
      query,
      key,
      value,
      bias,
      nn.Dropout(self.dropout_rate, broadcast_dims=(-2,)),
      deterministic,
      self.float32_logits,
    )
    return layers.DenseGeneral(
      inputs_q.shape[-1],
      ('joined_kv', 'embed'),
      num_input_dims=2,
      dtype=self.dtype,
      name='out',
    )(x)

  def _project(
    self, name: str, x: jax.Array, adapter: SiteAdapter
  ) -> jax.Array:
    """`[batch, length, heads, head_dim]`, with the LoRA update if any."""
    init = layers.FAN_IN
    if name == 'query':  # T5 folds 1 / sqrt(head_dim) into the initial queries.
      init = nn.initializers.variance_scaling(
        1.0 / self.head_dim, 'fan_in', 'truncated_normal'
      )
    y = layers.DenseGeneral(
      (self.num_heads, self.head_dim),
      ('embed', 'joined_kv'),
      dtype=self.dtype,
      kernel_init=init,
      name=name,
    )(x)
    if adapter.lora and name in adapter.lora:
      y = y + low_rank_delta(x.astype(self.dtype), adapter.lora[name])
    return partitioning.with_sharding_constraint(
      y, ('batch', 'length', 'heads', 'kv')
    )

  def _update_cache(
    self,
    key: jax.Array,
    value: jax.Array,
    position: jax.Array | None,
    length: int,
  ) -> tuple[jax.Array, jax.Array]:
    """Writes one text position to the cache and returns all of it."""
    shape = (key.shape[0], length, *key.shape[2:])
    cached = {}
    for name, new in (('cached_key', key), ('cached_value', value)):
      variable = self.variable('cache', name, jnp.zeros, shape, new.dtype)
      if position is not None:
        variable.value = jax.lax.dynamic_update_slice_in_dim(
          variable.value, new, position, axis=1
        )
      cached[name] = variable.value
    return cached['cached_key'], cached['cached_value']
