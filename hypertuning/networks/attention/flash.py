"""A kernel for TPUs that computes attention without an array of all weights.

A step of the grid has a block of queries, and all keys and values of one head,
in fast memory: the softmax of a row is computed at once, in float32. T5's
relative biases depend on the distance alone, so that a block of them is one
row, the *band*, each row of the block turned one place further.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from hypertuning.networks.attention.view import MASK_BIAS

# Names of what the backward pass needs of the forward pass, for policies of
# rematerialisation.
SAVED_NAMES = ('attention_output', 'attention_sums')


class Layout(NamedTuple):
  """Sizes of the kernel's blocks, and what it computes.

  Attributes:
    block: number of queries in a block, a multiple of 16.
    start: column of the band that the block's first row begins at, a multiple
      of 128 and at least `block`.
    prefix: number of keys that belong to a prefix, without relative biases.
    causal: whether a query sees only the keys of the text up to its own column.
    scale: factor of the logits.
    interpret: whether the kernel is interpreted, as on a CPU.
  """

  block: int
  start: int
  prefix: int
  causal: bool
  scale: float
  interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend(
  layout: Layout,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array,
  bands: jax.Array | None,
) -> jax.Array:
  """Attention of padded arrays.

  Args:
    layout: sizes of blocks.
    query: `[rows, heads, q, head_dim]`, where the block divides q.
    key: `[rows, kv_heads, k, head_dim]`, where 128 divides k.
    value: values, in the shape of `key`.
    mask: float32 `[rows, 1, k]`: 0, `MASK_BIAS` on keys that no query sees, or
      minus infinity on keys that are padding of the kernel.
    bands: relative biases of blocks of queries, float32
      `[heads, blocks, 1, start + k]`: column x is the bias of the block's row r
      and key `x - start + r`. None for no relative biases.

  Returns:
    `[rows, heads, q, head_dim]`, in the dtype of `value`.
  """
  return _forward(layout, query, key, value, mask, bands)[0]


def _dot(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Matmul over one axis of each, in float32."""
  exact = a.dtype == jnp.float32
  return jax.lax.dot_general(
    a,
    b,
    (((axes[0],), (axes[1],)), ((), ())),
    # The setting that is in force outside is none of the kernel's.
    precision=jax.lax.Precision.HIGHEST if exact else jax.lax.Precision.DEFAULT,
    preferred_element_type=jnp.float32,
  )


def _logits(
  layout: Layout,
  query: jax.Array,
  key: jax.Array,
  mask: jax.Array,
  band: jax.Array | None,
) -> jax.Array:
  """Logits of a block, float32 `[block, k]`; mask `[1, k]`, band `[1, ...]`."""
  logits = _dot(query, key, (1, 1)) * layout.scale
  columns = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) - layout.prefix
  if layout.causal:
    places = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
    places += pl.program_id(3) * layout.block
    hidden = jnp.where(columns > places, MASK_BIAS, 0.0)
    # Not the sum: all keys that are not seen have one bias, so that a query
    # that sees none attends to all alike.
    mask = jnp.minimum(mask, hidden)
  if band is not None:
    biases = _turned_rows(band, layout.block)[:, layout.start :]
    logits += jnp.where(columns >= 0, biases, 0.0)
  return logits + mask


def _forward_kernel(layout: Layout, has_bands: bool, *refs: Any) -> None:
  query, key, value, mask, *bands, out, largest, total = refs
  logits = _logits(
    layout,
    query[0, 0],
    key[0, 0],
    mask[0],
    bands[0][0, 0] if has_bands else None,
  )
  m = jnp.max(logits, axis=1, keepdims=True)
  weights = jnp.exp(logits - m)
  s = jnp.sum(weights, axis=1, keepdims=True)
  y = _dot(weights.astype(value.dtype), value[0, 0], (1, 0))
  out[0, 0] = (y / s).astype(out.dtype)
  largest[0, 0] = m
  total[0, 0] = s


def _backward_kernel(
  layout: Layout, has_bands: bool, trains_bands: bool, *refs: Any
) -> None:
  inputs, outputs = refs[: 8 + has_bands], refs[8 + has_bands :]
  query, key, value, mask, *bands = inputs[: 4 + has_bands]
  largest, total, inner, gradient = inputs[4 + has_bands :]
  d_query, d_key, d_value, *d_bands = outputs

  @pl.when((pl.program_id(2) == 0) & (pl.program_id(3) == 0))
  def _() -> None:
    d_key[...] = jnp.zeros_like(d_key)
    d_value[...] = jnp.zeros_like(d_value)

  q, k, v, dy = query[0, 0], key[0, 0], value[0, 0], gradient[0, 0]
  band = bands[0][0, 0] if has_bands else None
  logits = _logits(layout, q, k, mask[0], band)
  weights = jnp.exp(logits - largest[0, 0]) / total[0, 0]
  d_value[0, 0] += _dot(weights.astype(dy.dtype), dy, (0, 0))
  d_logits = weights * (_dot(dy, v, (1, 1)) - inner[0, 0])
  small = d_logits.astype(q.dtype)
  d_query[0, 0] = (_dot(small, k, (1, 0)) * layout.scale).astype(d_query.dtype)
  d_key[0, 0] += _dot(small, q, (0, 0)) * layout.scale
  if trains_bands:
    d_bands[0][0, 0, 0] = _band_gradient(layout, d_logits)


def _turn_by_row(x: jax.Array, sign: int) -> jax.Array:
  """Turns row r of 8 by r places to the right, or left: by its binary digits.

  A roll with a stride would do, but older TPUs have none.
  """
  row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
  for digit in (1, 2, 4):
    turned = pltpu.roll(x, sign * digit % x.shape[1], 1)
    x = jnp.where(row & digit != 0, turned, x)
  return x


def _turned_rows(band: jax.Array, rows: int) -> jax.Array:
  """Copies of a band `[1, width]`: row r is turned by r places to the right."""
  eight = jnp.broadcast_to(band, (8, band.shape[1]))
  eight = _turn_by_row(eight, 1)
  parts = [eight]
  for first in range(8, rows, 8):
    parts.append(pltpu.roll(eight, first % band.shape[1], 1))
  return jnp.concatenate(parts, axis=0)


def _band_gradient(layout: Layout, d_logits: jax.Array) -> jax.Array:
  """Sums of a block's diagonals, `[1, start + k]`: a band's gradient."""
  columns = jax.lax.broadcasted_iota(jnp.int32, d_logits.shape, 1)
  x = jnp.where(columns >= layout.prefix, d_logits, 0.0)
  x = jnp.concatenate(
    [jnp.zeros((layout.block, layout.start), x.dtype), x], axis=1
  )
  width = x.shape[1]
  eight = x[:8]
  for first in range(8, layout.block, 8):
    eight += pltpu.roll(x[first : first + 8], -first % width, 1)
  return jnp.sum(_turn_by_row(eight, -1), axis=0, keepdims=True)


class _Specs:
  """Which block of each array a step of the grid reads or writes.

  The grid is `(rows, kv_heads, heads per kv_head, blocks of queries)`.
  """

  def __init__(self, layout: Layout, query: jax.Array, key: jax.Array) -> None:
    rows, heads, length, head_dim = query.shape
    _, kv_heads, columns, _ = key.shape
    group = heads // kv_heads
    self.grid = (rows, kv_heads, group, length // layout.block)
    width = layout.start + columns
    self.query = pl.BlockSpec(
      (1, 1, layout.block, head_dim),
      lambda b, k, g, i: (b, k * group + g, i, 0),
    )
    self.sums = pl.BlockSpec(
      (1, 1, layout.block, 1), lambda b, k, g, i: (b, k * group + g, i, 0)
    )
    self.key = pl.BlockSpec(
      (1, 1, columns, head_dim), lambda b, k, g, i: (b, k, 0, 0)
    )
    self.mask = pl.BlockSpec((1, 1, columns), lambda b, k, g, i: (b, 0, 0))
    self.bands = pl.BlockSpec(
      (1, 1, 1, width), lambda b, k, g, i: (k * group + g, i, 0, 0)
    )
    self.d_bands = pl.BlockSpec(
      (1, 1, 1, 1, width), lambda b, k, g, i: (b, k * group + g, i, 0, 0)
    )


def _parameters() -> pltpu.CompilerParams:
  return pltpu.CompilerParams(
    dimension_semantics=('parallel', 'parallel', 'arbitrary', 'arbitrary')
  )


def _forward(
  layout: Layout,
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  mask: jax.Array,
  bands: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """The output, and the largest logit and sum of every query."""
  specs = _Specs(layout, query, key)
  sums = jax.ShapeDtypeStruct((*query.shape[:3], 1), jnp.float32)
  has_bands = bands is not None
  out, largest, total = pl.pallas_call(
    functools.partial(_forward_kernel, layout, has_bands),
    grid=specs.grid,
    in_specs=[specs.query, specs.key, specs.key, specs.mask]
    + [specs.bands] * has_bands,
    out_specs=[specs.query, specs.sums, specs.sums],
    out_shape=[jax.ShapeDtypeStruct(query.shape, value.dtype), sums, sums],
    compiler_params=_parameters(),
    interpret=layout.interpret,
    name='attention_forward',
  )(query, key, value, mask, *([bands] * has_bands))
  # Without their last axis, which a TPU would store as 128 numbers.
  return out, jnp.stack([largest[..., 0], total[..., 0]])


def _attend_forward(layout: Layout, *arguments: Any) -> tuple[jax.Array, Any]:
  query, key, value, mask, bands = jax.tree.map(
    lambda x: x.value, arguments, is_leaf=lambda x: hasattr(x, 'perturbed')
  )
  out, sums = _forward(layout, query, key, value, mask, bands)
  out = checkpoint_name(out, SAVED_NAMES[0])
  sums = checkpoint_name(sums, SAVED_NAMES[1])
  # An empty tuple says that the table trains: it is known when this is traced.
  trains = () if bands is not None and arguments[4].perturbed else None
  return out, (query, key, value, mask, bands, out, sums, trains)


def _attend_backward(layout: Layout, saved: Any, gradient: Any) -> Any:
  query, key, value, mask, bands, out, sums, trains = saved
  if type(gradient) is SymbolicZero:
    gradient = jnp.zeros_like(out)
  specs = _Specs(layout, query, key)
  rows = query.shape[0]
  inner = jnp.sum(
    gradient.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True
  )
  has_bands, trains_bands = bands is not None, trains is not None
  shapes = [
    jax.ShapeDtypeStruct(query.shape, query.dtype),
    jax.ShapeDtypeStruct(key.shape, jnp.float32),
    jax.ShapeDtypeStruct(key.shape, jnp.float32),
  ]
  outputs = [specs.query, specs.key, specs.key]
  if has_bands and trains_bands:
    shapes.append(jax.ShapeDtypeStruct((rows, *bands.shape), jnp.float32))
    outputs.append(specs.d_bands)
  d_query, d_key, d_value, *d_bands = pl.pallas_call(
    functools.partial(_backward_kernel, layout, has_bands, trains_bands),
    grid=specs.grid,
    in_specs=[specs.query, specs.key, specs.key, specs.mask]
    + [specs.bands] * has_bands
    + [specs.sums] * 3
    + [specs.query],
    out_specs=outputs,
    out_shape=shapes,
    compiler_params=_parameters(),
    interpret=layout.interpret,
    name='attention_backward',
  )(
    *(query, key, value, mask, *([bands] * has_bands)),
    *(sums[0, ..., None], sums[1, ..., None], inner),
    gradient.astype(value.dtype),
  )
  if d_bands:
    bands_gradient = d_bands[0].sum(axis=0)
  else:
    bands_gradient = None if bands is None else jnp.zeros_like(bands)
  return (
    d_query,
    d_key.astype(key.dtype),
    d_value.astype(value.dtype),
    jnp.zeros_like(mask),
    bands_gradient,
  )


attend.defvjp(_attend_forward, _attend_backward, symbolic_zeros=True)
