"""Attention by a kernel of ours, on TPUs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.sharding import PartitionSpec

from hypertuning.adapters.sites import KeyValue, SiteAdapter
from hypertuning.networks.attention import flash
from hypertuning.networks.attention.view import (
  RelativeBiases,
  View,
  mask_to_bias,
)

# A block's logits, keys and values must fit into the fast memory of a TPU v4.
_MOST_KEYS = 2048
_BLOCK_LOGITS = 2**18


@flax.struct.dataclass
class Pallas:
  """What queries may see, as the kernel takes it.

  The kernel runs on each device of a mesh by itself, on the device's rows: XLA
  cannot divide it.

  Attributes:
    keys: bool `[rows, text]`, False on keys that no query sees; None for all.
    relative: T5's relative biases; None for none.
    text: number of keys of the text, without those of a prefix before it.
    causal: whether a query sees only the keys up to its own column.
    interpret: whether the kernel is interpreted, as on a CPU.
  """

  keys: jax.Array | None
  relative: RelativeBiases | None
  text: int = flax.struct.field(pytree_node=False)
  causal: bool = flax.struct.field(pytree_node=False, default=False)
  interpret: bool = flax.struct.field(pytree_node=False, default=False)

  @staticmethod
  def misfit(dtype: Any, head_dim: int) -> str | None:
    """What of a network's configuration the kernel does not take."""
    del dtype
    if head_dim % 8 or head_dim > 256:
      return f'HEAD_DIM = {head_dim} but multiples of 8 up to 256'
    return None

  @staticmethod
  def failure(dtype: Any, head_dim: int) -> str | None:
    """The compiler for TPUs has the kernel: there is none."""
    del dtype, head_dim
    return None

  @staticmethod
  def refusal(view: View, part: SiteAdapter | None) -> str | None:
    """What of a view the kernel does not take; None if it takes all."""
    prefix = part.prefix.key.shape[2] if part and part.prefix else 0
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty and jax.device_count() > 1:
      return 'several devices without jax.set_mesh, as under t5x'
    if view.visible is not None:
      return 'masks of any form'
    if view.relative is not None and not view.relative.places.by_column:
      return 'relative biases of positions that are not columns'
    if not 0 < view.text + prefix <= _MOST_KEYS:
      return f'{view.text + prefix} keys but 1 to {_MOST_KEYS}'
    return None

  @classmethod
  def make(cls, view: View, part: SiteAdapter | None) -> 'Pallas':
    """Prepares a view that is not refused."""
    del part
    return cls(view.keys, view.relative, view.text, view.causal)

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
    rows, heads, length, _ = query.shape
    columns = keys_values.key.shape[2]
    prefix = columns - self.text
    padded = _round_up(columns, 128)
    blocks = -(-length // max(16, _BLOCK_LOGITS // padded // 16 * 16))
    block = _round_up(-(-length // blocks), 16)
    start = _round_up(block, 128)
    layout = flash.Layout(
      block, start, prefix, self.causal, scale, self.interpret
    )
    relative = self.relative

    def on_device(table: jax.Array | None, *arrays: jax.Array) -> jax.Array:
      bands = None
      if relative is not None and table is not None:
        first = jnp.arange(blocks)[:, None] * block
        distance = jnp.arange(start + padded) - start - prefix - first
        placed = dataclasses.replace(relative, table=table)
        bands = placed.at(distance)[:, :, None]
      return flash.attend(layout, *arrays, bands)

    y = _on_mesh(
      on_device,
      None if relative is None else relative.table,
      _pad(query, blocks * block),
      _pad(keys_values.key, padded),
      _pad(keys_values.value, padded),
      self._mask(prefix, prefix_mask, rows, padded),
    )
    return y[:, :, :length]

  def _mask(
    self, prefix: int, prefix_mask: jax.Array | None, rows: int, padded: int
  ) -> jax.Array:
    """The bias of every key, see `flash.attend`."""
    if prefix_mask is None:
      before = jnp.ones((rows, prefix), bool)
    else:
      before = jnp.repeat(prefix_mask, rows // len(prefix_mask), axis=0)
    text = jnp.ones((1, self.text), bool) if self.keys is None else self.keys
    text = jnp.broadcast_to(text, (rows, self.text))
    bias = mask_to_bias(jnp.concatenate([before, text], axis=1))
    more = padded - bias.shape[1]
    return jnp.pad(bias, [(0, 0), (0, more)], constant_values=-jnp.inf)[:, None]


def _on_mesh(
  attend: Callable[..., jax.Array],
  table: jax.Array | None,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  """Runs the kernel on every device of the mesh, on its rows and heads.

  Devices sum the gradients of what each of them has whole: that of the small
  table, once per layer.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return attend(table, query, key, value, mask)

  def axis(name: str, *sizes: int) -> Any:
    spec = partitioning.logical_to_mesh_axes((name,))
    found = spec[0] if spec else None
    if found is None or any(size % mesh.shape[found] for size in sizes):
      return None
    return found

  rows = axis('batch', query.shape[0])
  heads = axis('heads', query.shape[1], key.shape[1])
  both = PartitionSpec(rows, heads)
  return jax.shard_map(
    attend,
    mesh=mesh,
    in_specs=(
      PartitionSpec(heads),
      *(both, both, both, PartitionSpec(rows)),
    ),
    out_specs=both,
    check_vma=False,
  )(table, query, key, value, mask)


def _pad(x: jax.Array, length: int) -> jax.Array:
  more = length - x.shape[2]
  return jnp.pad(x, [(0, 0), (0, 0), (0, more), (0, 0)]) if more else x


def _round_up(size: int, multiple: int) -> int:
  return -(-size // multiple) * multiple
