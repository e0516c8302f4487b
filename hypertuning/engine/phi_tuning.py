"""Adapters as free parameters: tuned directly, many tasks side by side."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hypertuning import adapters as adapters_lib
from hypertuning.adapters import Adapters
from hypertuning.engine import summaries
from hypertuning.engine.batching import TrainBatches
from hypertuning.engine.partitioning import Partitioner
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, jax.Array]


class Tuner:
  """Gradients of phi alone; hypermodel and downstream model stay as they are.

  Row `n` of a batch is of task `n`, and reads the phi of that task. Losses of
  tasks do not meet: each has its own mean, gradient and optimizer state, as if
  it were tuned alone.
  """

  def __init__(
    self,
    model: HyperTuningModel,
    optimizer: optax.GradientTransformation,
    params: Any,
    frozen: Any,
    partitioner: Partitioner,
  ) -> None:
    """Takes a model's variables.

    Args:
      model: with a source of phi.
      optimizer: any optax transformation, applied to each task's phi.
      params: of the model.
      frozen: of the model.
      partitioner: where batches and variables lie.
    """
    self._model, self._optimizer = model, optimizer
    self._params, self._frozen = params, frozen
    self._partitioner = partitioner
    self._answer = partitioner.compile(self._scores_and_texts)

  def start(self, batch: Batch, draws: int = 1) -> Adapters:
    """Phi of every task.

    Args:
      batch: of `tasks * draws` rows, the draws of a task next to one another.
      draws: whose phi is averaged.

    Returns:
      Adapters of `[tasks]`, float32 as optimizers want them.
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
    """Tunes, and stops to be tested.

    Args:
      phi: of `start`.
      batches: to tune on.
      total_steps: of tuning.
      period: steps between stops; there is one before the first step, and one
        after the last.
      label: of the progress bar.

    Yields:
      Steps done, seconds they took (neither compilation nor tests) and phi.
    """
    step_fn = self._partitioner.compile(self._step)
    state = self._partitioner.compile(jax.vmap(self._optimizer.init))(phi)
    yield 0, 0.0, phi
    # Compiles; its result is dropped.
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

  def answer(self, phi: Adapters, batch: Batch) -> Mapping[str, jax.Array]:
    """What a model answers to a batch, see `HyperTuningModel.answer`."""
    return self._answer(self._params, self._frozen, phi, batch)

  def _losses(
    self, phi: Adapters, params: Any, frozen: Any, batch: Batch
  ) -> jax.Array:
    """The sum over tasks of their mean losses a token."""
    scores = self._model.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=phi
    )
    tokens = jnp.sum(batch['target_weights'], axis=(1, 2))
    return -jnp.sum(jnp.sum(scores, axis=1) / jnp.maximum(tokens, 1))

  def _step(
    self, params: Any, frozen: Any, phi: Adapters, state: Any, batch: Batch
  ) -> tuple[Adapters, Any]:
    gradients = jax.grad(self._losses)(phi, params, frozen, batch)
    updates, state = jax.vmap(self._optimizer.update)(gradients, state, phi)
    return optax.apply_updates(phi, updates), state

  def _scores_and_texts(
    self, params: Any, frozen: Any, phi: Adapters, batch: Batch
  ) -> dict[str, jax.Array]:
    return self._model.answer(params, frozen, batch, phi)
