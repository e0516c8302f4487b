"""Optimizers that gin files bind; the schedules are optax's own.

An optimizer gets the trainable parameters only, so that frozen ones need no
mask. The one mask here keeps weight decay from norm scales and biases.
"""

from typing import Any

import jax
import optax

from hypertuning.ranges import NotNegative, Positive, ShareBelowOne


def adamw(
  learning_rate: Positive | optax.Schedule,
  b1: ShareBelowOne = 0.9,
  b2: ShareBelowOne = 0.98,
  weight_decay: NotNegative = 0.0,
  max_grad_norm: Positive | None = 1.0,
) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm of the trainable gradients.

  Args:
    learning_rate: a number or an optax schedule.
    b1: decay rate of the first moment.
    b2: decay rate of the second moment.
    weight_decay: rate at which kernels and embeddings decay; norm scales and
      biases never do.
    max_grad_norm: global norm to which larger gradients are scaled down; None
      leaves gradients as they are.
  """
  optimizer = optax.adamw(
    learning_rate, b1, b2, weight_decay=weight_decay, mask=_decay_mask
  )
  if max_grad_norm is None:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


def adafactor(
  learning_rate: Positive | optax.Schedule,
  decay_rate: Positive = 0.8,
  clipping_threshold: Positive = 1.0,
) -> optax.GradientTransformation:
  """Adafactor as T5 uses it: factored, with steps relative to weights' scales.

  Args:
    learning_rate: a number or an optax schedule.
    decay_rate: exponent of the decay of the second moment.
    clipping_threshold: root mean square to which larger updates are scaled
      down.
  """
  return optax.adafactor(
    learning_rate,
    decay_rate=decay_rate,
    clipping_threshold=clipping_threshold,
    multiply_by_parameter_scale=True,
  )


def _decay_mask(params: Any) -> Any:
  """True for the parameters that weight decay applies to."""

  # Told by name, not by the number of axes: with scanned layers, the scale of a
  # norm has two axes, as a kernel has.
  def is_matrix(path: tuple[Any, ...], unused_leaf: Any) -> bool:
    return getattr(path[-1], 'key', '') in ('kernel', 'embedding')

  return jax.tree_util.tree_map_with_path(is_matrix, params)
