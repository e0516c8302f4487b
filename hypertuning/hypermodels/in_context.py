"""Examples in context as phi: the keys and values of the examples themselves.

A decoder-only network that reads the examples of an episode before each of its
queries computes their keys and values every time. Here it computes them once
per episode, and they are the prefix of all queries. The numbers are those of
examples in the network's own input. Nothing is compressed and nothing is
trained.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Prefix
from hypertuning.errors import UserError
from hypertuning.networks import Cacher


class InContext(nn.Module):
  """The downstream network's own keys and values of the examples.

  The text format is that of `data.cached_examples`: the examples end with the
  ids between two examples, and a query begins without `start`.

  Attributes:
    start: ids before the examples.
  """

  start: Sequence[int] = ()

  @nn.compact
  def __call__(
    self, tokens: jax.Array, downstream: Any, enable_dropout: bool = False
  ) -> Prefix:
    """Reads the examples of every episode.

    Args:
      tokens: token ids of the examples, int32 `[episodes, length]`, 0 on
        padding.
      downstream: the downstream network, a `networks.Cacher`.
      enable_dropout: part of the signature of a hypermodel; not used.

    Returns:
      A prefix of `len(start) + length`, masked where a text is shorter.

    Raises:
      UserError: the network cannot cache a text, or the examples are in chunks.
    """
    del enable_dropout
    if not isinstance(downstream, Cacher):
      raise UserError(
        f'HYPERMODEL = @in_context.InContext(): {type(downstream).__name__} '
        'reads its whole input with every query; show it examples by the form '
        '_in_context of a task.'
      )
    if tokens.ndim != 2:
      raise UserError(
        "TASK_FEATURE_LENGTHS['hyper_inputs']: examples in context are one "
        'text; give one number.'
      )
    start = jnp.asarray(self.start, jnp.int32)
    first = jnp.broadcast_to(start, (len(tokens), len(self.start)))
    return downstream.cache(jnp.concatenate([first, tokens], axis=1))
