"""Frozen kernels in 8 or 4 bits, by the library qwix.

With `FROZEN_DTYPE = 'int8'` or `'nf4'`, a mapping of two arrays stands where a
frozen kernel `[..., inputs, outputs]` would:

- `int8`: `{'int8': int8 [..., inputs, outputs], 'scale': bfloat16
  [..., 1, outputs]}`, a scale per output.
- `nf4`, the 4-bit NormalFloat of QLoRA (arXiv 2305.14314): `{'nf4': uint8
  [..., inputs / 2, outputs], 'scale': bfloat16 [..., blocks, outputs]}`. A byte
  has the codes of two inputs, the first one in its lower half. A block is 64
  inputs, or the largest divisor of 64 that divides the inputs.

Arrays of bytes are divided over devices, saved and hashed like any other, and
blocks where devices divide them (see `is_scale`). What has the vocabulary as an
axis, and what is no kernel, is bfloat16.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning import trees
from hypertuning.errors import UserError

FORMATS = ('int8', 'nf4')
_BLOCK = 64
_REST = 'bfloat16'
# QLoRA, appendix E.
_NF4 = (
  *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
  *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
  *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634),
  *(0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
  *(0.7229568362236023, 1.0),
)


def is_quantized(value: Any) -> bool:
  """Whether a node of a tree of variables is a quantized kernel."""
  return _format(value) is not None


def is_scale(path: str) -> bool:
  """Whether a variable holds the scales of a quantized kernel.

  Its blocks are fewer than the kernel's inputs, so the devices that divide the
  inputs may not divide them; then every device holds all of them.
  """
  return path.endswith('/kernel/scale')


def quantize(kernel: jax.Array, dtype: str) -> dict[str, jax.Array]:
  """Rounds a kernel to 8 or 4 bits.

  Args:
    kernel: kernel `[..., inputs, outputs]` of any floating dtype.
    dtype: 'int8' or 'nf4'.

  Returns:
    The two arrays of the module's docstring.

  Raises:
    UserError: 'nf4' cannot pair an odd number of inputs.
  """
  import qwix  # half a second, for the few runs that need it

  *stack, inputs, _ = kernel.shape
  if dtype == 'nf4' and inputs % 2:
    raise UserError(
      "FROZEN_DTYPE = 'nf4': a byte holds two inputs of a kernel, but one has "
      f"the shape {kernel.shape}; take 'int8'."
    )
  axis = len(stack)
  array = qwix.quantize(
    kernel.astype(jnp.float32),
    dtype,
    channelwise_axes=(*range(axis), axis + 1),
    tiled_axes={axis: math.gcd(inputs, _BLOCK)} if dtype == 'nf4' else {},
    scale_dtype=jnp.bfloat16,
  )
  codes = array.qvalue
  if dtype == 'nf4':
    codes = codes.astype(jnp.uint8)
    codes = codes[..., ::2, :] | codes[..., 1::2, :] << 4
  return {dtype: codes, 'scale': array.scale}


def dequantize(kernel: Mapping[str, jax.Array], dtype: Any) -> jax.Array:
  """The values of a quantized kernel, `[..., inputs, outputs]`.

  Args:
    kernel: the two arrays of the module's docstring.
    dtype: dtype of the values.
  """
  name = _format(kernel)
  assert name is not None
  codes = kernel[name]
  scale = kernel['scale'].astype(dtype)
  if name == 'int8':
    return codes.astype(dtype) * scale
  codes = jnp.stack([codes & 15, codes >> 4], axis=-2)
  values = _nf4_values(codes, dtype)
  blocks = (*scale.shape[:-1], -1, scale.shape[-1])
  return (values.reshape(blocks) * scale[..., None, :]).reshape(shape(kernel))


def shape(kernel: Any) -> tuple[int, ...]:
  """The shape of a kernel's values.

  Args:
    kernel: an array, or the arrays of a quantized kernel; they may be abstract.
  """
  name = _format(kernel)
  if name is None:
    return tuple(kernel.shape)
  *stack, inputs, outputs = kernel[name].shape
  return (*stack, inputs * (2 if name == 'nf4' else 1), outputs)


def converted(value: Any, target: Any) -> Any:
  """A value of a checkpoint in the form in which a model stores it.

  Args:
    value: a numpy array, or the arrays of a quantized kernel.
    target: the model's array or quantized kernel, whose arrays may be abstract;
      its shape is that of the value, or a flat form of it.

  Returns:
    Numpy arrays in the dtypes and shapes of the target, which share no memory
    with the value.
  """
  dtype = _format(target)
  if _format(value) != dtype:
    # Not on an accelerator, where rounding, and with it a digest, may differ.
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      if is_quantized(value):
        value = dequantize(value, jnp.float32)
      if dtype is not None:
        value = _quantize_stack(value, dtype)
  return jax.tree.map(
    lambda x, leaf: np.array(x, leaf.dtype).reshape(leaf.shape), value, target
  )


def count(variables: Any) -> int:
  """Number of parameters in a tree of variables, however they are stored."""
  leaves = jax.tree.leaves(variables, is_leaf=is_quantized)
  return sum(math.prod(shape(leaf)) for leaf in leaves)


def store(parts: Mapping[str, Any], dtype: str | None) -> dict[str, Any]:
  """Puts frozen variables into the form in which they are stored.

  Args:
    parts: collections of variables, see `trees.split_variables`.
    dtype: value of FROZEN_DTYPE: a floating dtype, 'int8' or 'nf4'; None leaves
      the variables as they are.

  Returns:
    The collections, with other `frozen` and `frozen_axes`.

  Raises:
    UserError: see `quantize`.
  """
  if dtype is None or 'frozen' not in parts:
    return dict(parts)
  variables, axes = parts['frozen'], parts['frozen_axes']
  if dtype not in FORMATS:
    return {
      **parts,
      'frozen': jax.tree.map(lambda x: x.astype(dtype), variables),
    }
  arrays, metadata = trees.flatten_paths(variables), trees.flatten_paths(axes)
  for path, value in list(arrays.items()):
    names = metadata[f'{path}_axes'].names
    if not path.endswith('/kernel') or 'vocab' in names:
      arrays[path] = value.astype(_REST)
      continue
    del arrays[path]
    kernel_axes = metadata.pop(f'{path}_axes')
    for part, array in quantize(value, dtype).items():
      arrays[f'{path}/{part}'] = array
      metadata[f'{path}/{part}_axes'] = kernel_axes
  return {
    **parts,
    'frozen': trees.unflatten_paths(arrays),
    'frozen_axes': trees.unflatten_paths(metadata),
  }


def _nf4_values(codes: jax.Array, dtype: Any) -> jax.Array:
  """The levels of codes from 0 to 15.

  The library looks each of them up in a table. For a TPU, that compiles in
  minutes and reads and writes memory many times; selecting by the bits of a
  code is one pass.
  """
  values: list[Any] = [jnp.asarray(level, dtype) for level in _NF4]
  for bit in range(4):
    is_set = codes & (1 << bit) != 0
    pairs = zip(values[::2], values[1::2], strict=True)
    values = [jnp.where(is_set, high, low) for low, high in pairs]
  return values[0]


@functools.partial(jax.jit, static_argnames='dtype')
def _quantize(kernel: jax.Array, dtype: str) -> dict[str, jax.Array]:
  return quantize(kernel, dtype)


def _quantize_stack(kernel: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
  """`quantize`, one layer after another, so that float32 is there for one."""
  if kernel.ndim == 2:
    return jax.tree.map(np.asarray, _quantize(kernel, dtype))
  layers = [_quantize_stack(layer, dtype) for layer in kernel]
  return jax.tree.map(lambda *x: np.stack(x), *layers)


def _format(kernel: Any) -> str | None:
  """The format of a node of a tree of variables; None if not quantized."""
  if not isinstance(kernel, Mapping):
    return None
  return next((name for name in FORMATS if name in kernel), None)
