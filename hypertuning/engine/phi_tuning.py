"""Tunes adapters as parameters of their own, many tasks side by side."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hypertuning import adapters as adapters_lib
from hypertuning.adapters import Adapters, io
from hypertuning.engine import summaries
from hypertuning.engine.batching import TrainBatches
from hypertuning.engine.partitioning import Partitioner
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, jax.Array]


class Tuner:
  """Tunes phi alone; the hypermodel and the downstream model do not change.

  Row `n` of a batch belongs to task `n`, and is answered with the phi of that
  task. Tasks do not influence one another: each has its own mean loss, gradient
  and optimizer state, as if it were tuned alone.
  """

  def __init__(
    self,
    model: HyperTuningModel,
    optimizer: optax.GradientTransformation,
    params: Any,
    frozen: Any,
    partitioner: Partitioner,
  ) -> None:
    """Takes a model and its variables.

    Args:
      model: a model with a hypermodel, which gives the first phi.
      optimizer: an optax transformation, applied to the phi of each task.
      params: trainable variables of the model.
      frozen: frozen variables of the model.
      partitioner: the devices, and how batches and variables are divided over
        them.
    """
    self._model, self._optimizer = model, optimizer
    self._params, self._frozen = params, frozen
    self._partitioner = partitioner
    self._answer = partitioner.compile(self._scores_and_texts, decodes=True)

  def start(self, batch: Batch, draws: int = 1) -> Adapters:
    """Generates the phi that each task's tuning starts from.

    Args:
      batch: model features of `tasks * draws` rows; the rows of a task are
        consecutive.
      draws: number of rows per task, whose phi is averaged.

    Returns:
      Adapters `[tasks, ...]` in float32, in which small updates are not lost.
    """

    def generate(params: Any, frozen: Any, batch: Batch) -> Adapters:
      phi = self._model.generate_adapters(params, batch, {'frozen': frozen})
      assert phi is not None
      tasks = batch['input_tokens'].shape[0] // draws
      phi = adapters_lib.expand(adapters_lib.average(phi, draws), tasks)
      return jax.tree.map(lambda x: x.astype(jnp.float32), phi)

    compiled = self._partitioner.compile(generate)
    return compiled(self._params, self._frozen, batch)

  def tune(
    self,
    phi: Adapters,
    batches: TrainBatches,
    total_steps: int,
    period: int,
    label: str = '',
  ) -> Iterator[tuple[int, float, Adapters]]:
    """Tunes phi, and yields it from time to time so that it can be tested.

    Args:
      phi: the adapters that tuning starts from, such as the result of `start`.
      batches: batches that the tasks are tuned on.
      total_steps: number of tuning steps.
      period: number of steps between two yields. Phi is also yielded before the
        first step and after the last.
      label: label of the progress bar.

    Yields:
      The number of steps done, the seconds that these steps took (without
      compilation and tests), and phi.
    """
    step_fn = self._partitioner.compile(self._step)
    state = self._partitioner.compile(jax.vmap(self._optimizer.init))(phi)
    yield 0, 0.0, phi
    # This call only compiles: its result is dropped, so that the seconds below
    # are those of the steps alone.
    batch = next(batches)
    jax.block_until_ready(
      step_fn(self._params, self._frozen, phi, state, batch)
    )
    progress = summaries.Progress(total_steps, label=label)
    seconds = 0.0
    for step in range(1, total_steps + 1):
      begin = time.perf_counter()
      phi, state = step_fn(self._params, self._frozen, phi, state, batch)
      jax.block_until_ready(phi)
      seconds += time.perf_counter() - begin
      batch = next(batches)
      progress.update()
      if step % period == 0 or step == total_steps:
        yield step, seconds, phi
    progress.close()

  def answer(
    self, phi: Adapters, batch: Batch, keys: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """Scores and texts for a batch with phi, see `HyperTuningModel.answer`.

    Args:
      phi: adapters `[tasks, ...]`.
      batch: model features of one row per task.
      keys: random keys `[tasks]`, for sampled decoding.
    """
    return self._answer(self._params, self._frozen, phi, batch, keys)

  def _losses(
    self, phi: Adapters, params: Any, frozen: Any, batch: Batch
  ) -> jax.Array:
    """The sum over tasks of each task's mean loss per token.

    With a sum, the gradient of a task's phi is that of its own loss.
    """
    weights = batch['target_weights']
    tokens = jnp.sum(weights, axis=(1, 2), keepdims=True)
    means = {**batch, 'target_weights': weights / jnp.maximum(tokens, 1)}
    return self._model.adapted_loss(params, means, phi, {'frozen': frozen})

  def _step(
    self, params: Any, frozen: Any, phi: Adapters, state: Any, batch: Batch
  ) -> tuple[Adapters, Any]:
    gradients = jax.grad(self._losses)(phi, params, frozen, batch)
    updates, state = jax.vmap(self._optimizer.update)(gradients, state, phi)
    return optax.apply_updates(phi, updates), state

  def _scores_and_texts(
    self,
    params: Any,
    frozen: Any,
    phi: Adapters,
    batch: Batch,
    keys: jax.Array | None,
  ) -> dict[str, jax.Array]:
    return self._model.answer(params, frozen, batch, phi, keys)


def read_start(
  path: str, expected: Adapters, first: int, names: Sequence[str]
) -> Adapters:
  """Reads the adapters that a group of tasks starts from.

  Args:
    path: value of START_ADAPTERS.
    expected: adapters `[tasks, ...]` of the shapes that the group needs.
    first: number of the group's first task, counted from 0.
    names: names of all tasks.

  Returns:
    Adapters of the shapes of `expected`. If the file has one row of adapters,
    every task starts from it; otherwise each task starts from its own row.

  Raises:
    UserError: the file has adapters of other shapes or for other tasks.
  """
  count = jax.tree.leaves(expected)[0].shape[0]
  header = io.read_header(path)
  rows = next(iter(header.shapes.values()))[0]
  if rows not in (1, len(names)):
    raise UserError(
      f'START_ADAPTERS = {path!r}: {rows} adapters there, but 1 or '
      f'{len(names)} are needed, one per task.'
    )
  tasks = header.config.get('tasks', ['unknown'])
  if rows > 1 and tasks != names:
    raise UserError(
      f'START_ADAPTERS = {path!r}: of other tasks ({tasks[0]!r}, ...) than '
      f'these ({names[0]!r}, ...).'
    )
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), expected
  )
  loaded = io.load(path, expected=shapes)
  # A file may hold bfloat16; the adapters are tuned in float32 all the same.
  loaded = jax.tree.map(lambda x, y: np.asarray(x, y.dtype), loaded, shapes)
  if rows == 1:
    return jax.tree.map(lambda x: np.repeat(x, count, axis=0), loaded)
  return jax.tree.map(lambda x: x[first : first + count], loaded)
