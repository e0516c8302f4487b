"""Dense, norm, embedding, MLP and relative position layers.

Parameter names, flat kernel shapes and logical axes are those of t5x's minimal
T5 example, so that its public checkpoints load unchanged.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters.sites import LowRank

Initializer = Callable[..., jax.Array]
FAN_IN = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


def param_with_axes(*args: Any, **kwargs: Any) -> jax.Array:
  """Flax's, without its sharding constraint.

  A weight lies where the compiled function's argument lies, which for a frozen
  one may be elsewhere than the rules of what trains say (see
  `partitioning.Partitioner`). The constraint would move it on every use.
  """
  with partitioning.axis_rules(()):
    return partitioning.param_with_axes(*args, **kwargs)


def low_rank_update(x: jax.Array, factors: LowRank) -> jax.Array:
  """`(x a) b` for every row's own factors; `a b` is never formed.

  Rows that share factors are computed as one long row, so that phi is neither
  repeated over an episode's queries nor, where all share it, over episodes.

  Args:
    x: `[rows, length, inputs]`.
    factors: `a` `[episodes, inputs, rank]` and `b` `[episodes, rank, outputs]`,
      the scale already in `b`; `episodes` divides `rows`.

  Returns:
    `[rows, length, outputs]` in the type of `x`.
  """
  a, b = factors.a.astype(x.dtype), factors.b.astype(x.dtype)
  rows, length, inputs = x.shape
  episodes = a.shape[0]
  by_episode = x.reshape(episodes, rows // episodes * length, inputs)
  return ((by_episode @ a) @ b).reshape(rows, length, b.shape[-1])


class DenseGeneral(nn.Module):
  """A linear map without bias from the last axis to `features`.

  Attributes:
    features: output dimensions; several are stored flat as `[in, prod(out)]`.
    axes: logical names of the two kernel dimensions.
    num_input_dims: how many trailing input axes are contracted.
    dtype: computation type; the kernel is float32.
    kernel_init: initializer of the flat kernel.
  """

  features: int | Sequence[int]
  axes: tuple[str, str]
  num_input_dims: int = 1
  dtype: Any = jnp.float32
  kernel_init: Initializer = FAN_IN

  @nn.compact
  def __call__(
    self, x: jax.Array, low_rank: LowRank | None = None
  ) -> jax.Array:
    """Projects.

    Args:
      x: `[rows, length, ...inputs]`.
      low_rank: LoRA factors of this projection, see `low_rank_update`.

    Returns:
      `[rows, length, ...features]`.
    """
    features = (
      (self.features,) if isinstance(self.features, int) else self.features
    )
    batch = x.shape[: -self.num_input_dims]
    inputs = x.shape[-self.num_input_dims :]
    kernel = param_with_axes(
      'kernel',
      self.kernel_init,
      (math.prod(inputs), math.prod(features)),
      jnp.float32,
      axes=self.axes,
    )
    flat = x.reshape(*batch, math.prod(inputs)).astype(self.dtype)
    y = flat @ kernel.astype(self.dtype)
    if low_rank is not None:
      y = y + low_rank_update(flat, low_rank)
    return y.reshape(*batch, *features)


class RMSNorm(nn.Module):
  """Layer norm without mean and bias; statistics in float32."""

  dtype: Any = jnp.float32
  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = param_with_axes(
      'scale',
      nn.initializers.ones,
      (x.shape[-1],),
      jnp.float32,
      axes=('embed',),
    )
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(
      jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.epsilon
    )
    return x.astype(self.dtype) * scale.astype(self.dtype)


class Embed(nn.Module):
  """Token embedding, `[batch, length]` int32 to `[batch, length, embed]`.

  Attributes:
    num_embeddings: number of rows of the table.
    features: width of a row.
    dtype: computation type; the table is float32.
    stddev: standard deviation of the initial table.
  """

  num_embeddings: int
  features: int
  dtype: Any = jnp.float32
  stddev: float = 1.0

  def setup(self) -> None:
    self.embedding = param_with_axes(
      'embedding',
      nn.initializers.normal(self.stddev),
      (self.num_embeddings, self.features),
      jnp.float32,
      axes=('vocab', 'embed'),
      module=self,
    )

  def __call__(self, tokens: jax.Array) -> jax.Array:
    return jnp.take(self.embedding.astype(self.dtype), tokens, axis=0)

  def attend(self, x: jax.Array) -> jax.Array:
    """Logits through the embedding table, in float32 (tied heads)."""
    return x.astype(jnp.float32) @ self.embedding.T


def mlp_inputs(activations: Sequence[str]) -> list[str]:
  """Names of an `MLP`'s input projections, one per activation."""
  if len(activations) == 1:
    return ['wi']
  return [f'wi_{i}' for i in range(len(activations))]


class MLP(nn.Module):
  """A feed-forward block; two activations make it gated (GELU in T5 1.1).

  Attributes:
    hidden: width between the projections.
    activations: one per input projection; their products are the hidden units.
    dropout_rate: rate of dropout of the hidden units.
    dtype: computation type.
    names: names of the input projections and of the output projection; None
      for those of T5, `wi_0`, `wi_1` and `wo`.
  """

  hidden: int
  activations: Sequence[str] = ('gelu', 'linear')
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  names: Sequence[str] | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    deterministic: bool,
    lora: Mapping[str, LowRank] | None = None,
  ) -> jax.Array:
    """`[rows, length, embed]`, with LoRA on projections by name if any."""
    lora = lora or {}
    *inputs, output = self.names or (*mlp_inputs(self.activations), 'wo')
    branches = []
    for name, activation in zip(inputs, self.activations, strict=True):
      y = DenseGeneral(
        self.hidden, ('embed', 'mlp'), dtype=self.dtype, name=name
      )(x, lora.get(name))
      branches.append(
        y if activation == 'linear' else getattr(nn, activation)(y)
      )
    y = functools.reduce(jnp.multiply, branches)
    y = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
      y, deterministic=deterministic
    )
    y = partitioning.with_sharding_constraint(y, ('batch', 'length', 'mlp'))
    return DenseGeneral(
      x.shape[-1], ('mlp', 'embed'), dtype=self.dtype, name=output
    )(y, lora.get(output))


def relative_position_bucket(
  relative_position: jax.Array,
  bidirectional: bool,
  num_buckets: int = 32,
  max_distance: int = 128,
) -> jax.Array:
  """T5's bucket of `key position - query position`.

  Half of the buckets are exact distances, half grow logarithmically up to
  `max_distance`. Bidirectional: the sign takes half of them; otherwise keys
  after the query fall into bucket 0.

  Args:
    relative_position: int32, any shape.
    bidirectional: whether keys after the query have buckets of their own.
    num_buckets: number of buckets in all.
    max_distance: distance from which on all share the last bucket.

  Returns:
    int32 buckets, same shape.
  """
  distance = -relative_position
  offset = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    offset = jnp.where(distance < 0, num_buckets, 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(distance, 0)
  exact = num_buckets // 2
  log_ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(
    max_distance / exact
  )
  large = exact + (log_ratio * (num_buckets - exact)).astype(jnp.int32)
  large = jnp.minimum(large, num_buckets - 1)
  return offset + jnp.where(distance < exact, distance, large)


class RelativePositionBias(nn.Module):
  """One table of additive attention biases, shared by a stack's layers.

  Attributes:
    num_heads: attention heads.
    bidirectional: see `relative_position_bucket`.
    num_buckets: rows of the table.
    max_distance: see `relative_position_bucket`.
    embedding_init: initializer of the `[heads, buckets]` table.
  """

  num_heads: int
  bidirectional: bool
  num_buckets: int
  max_distance: int
  embedding_init: Initializer

  @nn.compact
  def __call__(
    self, query_positions: jax.Array, key_positions: jax.Array
  ) -> jax.Array:
    """Float32 biases `[1, heads, queries, keys]` for two position vectors."""
    table = param_with_axes(
      'rel_embedding',
      self.embedding_init,
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=('heads', 'relpos_buckets'),
    )
    buckets = relative_position_bucket(
      key_positions[None, :] - query_positions[:, None],
      self.bidirectional,
      self.num_buckets,
      self.max_distance,
    )
    return table[:, buckets][None]
