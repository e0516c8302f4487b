"""Sums over the columns of texts, block by block.

An array with an axis for the vocabulary, such as the logits, then never exists
for a whole batch: no more of it than one block is in memory, neither forward
nor back.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp

# Bytes of a float32 array `[tokens, vocab]` that one device makes at a time.
# Of T5's vocabulary that is a thousand tokens. Every block reads the head's
# kernel again, and accelerators multiply 200 to 600 numbers in the time in
# which they read one: a thousand tokens per number hide that. More would only
# take more memory.
BLOCK_BYTES = 2**27


def count(tokens: int, length: int, width: int) -> int:
  """Number of blocks that the columns of texts are divided into.

  Args:
    tokens: number of tokens in all texts of all devices.
    length: number of columns of a text.
    width: size of the large axis, such as the vocabulary.
  """
  # Rows are divided over some axes of the mesh, the vocabulary over others.
  devices = max(1, jax.sharding.get_abstract_mesh().size)
  least = math.ceil(4 * tokens * width / (BLOCK_BYTES * devices))
  least = min(max(least, 1), length)
  # Of blocks that do not divide the columns, the last one has padding.
  even = (n for n in range(least, 2 * least) if length % n == 0)
  return next(even, least)


def sums(
  function: Callable[..., Any],
  number: int,
  axis: int,
  arrays: Sequence[jax.Array],
) -> Any:
  """Sums what a function gives for each block.

  A gradient computes every block a second time.

  Args:
    function: gets one block of each array, and returns a pytree of arrays.
    number: number of blocks, see `count`.
    axis: axis of columns, the same in all arrays. Columns of zeros may be
      added at the end.
    arrays: arrays with the axis of columns.
  """
  parts = [_split(x, number, axis) for x in arrays]
  block = jax.checkpoint(lambda part: (function(*part), None))
  return _accumulate(block, parts)[0]


def sums_and_gradients(
  function: Callable[..., tuple[jax.Array, Any]],
  number: int,
  axis: int,
  arrays: Sequence[jax.Array],
) -> tuple[jax.Array, Any]:
  """`sums` whose gradient is computed together with the sum.

  Under `jax.grad`, the gradients of a block are taken while the block is
  there, so that nothing is computed twice, and only those that are needed. The
  function may close over weights; gradients flow to them as well.

  Args:
    function: gets one block of each array, and returns a float32 `[]` and a
      pytree of other arrays.
    number: see `sums`.
    axis: see `sums`.
    arrays: see `sums`.

  Returns:
    The sum of the float32 `[]`, which can be differentiated, and the sums of
    the rest, which are constants to a gradient.
  """
  parts = dict(enumerate(_split(x, number, axis) for x in arrays))
  closed, result = jax.make_jaxpr(function, return_shape=True)(
    *(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in parts.values())
  )
  # What the function closes over: of all weights, those that it uses.
  weights = dict(enumerate(closed.consts))

  def evaluate(weights: dict, part: dict) -> Any:
    traced = jax.extend.core.ClosedJaxpr(closed.jaxpr, list(weights.values()))
    leaves = jax.extend.core.jaxpr_as_fun(traced)(*part.values())
    return jax.tree.unflatten(jax.tree.structure(result), leaves)

  @jax.custom_vjp
  def run(weights: dict, parts: dict) -> Any:
    return _accumulate(lambda part: (evaluate(weights, part), None), parts)[0]

  def forward(weights: Any, parts: Any) -> Any:
    weights, own_weights = _values(weights)
    parts, own_parts = _values(parts)

    def block(part: Any) -> Any:
      total, pull, rest = jax.vjp(
        lambda a, b: evaluate(weights | a, part | b),
        own_weights,
        {k: part[k] for k in own_parts},
        has_aux=True,
      )
      of_weights, of_part = pull(jnp.ones_like(total))
      return ((total, rest), of_weights), of_part

    (outputs, of_weights), of_parts = _accumulate(block, parts)
    return outputs, (of_weights, of_parts)

  def backward(gradients: tuple[dict, dict], cotangents: Any) -> Any:
    factor, _ = cotangents
    return tuple(
      {k: x[k] * factor.astype(x[k].dtype) if k in x else None for k in names}
      for x, names in zip(gradients, (weights, parts), strict=True)
    )

  run.defvjp(forward, backward, symbolic_zeros=True)
  total, rest = run(weights, parts)
  return total, jax.lax.stop_gradient(rest)


def _values(arguments: dict) -> tuple[dict, dict]:
  """The values of a rule's arguments, and of those that need a gradient."""
  values = {k: x.value for k, x in arguments.items()}
  return values, {k: v for k, v in values.items() if arguments[k].perturbed}


def _split(x: jax.Array, number: int, axis: int) -> jax.Array:
  """Blocks of equally many columns, `[blocks, ..., columns, ...]`."""
  columns = -(-x.shape[axis] // number)
  room = [(0, 0)] * x.ndim
  room[axis] = (0, number * columns - x.shape[axis])
  shape = (*x.shape[:axis], number, columns, *x.shape[axis + 1 :])
  return jnp.moveaxis(jnp.pad(x, room).reshape(shape), axis, 0)


def _accumulate(block: Callable[[Any], Any], parts: Any) -> tuple[Any, Any]:
  """Sums the first results of all blocks, and stacks the second ones."""
  first = jax.tree.map(lambda x: x[0], parts)
  if jax.tree.leaves(parts)[0].shape[0] == 1:
    total, rest = block(first)
    return total, jax.tree.map(lambda x: x[None], rest)

  def step(total: Any, part: Any) -> tuple[Any, Any]:
    new, rest = block(part)
    return jax.tree.map(jnp.add, total, new), rest

  shapes, _ = jax.eval_shape(block, first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(step, zeros, parts)
