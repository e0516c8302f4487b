"""The evaluation step, which computes scores and text in every phi mode."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
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
    A function `(params, frozen, batch, keys) -> outputs`. `keys` are random
    keys `[episodes]`, see `episode_keys`; all modes use the same keys, so that
    they can be compared pairwise. The outputs are
    `tokens` `[episodes, queries]` (number of target tokens), for each mode
    `score/<mode>` `[episodes, queries]` (summed target log-probabilities), and
    with `decode` also `text/<mode>` `[episodes, queries, length]` (decoded
    tokens).
  """

  def step(
    params: Any, frozen: Any, batch: Batch, keys: jax.Array
  ) -> dict[str, jax.Array]:
    phi = model.generate_adapters(params, batch, {'frozen': frozen})
    outputs: dict[str, jax.Array] = {}
    for mode in modes:
      adapters = with_phi(phi, mode, batch['is_real'], draws, keys)
      answer = model.answer(params, frozen, batch, adapters, keys, decode)
      outputs['tokens'] = answer['tokens']
      for kind in ('score', 'text') if decode else ('score',):
        outputs[f'{kind}/{mode}'] = answer[kind]
    return outputs

  return step


def episode_keys(seed: int, name: str, first: int, count: int) -> jax.Array:
  """Random keys for consecutive episodes, which do not depend on the batches.

  Args:
    seed: value of RANDOM_SEED.
    name: name of the seqio task of the episodes. Another task gets other keys;
      the mixture that has the task makes no difference.
    first: number of the first episode.
    count: number of episodes.

  Returns:
    Keys `[count]`.
  """
  key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
  numbers = first + jnp.arange(count)
  return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def collect(
  step: Callable[[Batch, int], Mapping[str, jax.Array]],
  batches: Iterable[Batch],
) -> dict[str, np.ndarray]:
  """Runs a step on all batches, and joins the results of their real rows.

  Args:
    step: function from a batch and the number of its first episode to named
      arrays `[episodes, ...]`.
    batches: batches with the feature `is_real`.

  Returns:
    Named arrays `[real episodes, ...]`.

  Raises:
    UserError: there is no batch.
  """
  parts = []
  first_episode = 0
  for batch in batches:
    mask = np.asarray(batch['is_real']).astype(bool)
    outputs = jax.device_get(step(batch, first_episode))
    first_episode += len(mask)
    parts.append({name: x[mask] for name, x in outputs.items()})
  if not parts:
    raise UserError('The split to evaluate has no episodes.')
  return {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
