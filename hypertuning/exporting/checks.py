"""What all exports ask of phi."""

import jax

from hypertuning.adapters import Adapters
from hypertuning.errors import UserError


def one_episode(adapters: Adapters) -> None:
  """Refuses phi of several episodes.

  Args:
    adapters: phi `[episodes, ...]`.

  Raises:
    UserError: the episodes axis has another size than 1.
  """
  episodes = {leaf.shape[0] for leaf in jax.tree.leaves(adapters)}
  if episodes != {1}:
    raise UserError(
      f'phi has {max(episodes, default=0)} episodes, but other libraries hold '
      'one; export them one at a time, or take their average.'
    )
