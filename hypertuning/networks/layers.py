"""Dense, norm, embedding and MLP layers.

Parameter names, the shapes of flat kernels and logical axes are those of t5x's
minimal T5 example, so that public checkpoints can be loaded unchanged.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.ad_checkpoint import checkpoint_name

from hypertuning import quantization
from hypertuning.adapters.sites import LowRank
from hypertuning.networks import products

Initializer = Callable[..., jax.Array]
FAN_IN = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


def residual_init(branches: int) -> Initializer:
  """An initializer of what a residual branch ends with.

  The stream starts nearly as the embeddings, instead of as the sum of what
  random branches make of them. A small decoder-only model then learns to copy
  from its context in about half as many steps.

  Args:
    branches: number of branches that are added to the stream; the variance is
      that of `FAN_IN` divided by its square.
  """
  return nn.initializers.variance_scaling(
    branches**-2, 'fan_in', 'truncated_normal'
  )


def param_with_axes(*args: Any, **kwargs: Any) -> jax.Array:
  """Like flax's `param_with_axes`, but without its sharding constraint.

  A weight lies on the devices where the compiled function gets it. For a frozen
  weight, these may be others than the rules for trained weights say (see
  `partitioning.Partitioner`), and the constraint would move it at every use.
  """
  with partitioning.axis_rules(()):
    return partitioning.param_with_axes(*args, **kwargs)


def low_rank_update(x: jax.Array, factors: LowRank) -> jax.Array:
  """Computes `(x a) b` with the factors of each row; `a b` is never formed.

  Rows that share factors are computed as one long row. Phi is therefore not
  repeated for the queries of an episode, nor for the episodes if all of them
  share it.

  Args:
    x: inputs of the projection, `[rows, length, inputs]`.
    factors: factors `a` `[episodes, inputs, rank]` and `b`
      `[episodes, rank, outputs]`, with the scale in `b`; `rows` is a multiple
      of `episodes`.

  Returns:
    `[rows, length, outputs]`, in the dtype of `x`; 0 behind the columns that
    are updated.
  """
  a, b = factors.a.astype(x.dtype), factors.b.astype(x.dtype)
  own = x[:, : factors.columns]
  rows, columns, inputs = own.shape
  episodes = a.shape[0]
  by_episode = own.reshape(episodes, rows // episodes * columns, inputs)
  update = ((by_episode @ a) @ b).reshape(rows, columns, b.shape[-1])
  return jnp.pad(update, [(0, 0), (0, x.shape[1] - columns), (0, 0)])


def _as_matrix(x: jax.Array) -> jax.Array:
  """`[..., inputs]` as `[rows, inputs]`.

  XLA on CPUs copies what it contracts over several axes: the gradient of a
  kernel took a fifth of a step more.
  """
  return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _project(x: jax.Array, kernel: Any, is_head: bool) -> jax.Array:
  """Multiplies `[rows, inputs]` by a kernel, which may be quantized."""
  if is_head:  # which is never quantized
    return products.in_float32(x, kernel)
  if not quantization.is_quantized(kernel):
    return x @ kernel.astype(x.dtype)
  # The gradient of the inputs needs the kernel's values: they are computed
  # again, or they would all be kept until then.
  return jax.checkpoint(
    lambda x, kernel: x @ quantization.dequantize(kernel, x.dtype)
  )(x, kernel)


class DenseGeneral(nn.Module):
  """A linear map of the last axes, without bias.

  Attributes:
    features: size of the output axis, or sizes of several. The kernel has two
      axes in either case: all inputs, and all outputs.
    axes: logical names of the kernel's two axes.
    num_input_dims: number of trailing input axes that are contracted.
    dtype: dtype of the computation; the kernel is float32, or quantized where
      it is frozen (see `quantization`).
    kernel_init: initializer of the kernel.
    is_head: whether the outputs are logits of a vocabulary, which are float32,
      see `products.in_float32`.
  """

  features: int | Sequence[int]
  axes: tuple[str, str]
  num_input_dims: int = 1
  dtype: Any = jnp.float32
  kernel_init: Initializer = FAN_IN
  is_head: bool = False

  @nn.compact
  def __call__(
    self, x: jax.Array, low_rank: LowRank | None = None
  ) -> jax.Array:
    """Projects the inputs.

    Args:
      x: inputs, `[rows, length, ...inputs]`.
      low_rank: LoRA factors of this projection, see `low_rank_update`; None for
        no update.

    Returns:
      `[rows, length, ...features]`.
    """
    features = (
      (self.features,) if isinstance(self.features, int) else self.features
    )
    batch = x.shape[: -self.num_input_dims]
    inputs = x.shape[-self.num_input_dims :]
    kernel: Any = self.get_variable('params', 'kernel')
    if not quantization.is_quantized(kernel):
      kernel = param_with_axes(
        'kernel',
        self.kernel_init,
        (math.prod(inputs), math.prod(features)),
        jnp.float32,
        axes=self.axes,
      )
    flat = x.reshape(*batch, math.prod(inputs)).astype(self.dtype)
    y = _project(_as_matrix(flat), kernel, self.is_head)
    y = y.reshape(*batch, math.prod(features))
    if low_rank is not None:
      y = y + low_rank_update(flat, low_rank)
    return y.reshape(*batch, *features)


class RMSNorm(nn.Module):
  """A layer norm without mean and bias; its statistics are float32.

  Attributes:
    dtype: dtype of the output.
    epsilon: number that is added to the mean square.
  """

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
  """Token embeddings: int32 `[...]` to `[..., features]`.

  Attributes:
    num_embeddings: number of rows in the table.
    features: size of an embedding.
    dtype: dtype of the output; the table is float32.
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
    """Logits by the embedding table, float32 `[..., num_embeddings]`
    (tied heads).

    Args:
      x: hidden states, `[..., features]`.
    """
    return products.in_float32(x, self.embedding.T)


def mlp_inputs(activations: Sequence[str]) -> list[str]:
  """The names of the input projections of an `MLP`, one per activation."""
  if len(activations) == 1:
    return ['wi']
  return [f'wi_{i}' for i in range(len(activations))]


class MLP(nn.Module):
  """A feed-forward block.

  Attributes:
    hidden: hidden size.
    activations: name of the activation of each input projection, `linear` for
      none. Their results are multiplied: two projections make a gated block,
      as in T5 1.1.
    dropout_rate: dropout rate of the hidden values.
    dtype: dtype of the computation; parameters are float32.
    names: names of the input projections and of the output projection; None
      for those of T5, such as `wi_0`, `wi_1` and `wo`.
    out_init: initializer of the output kernel.
  """

  hidden: int
  activations: Sequence[str] = ('gelu', 'linear')
  dropout_rate: float = 0.0
  dtype: Any = jnp.float32
  names: Sequence[str] | None = None
  out_init: Initializer = FAN_IN

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    deterministic: bool,
    lora: Mapping[str, LowRank] | None = None,
  ) -> jax.Array:
    """Applies the block.

    Args:
      x: hidden states, `[rows, length, embed]`.
      deterministic: whether dropout is off.
      lora: maps the name of a projection, such as `wi_0` or `wo`, to its LoRA
        factors.

    Returns:
      `[rows, length, embed]`.
    """
    lora = lora or {}
    *inputs, output = self.names or (*mlp_inputs(self.activations), 'wo')
    branches = []
    for name, activation in zip(inputs, self.activations, strict=True):
      y = DenseGeneral(
        self.hidden, ('embed', 'mlp'), dtype=self.dtype, name=name
      )(x, lora.get(name))
      y = checkpoint_name(y, 'mlp_input')
      branches.append(
        y if activation == 'linear' else getattr(nn, activation)(y)
      )
    y = functools.reduce(jnp.multiply, branches)
    y = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
      y, deterministic=deterministic
    )
    y = partitioning.with_sharding_constraint(y, ('batch', 'length', 'mlp'))
    return DenseGeneral(
      x.shape[-1],
      ('mlp', 'embed'),
      dtype=self.dtype,
      kernel_init=self.out_init,
      name=output,
    )(y, lora.get(output))
