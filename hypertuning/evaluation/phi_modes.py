"""Phi modes: generated phi, and what it is compared with.

The same episodes are answered once per mode, so that differences between modes
are paired. `generated` uses the phi that the hypermodel makes from the
episode's own examples. `other` uses the phi of another episode, `averaged` the
mean phi of several draws of examples, `random` noise of phi's size, and `none`
the frozen model without an adapter.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning import adapters as adapters_lib
from hypertuning.adapters import Adapters
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.networks import decoding

Batch = Mapping[str, jax.Array]
GENERATED, OTHER, NONE = 'generated', 'other', 'none'
AVERAGED, RANDOM = 'averaged', 'random'


def default_modes(model: HyperTuningModel) -> tuple[str, ...]:
  """The modes that an evaluation compares unless `PHI_MODES` names others."""
  return (GENERATED, OTHER, NONE) if model.has_hypermodel else (NONE,)


def check_modes(modes: Sequence[str], model: HyperTuningModel) -> None:
  """Refuses phi modes that need a hypermodel where the model has none.

  Raises:
    UserError: `modes` is empty or holds a mode that this model does not have;
      the message lists the modes that it has.
  """
  allowed = default_modes(model)
  if model.has_hypermodel:
    allowed += (AVERAGED, RANDOM)
  if set(modes) - set(allowed) or not modes:
    raise UserError(
      f'PHI_MODES = {tuple(modes)!r}: this model has {allowed!r}.'
    )


def with_phi(
  phi: Adapters | None,
  mode: str,
  is_real: jax.Array,
  draws: int = 1,
  rng: jax.Array | None = None,
) -> Adapters | None:
  """The adapters that each episode of a batch is answered with in one mode.

  Args:
    phi: the generated adapters; every leaf has a leading `[episodes]` axis.
      None if the model has no hypermodel.
    mode: one of this module's modes. `other` swaps phi between episodes: each
      real episode gets the phi of the next episode in the batch that asks
      different queries, and the last one gets that of the episode before it.
      Where the tasks of a split come in turn, that is another task's phi.
      `averaged` gives every episode the mean phi over the draws of shots for
      its queries. `random` gives every episode noise of its own: each leaf is
      normal noise whose root mean square is that of the leaf in this episode.
    is_real: mask of the real rows, bool `[episodes]`, False on the rows that
      fill up the last batch, which come after all real ones.
    draws: number of consecutive episodes that ask the same queries and differ
      only in their shots.
    rng: key for the noise of `random`, or one key per episode `[episodes]`, so
      that the noise of an episode does not depend on its batch. Other modes do
      not read it.

  Returns:
    Adapters of the same shapes as `phi`, or None where the mode is `none` or
    the model has no hypermodel. In the mode `random` there is one row per
    episode, also where all episodes share one phi.
  """
  if mode == NONE or phi is None:
    return None
  if mode == GENERATED:
    return phi
  if mode == AVERAGED:
    return adapters_lib.repeat(adapters_lib.average(phi, draws), draws)
  if mode == RANDOM:
    assert rng is not None
    episodes = is_real.shape[0]
    leaves, structure = jax.tree.flatten(adapters_lib.expand(phi, episodes))
    keys = decoding.row_keys(rng, episodes)
    leaf_keys = decoding.divided_keys(keys, len(leaves)).T
    return jax.tree.unflatten(structure, map(_noise, leaf_keys, leaves))
  rows = jnp.arange(is_real.shape[0])
  others = _others(rows, jnp.sum(is_real), draws)
  return adapters_lib.take(phi, others)


def neighbors(episodes: int, batch_size: int, draws: int = 1) -> np.ndarray:
  """For each episode, the episode whose phi it gets in the mode `other`.

  Args:
    episodes: number of real episodes in the split. The rows that fill up the
      last batch are the first episodes again.
    batch_size: number of episodes per batch.
    draws: number of consecutive episodes that ask the same queries, as in
      `with_phi`.

  Returns:
    Episode numbers, int `[episodes]`.
  """
  numbers = np.arange(episodes)
  rows = numbers % batch_size
  first = numbers - rows  # the number of the first episode of the batch
  real = np.minimum(batch_size, episodes - first)
  batch_rows = np.asarray(_others(jnp.asarray(rows), jnp.asarray(real), draws))
  return np.where(
    batch_rows < real, first + batch_rows, (batch_rows - real) % episodes
  )


def _others(rows: jax.Array, real: jax.Array, draws: int) -> jax.Array:
  """For each row of a batch, the row whose phi the mode `other` takes."""
  # A row must never get its own phi. If all real rows ask the same queries, the
  # rows that fill up the batch are taken, hence at least `2 * draws`.
  next_rows = rows + draws
  is_inside = next_rows < jnp.maximum(real, 2 * draws)
  return jnp.where(is_inside, next_rows, rows - draws)


@jax.vmap
def _noise(key: jax.Array, x: jax.Array) -> jax.Array:
  """Noise of the size of a leaf, which is drawn with one key per episode."""
  # In float32: squares of small values vanish in bfloat16.
  size = jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32))))
  return (size * jax.random.normal(key, x.shape)).astype(x.dtype)
