"""Tunes the phi of one task by gradient, on its own examples."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hypertuning.adapters import Adapters
from hypertuning.api import questions
from hypertuning.api.questions import Example, Question
from hypertuning.data.text_format import TextFormat
from hypertuning.engine import batching, phi_tuning
from hypertuning.engine.partitioning import Partitioner
from hypertuning.models import HyperTuningModel


def tune(
  network: HyperTuningModel,
  params: Any,
  frozen: Any,
  partitioner: Partitioner,
  start: Adapters,
  pairs: Sequence[Example],
  *,
  steps: int,
  learning_rate: float,
  batch_size: int,
  seed: int,
) -> tuple[Adapters, float, float]:
  """Tunes phi with Adam, see `Model.tune`.

  Args:
    network: the model.
    params: trainable variables, which do not change.
    frozen: frozen variables.
    partitioner: the device.
    start: phi of one episode, `[1, ...]`.
    pairs: the examples.
    steps: number of steps.
    learning_rate: learning rate.
    batch_size: number of examples per step.
    seed: seed of the order of the examples.

  Returns:
    The tuned phi in float32, the seconds of the steps without compilation, and
    the mean loss per token of the examples with the tuned phi.
  """
  rows = _features(pairs, network.text_format)
  size = min(batch_size, len(pairs))
  whole = partitioner.compile(_mean_loss(network))

  def open_at(first: int) -> Iterator[dict[str, np.ndarray]]:
    random = np.random.default_rng([seed, first])
    while True:
      # Each pass reads every example once, but for those that are left over.
      order = random.permutation(len(pairs))
      for begin in range(0, len(pairs) - size + 1, size):
        chosen = order[begin : begin + size]
        yield {name: x[chosen][None] for name, x in rows.items()}

  tuner = phi_tuning.Tuner(
    network, optax.adam(learning_rate), params, frozen, partitioner
  )
  first = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start)
  batches = batching.TrainBatches(open_at, 1, partitioner.batch)
  *_, last = tuner.tune(first, batches, steps, steps, 'tuning')
  _, seconds, tuned = last
  everything = {name: x[None] for name, x in rows.items()}
  loss = float(whole(params, frozen, everything, tuned))
  return jax.device_get(tuned), seconds, loss


def _features(
  pairs: Sequence[Example], form: TextFormat
) -> dict[str, np.ndarray]:
  """Inputs, targets and weights of all examples, `[examples, tokens]`."""
  batch, _, _ = questions.batch(
    [Question(inputs, targets) for inputs, targets in pairs], form, 1
  )
  names = ('input_tokens', 'target_tokens', 'target_weights')
  return {name: batch[name][: len(pairs), 0] for name in names}


def _mean_loss(network: HyperTuningModel) -> Any:
  def mean_loss(
    params: Any, frozen: Any, batch: Any, adapters: Adapters
  ) -> jax.Array:
    scores = network.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=adapters
    )
    return -jnp.sum(scores) / jnp.maximum(batch['target_weights'].sum(), 1)

  return mean_loss
