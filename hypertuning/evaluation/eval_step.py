"""The compiled evaluation step: scores and text in every phi mode."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning.adapters import Adapters
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
  """A function `(params, frozen, batch, rng)` to scores and text.

  Phi is generated once an episode and reused by every query, mode and use.

  Args:
    model: the model.
    modes: see `with_phi`.
    decode: whether to decode text.
    draws: see `with_phi`.

  Returns:
    A function whose result has `tokens` `[episodes, queries]` (how many target
    tokens), for each mode `score/<mode>` `[episodes, queries]` (summed target
    log-probabilities) and with `decode` `text/<mode>`
    `[episodes, queries, length]` (decoded tokens).
  """

  def step(
    params: Any, frozen: Any, batch: Batch, rng: jax.Array
  ) -> dict[str, jax.Array]:
    phi = model.generate_adapters(params, batch, {'frozen': frozen})
    outputs = {'tokens': jnp.sum(batch['decoder_loss_weights'], axis=-1)}
    for mode in modes:
      adapters = with_phi(phi, mode, batch['is_real'], draws, rng)
      answered = answer(model, params, frozen, batch, adapters, rng, decode)
      outputs |= {f'{kind}/{mode}': x for kind, x in answered.items()}
    return outputs

  return step


def answer(
  model: HyperTuningModel,
  params: Any,
  frozen: Any,
  batch: Batch,
  adapters: Adapters | None,
  rng: jax.Array | None = None,
  decode: bool = True,
) -> dict[str, jax.Array]:
  """Scores and text of a batch with given adapters.

  Args:
    model: the model.
    params: of the model.
    frozen: of the model.
    batch: of model features.
    adapters: phi of `[episodes]`, or None for none.
    rng: of sampled decoding.
    decode: whether to decode text.

  Returns:
    `score` `[episodes, queries]` (summed target log-probabilities) and with
    `decode` `text` `[episodes, queries, length]` (decoded tokens).
  """
  mutables = {'frozen': frozen}
  outputs = {
    'score': model.score_batch(
      params, batch, flax_mutables=mutables, adapters=adapters
    )
  }
  if decode:
    outputs['text'] = model.predict_batch(
      params, batch, rng, flax_mutables=mutables, adapters=adapters
    )
  return outputs


def collect(
  step: Callable[[Batch], Mapping[str, jax.Array]], batches: Iterable[Batch]
) -> dict[str, np.ndarray]:
  """Runs a step over batches and joins the results of real rows.

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
