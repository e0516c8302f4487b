"""The compiled training step."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.train_state import Shapes, TrainState
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, jax.Array]


def train_step_jit(
  partitioner: Partitioner, shardings: TrainState
) -> dict[str, Any]:
  """Arguments of `jax.jit` that compile the result of `make_train_step`.

  The state is donated: the new state takes the memory of the old one.
  """
  return {
    'donate_argnums': 0,
    'out_shardings': (shardings, partitioner.replicated),
  }


def arguments(
  state: TrainState, shapes: Shapes, partitioner: Partitioner
) -> tuple[TrainState, dict, jax.ShapeDtypeStruct]:
  """Abstract arguments of a step, which are enough to compile it.

  Args:
    state: the state, of arrays or abstract arrays.
    shapes: shapes of the model features in a batch.
    partitioner: the devices, and how the batches are divided over them.

  Returns:
    The arguments of the function that `make_train_step` makes.
  """
  batch = {
    name: jax.ShapeDtypeStruct(shape, 'int32', sharding=partitioner.batch)
    for name, shape in shapes.items()
  }
  rng = jax.ShapeDtypeStruct(
    (), jax.random.key(0).dtype, sharding=partitioner.replicated
  )
  return state, batch, rng


def make_train_step(
  model: HyperTuningModel, num_microbatches: int = 1
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict]]:
  """Makes the function that takes one training step on a global batch.

  The loss is the mean over the target tokens of the whole batch, whatever the
  number of microbatches: the gradients of the microbatches are summed, and the
  sum is divided once.

  Args:
    model: the model that is trained; its `loss_fn` returns sums over tokens.
    num_microbatches: number of equal parts of the batch, which are computed one
      after the other to save memory.

  Returns:
    A function `(state, batch, rng) -> (state, scalars)`, whose scalars are
    `loss`, `accuracy` and `grad_norm`.
  """

  def gradients(
    state: TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[Any, dict]:
    def loss_fn(params: Any) -> tuple[jax.Array, dict]:
      loss, (metrics, _) = model.loss_fn(
        params, batch, rng, {'frozen': state.frozen}
      )
      return loss, metrics

    return jax.grad(loss_fn, has_aux=True)(state.params)

  def accumulated(
    state: TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[Any, dict]:
    if num_microbatches == 1:
      return gradients(state, batch, rng)
    # Each microbatch takes some of the episodes that lie on each device, so
    # that no episode moves to another device.
    parts = jax.tree.map(
      lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1),
      batch,
    )

    def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, total, gradients(state, *part)), None

    rngs = jax.random.split(rng, num_microbatches)
    first = jax.tree.map(lambda x: x[0], (parts, rngs))
    rest = jax.tree.map(lambda x: x[1:], (parts, rngs))
    return jax.lax.scan(add, gradients(state, *first), rest)[0]

  def train_step(
    state: TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[TrainState, dict]:
    rng = jax.random.fold_in(rng, state.step)
    grads, metrics = accumulated(state, batch, rng)
    # Without target tokens, loss and gradient are 0, and not 0 / 0.
    tokens = jnp.maximum(metrics['loss'].count, 1)
    grads = jax.tree.map(lambda g: g / tokens, grads)
    updates, opt_state = model.optimizer_def.update(
      grads, state.opt_state, state.params
    )
    scalars = {name: m.total / tokens for name, m in metrics.items()}
    scalars['grad_norm'] = optax.tree.norm(grads)
    state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return state, scalars

  return train_step
