"""Products of matrices in a small dtype, summed in float32."""

from typing import Any

import jax
import jax.numpy as jnp


def in_float32(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`x @ kernel` in the dtype of `x`, with sums and result in float32.

  Its gradients are products in the dtype of `x` as well: jax's own rule would
  multiply the result's float32 gradient by the small arrays in float32. One
  that is not needed is not computed.

  Args:
    x: `[..., inputs]`.
    kernel: `[inputs, outputs]`, in any dtype.

  Returns:
    Float32 `[..., outputs]`.
  """
  dtype, kernel_dtype = x.dtype, kernel.dtype
  if dtype == jnp.float32:
    return x @ kernel.astype(dtype)
  # Rules of gradients are called when the setting may not be in force.
  precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]

  @jax.custom_vjp
  def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.matmul(
      x,
      kernel.astype(dtype),
      precision=precision,
      preferred_element_type=jnp.float32,
    )

  def forward(x: Any, kernel: Any) -> Any:
    kept = (
      kernel.value if x.perturbed else None,
      x.value if kernel.perturbed else None,
    )
    return multiply(x.value, kernel.value), kept

  def backward(kept: Any, gradient: jax.Array) -> Any:
    kernel, x = kept
    gradient = gradient.astype(dtype)
    of_x, of_kernel = None, None
    if kernel is not None:
      of_x = jnp.matmul(gradient, kernel.astype(dtype).T, precision=precision)
    if x is not None:
      of_kernel = jnp.einsum(
        '...i,...o->io',
        x,
        gradient,
        precision=precision,
        preferred_element_type=jnp.float32,
      ).astype(kernel_dtype)
    return of_x, of_kernel

  multiply.defvjp(forward, backward, symbolic_zeros=True)
  return multiply(x, kernel)
