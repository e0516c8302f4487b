"""The evaluation step, which computes scores and text in every phi mode."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning.errors import UserError
from hypertuning.evaluation.phi_modes import with_phi
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, jax.Array]


def make_step(
  model: HyperTuningModel,
  modes: Sequence[str],
  decode: bool = False,
  draws: int = 1,
) -> Callable[[Any, Any, Batch, jax.Array], dict[str, jax.Array]]:
  """Makes the function that evaluates one batch.

  It generates phi once per episode, for all modes, queries, scores and texts.

  Args:
    model: the model that is evaluated.
    modes: phi modes, see `phi_modes`.
    decode: whether to decode text.
    draws: number of consecutive episodes that ask the same queries, see
      `phi_modes.with_phi`.

  Returns:
    A function `(params, frozen, batch, rng) -> outputs`. The outputs are
    `tokens` `[episodes, queries]` (number of target tokens), for each mode
    `score/<mode>` `[episodes, queries]` (summed target log-probabilities), and
    with `decode` also `text/<mode>` `[episodes, queries, length]` (decoded
    tokens).
  """

  def step(
    params: Any, frozen: Any, batch: Batch, rng: jax.Array
  ) -> dict[str, jax.Array]:
    phi = model.generate_adapters(params, batch, {'frozen': frozen})
    outputs: dict[str, jax.Array] = {}
    for mode in modes:
      adapters = with_phi(phi, mode, batch['is_real'], draws, rng)
      answer = model.answer(params, frozen, batch, adapters, rng, decode)
      outputs['tokens'] = answer['tokens']
      for kind in ('score', 'text') if decode else ('score',):
        outputs[f'{kind}/{mode}'] = answer[kind]
    return outputs

  return step


def collect(
  step: Callable[[Batch], Mapping[str, jax.Array]], batches: Iterable[Batch]
) -> dict[str, np.ndarray]:
  """Runs a step on all batches, and joins the results of their real rows.

  Args:
    step: function from a batch to named arrays `[episodes, ...]`.
    batches: batches with the feature `is_real`.

  Returns:
    Named arrays `[real episodes, ...]`.

  Raises:
    UserError: there is no batch.
  """
  parts = []
  for batch in batches:
    real = np.asarray(batch['is_real']).astype(bool)
    outputs = jax.device_get(step(batch))
    parts.append({name: x[real] for name, x in outputs.items()})
  if not parts:
    raise UserError('The split to evaluate has no episodes.')
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
