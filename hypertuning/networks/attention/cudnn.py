"""cuDNN's fused attention, on NVIDIA GPUs."""

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

from hypertuning.adapters.sites import KeyValue, SiteAdapter
from hypertuning.errors import one_line
from hypertuning.networks.attention.plain import with_prefix
from hypertuning.networks.attention.view import (
  RelativeBiases,
  View,
  column_places,
)

# Larger heads need a GPU of Hopper's generation or later.
_LARGEST_HEAD = 128


@flax.struct.dataclass
class Cudnn:
  """What queries may see, as cuDNN takes it.

  cuDNN gives the gradient of a bias only if all rows share it, so that T5's
  biases stay apart from padding, which goes as numbers of keys.

  Attributes:
    bias: float32: `[1, heads, q, text]` of T5's relative biases, or
      `[rows or 1, 1, q or 1, text]` of masks.
    lengths: number of first keys that queries see, int32 `[rows]`; None if the
      bias says all.
    implementation: `cudnn`, or `xla` for the same function without cuDNN.
  """

  bias: jax.Array
  lengths: jax.Array | None
  implementation: Any = flax.struct.field(pytree_node=False, default='cudnn')

  @staticmethod
  def misfit(dtype: Any, head_dim: int) -> str | None:
    """What of a network's configuration cuDNN does not take; None if all."""
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
      return f"ACTIVATION_DTYPE = '{jnp.dtype(dtype).name}' but 'bfloat16'"
    if head_dim % 8 or head_dim > _LARGEST_HEAD:
      return f'HEAD_DIM = {head_dim} but multiples of 8 up to {_LARGEST_HEAD}'
    return None

  @classmethod
  def failure(cls, dtype: Any, head_dim: int) -> str | None:
    """Why this machine does not compile the kernel; None if it does."""
    way: Any = cls  # mypy takes a dataclass's type for unhashable
    return _failure(way, jnp.dtype(dtype).name, head_dim)

  @staticmethod
  def refusal(view: View, part: SiteAdapter | None) -> str | None:
    """What of a view cuDNN does not take; None if it takes all."""
    if view.relative is None:
      return None
    if view.visible is not None or (view.keys is not None and not view.at_end):
      return 'relative biases beside masks with holes'
    if view.relative.places.queries.ndim > 1:
      return 'relative biases that differ between rows'
    if part is not None and part.prefix_mask is not None:
      return 'relative biases beside the mask of a prefix'
    return None

  @classmethod
  def make(cls, view: View, part: SiteAdapter | None) -> 'Cudnn':
    """Prepares a view that is not refused."""
    del part
    if view.relative is None:
      return cls(view.bias(), None)
    shared = View(view.text, causal=view.causal, relative=view.relative)
    lengths = None
    if view.keys is not None:
      lengths = view.keys.sum(axis=1, dtype=jnp.int32)
    return cls(shared.bias(), lengths)

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
    """Attends to a prefix and a text, see `plain.Plain.attend`.

    Logits are float32 in any case, and there is no dropout.
    """
    del dropout, float32_logits
    rows, _, length, _ = query.shape
    columns = keys_values.key.shape[2]
    prefix = columns - self.text
    bias = with_prefix(self.bias, prefix, prefix_mask, rows)
    bias = jnp.broadcast_to(bias, (*bias.shape[:2], length, columns))
    # The gradient of a bias needs even lengths. Queries that are added are cut
    # off again, and keys that are added are behind the number that is seen.
    more, more_keys = length % 2, columns % 2
    seen = empty = None
    if self.lengths is not None:
      seen = prefix + jnp.broadcast_to(self.lengths, rows)
      empty = seen == 0
      seen = jnp.where(empty, columns, seen)
    elif more_keys:
      seen = jnp.full(rows, columns, jnp.int32)
    y = jax.nn.dot_product_attention(
      _pad(query, more).swapaxes(1, 2),
      _pad(keys_values.key, more_keys).swapaxes(1, 2),
      _pad(keys_values.value, more_keys).swapaxes(1, 2),
      jnp.pad(bias, [(0, 0), (0, 0), (0, more), (0, more_keys)]).astype(
        query.dtype
      ),
      scale=scale,
      key_value_seq_lengths=seen,
      implementation=self.implementation,
    ).swapaxes(1, 2)[:, :, :length]
    if empty is None:
      return y
    # Where no key is seen, all are attended to alike, as in the plain way.
    mean = keys_values.value.mean(axis=2, keepdims=True, dtype=jnp.float32)
    mean = jnp.repeat(mean, y.shape[1] // mean.shape[1], axis=1)
    return jnp.where(empty[:, None, None, None], mean.astype(y.dtype), y)


@functools.cache
def _failure(way: Any, dtype: str, head_dim: int) -> str | None:
  """Compiles a small attention, with and without relative biases."""
  length = 8

  def total(
    query: jax.Array, key: jax.Array, value: jax.Array, table: jax.Array
  ) -> jax.Array:
    keys = jnp.ones((len(query), length), bool)
    places = column_places(length)
    views = (
      View(
        length,
        keys,
        at_end=True,
        relative=RelativeBiases(table, places, True, 8),
      ),
      View(length, keys, causal=True),
    )
    text = KeyValue(key=key, value=value)
    outputs = [
      way.make(view, None).attend(query, text, None, lambda x: x, 1.0, False)
      for view in views
    ]
    return jnp.sum(jnp.stack(outputs), dtype=jnp.float32)

  shape = jax.ShapeDtypeStruct((2, 2, length, head_dim), dtype)
  table = jax.ShapeDtypeStruct((2, 4), 'float32')
  try:
    # Back as well: that is where versions of cuDNN differ.
    step = jax.jit(jax.grad(total, (0, 1, 2, 3)))
    step.lower(shape, shape, shape, table).compile()
  except Exception as error:  # jax, XLA and cuDNN have kinds of their own
    return one_line(error)
  return None


def _pad(x: jax.Array, count: int) -> jax.Array:
  return jnp.pad(x, [(0, 0), (0, 0), (0, count), (0, 0)]) if count else x
