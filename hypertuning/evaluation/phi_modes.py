"""Held-out loss and text with generated phi and what it is compared with."""

from collections.abc import Mapping, Sequence

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


def default_modes(model: HyperTuningModel) -> tuple[str, ...]:
  """The modes that a model is compared in unless others are asked for."""
  return (GENERATED, OTHER, NONE) if model.has_hypermodel else (NONE,)


def check_modes(modes: Sequence[str], model: HyperTuningModel) -> None:
  """Refuses phi modes that the model cannot be run in.

  Raises:
    UserError: names the mode and those that can be had.
  """
  there = default_modes(model)
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
  return adapters_lib.take(phi, others)


def neighbors(episodes: int, batch_size: int, draws: int = 1) -> np.ndarray:
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
