"""Held-out loss and text with generated phi and what it is compared with."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning import adapters as adapters_lib
from hypertuning.adapters import Adapters
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, jax.Array]
GENERATED, OTHER, NONE = 'generated', 'other', 'none'
AVERAGED, RANDOM = 'averaged', 'random'


def phi_modes(model: HyperTuningModel) -> tuple[str, ...]:
  """The modes that a model is compared in unless others are asked for."""
  return (GENERATED, OTHER, NONE) if model.has_hypermodel else (NONE,)


def check_modes(modes: Sequence[str], model: HyperTuningModel) -> None:
  """Refuses phi modes that the model cannot be run in.

  Raises:
    UserError: names the mode and those that can be had.
  """
  there = phi_modes(model)
  if model.has_hypermodel:
    there += (AVERAGED, RANDOM)
  if set(modes) - set(there) or not modes:
    raise UserError(f'PHI_MODES = {tuple(modes)!r}: this model has {there!r}.')


def with_phi(
  phi: Adapters | None,
  mode: str,
  is_real: jax.Array,
  draws: int = 1,
  rng: jax.Array | None = None,
) -> Adapters | None:
  """Phi as a mode has it.

  Args:
    phi: of `[episodes]`.
    mode: `other` gives each real episode the phi of the next one in the batch
      that asks something else, or of the one before it: of another task, where
      tasks come in turn. `averaged` gives the mean over the draws of what it
      asks, `random` normal noise of phi's root mean square, leaf by leaf.
    is_real: `[episodes]`; rows that fill up a batch come last.
    draws: so many episodes in a row ask the same, with other shots.
    rng: of the noise.

  Returns:
    Phi of `[episodes]`, or None for none.
  """
  if mode == NONE or phi is None:
    return None
  if mode == GENERATED:
    return phi
  if mode == AVERAGED:
    return adapters_lib.repeat(adapters_lib.average(phi, draws), draws)
  if mode == RANDOM:
    leaves, structure = jax.tree.flatten(phi)
    assert rng is not None
    rngs = jax.random.split(rng, len(leaves))
    return jax.tree.unflatten(structure, map(_noise, rngs, leaves))
  rows = jnp.arange(is_real.shape[0])
  others = _others(rows, jnp.sum(is_real), draws)
  return jax.tree.map(lambda x: x[others], phi)


def others(episodes: int, batch_size: int, draws: int = 1) -> np.ndarray:
  """Whose phi the mode `other` gives each episode.

  Args:
    episodes: in all; rows that fill up the last batch repeat the first ones.
    batch_size: episodes a batch.
    draws: see `with_phi`.

  Returns:
    Numbers of episodes, int `[episodes]`.
  """
  numbers = np.arange(episodes)
  rows = numbers % batch_size
  first = numbers - rows  # of the batch
  real = np.minimum(batch_size, episodes - first)
  taken = np.asarray(_others(jnp.asarray(rows), jnp.asarray(real), draws))
  return np.where(taken < real, first + taken, (taken - real) % episodes)


def _others(rows: jax.Array, real: jax.Array, draws: int) -> jax.Array:
  """Rows of a batch to those of `other`."""
  # Never one's own: if only one question is real, the first one that fills up.
  after = rows + draws
  inside = after < jnp.maximum(real, 2 * draws)
  return jnp.where(inside, after, rows - draws)


def _noise(rng: jax.Array, x: jax.Array) -> jax.Array:
  size = jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))
  return (size * jax.random.normal(rng, x.shape)).astype(x.dtype)


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


def summarize(
  outputs: Mapping[str, np.ndarray], together: int = 1
) -> dict[str, float]:
  """Losses a token, their standard errors, and paired differences.

  Args:
    outputs: of `collect`.
    together: so many episodes in a row ask the same, and count as one.

  Returns:
    `loss/<mode>` and `loss/<mode>_stderr` in nats a token (episodes weighted
    by their tokens); where there is generated phi also `gap/<mode>`, the loss
    in that mode minus the loss with generated phi, with `_stderr`, `_low` and
    `_high` (95% interval over episodes, paired).
  """

  def of_rows(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64).reshape(-1, together * x.shape[1]).sum(axis=1)

  tokens = of_rows(outputs['tokens'])
  losses = {
    name.removeprefix('score/'): -of_rows(x)
    for name, x in outputs.items()
    if name.startswith('score/')
  }
  summary: dict[str, float] = {}
  for mode, values in losses.items():
    mean, error = ratio(values, tokens)
    summary |= {f'loss/{mode}': mean, f'loss/{mode}_stderr': error}
  for mode in losses.keys() - {GENERATED} if GENERATED in losses else ():
    mean, error = ratio(losses[mode] - losses[GENERATED], tokens)
    summary |= {
      f'gap/{mode}': mean,
      f'gap/{mode}_stderr': error,
      f'gap/{mode}_low': mean - 1.96 * error,
      f'gap/{mode}_high': mean + 1.96 * error,
    }
  return dict(sorted(summary.items()))


def ratio(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
  """`sum(values) / sum(weights)` and its standard error over rows.

  Args:
    values: `[rows]` sums.
    weights: `[rows]` counts; rows are independent, what is in a row is not.
  """
  total = weights.sum()
  if total == 0:
    return math.nan, math.nan
  mean = values.sum() / total
  rows = len(values)
  residuals = values - mean * weights
  spread = rows / max(rows - 1, 1) * np.sum(np.square(residuals))
  return float(mean), float(math.sqrt(spread) / total)
