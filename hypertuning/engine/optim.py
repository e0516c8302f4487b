"""Optimizers as gin names them; schedules are optax's own.

An optimizer sees only what trains: there is nothing to mask but norm scales
and biases, which weight decay leaves alone.
"""

from typing import Any

import jax
import optax


def adamw(
  learning_rate: optax.ScalarOrSchedule,
  b1: float = 0.9,
  b2: float = 0.98,
  weight_decay: float = 0.0,
  max_grad_norm: float | None = 1.0,
) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm of the trainable gradients.

  Args:
    learning_rate: a number or an optax schedule.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: of kernels and embeddings, never of scales and biases.
    max_grad_norm: None leaves gradients as they are.
  """
  optimizer = optax.adamw(
    learning_rate, b1, b2, weight_decay=weight_decay, mask=_decayed
  )
  if max_grad_norm is None:
    return optimizer
  return optax.chain(optax.clip_by_global_norm(max_grad_norm), optimizer)


def adafactor(
  learning_rate: optax.ScalarOrSchedule,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
) -> optax.GradientTransformation:
  """Adafactor as T5 uses it: factored, steps relative to a weight's scale.

  Args:
    learning_rate: a number or an optax schedule.
    decay_rate: exponent of the second moment's decay.
    clipping_threshold: greatest root mean square of an update.
  """
  return optax.adafactor(
    learning_rate,
    decay_rate=decay_rate,
    clipping_threshold=clipping_threshold,
    multiply_by_parameter_scale=True,
  )


def _decayed(params: Any) -> Any:
  # By name: with scanned layers a norm's scale has two axes as well.
  def is_matrix(path: tuple[Any, ...], unused_leaf: Any) -> bool:
    return getattr(path[-1], 'key', '') in ('kernel', 'embedding')

  return jax.tree_util.tree_map_with_path(is_matrix, params)
