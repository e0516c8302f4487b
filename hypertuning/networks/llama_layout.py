"""How a Llama's prompts and targets become one sequence, on the device.

It is `[inputs | last prompt token | targets]`, with the inputs padded on the
right. The last prompt token of a row *moves* to the column behind the inputs:
it keeps its position, and its own column is masked. So the targets of all rows
start in the same column, whatever the lengths of their prompts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from hypertuning.networks.attention import View
from hypertuning.padding import is_real


def causal(mask: jax.Array, visible: jax.Array | None = None) -> View:
  """What every token may see.

  Args:
    mask: bool `[rows, length]`, False on what no token may see.
    visible: bool `[rows or 1, length, length]`, False on further pairs that do
      not see one another; None for none.
  """
  return View(mask.shape[1], keys=mask, causal=True, visible=visible)


class Prompt(NamedTuple):
  """What a row's prompt is, apart from its last token, which moves.

  Attributes:
    mask: bool `[rows, inputs]`: real tokens but the last one.
    positions: int32 `[rows, inputs]`.
    last: int32 `[rows]`, the last real token; padding's id in an empty row.
    first: int32 `[rows]`, position of the last token.
  """

  mask: jax.Array
  positions: jax.Array
  last: jax.Array
  first: jax.Array

  @classmethod
  def read(cls, inputs: jax.Array, start: int | jax.Array) -> 'Prompt':
    """Finds the last tokens of prompts.

    Args:
      inputs: int32 `[rows, inputs]`.
      start: position of the first token, int or int32 `[rows, 1]`.
    """
    real = is_real(inputs)
    counts = jnp.cumsum(real, axis=1)
    positions = start + jnp.maximum(counts - 1, 0)
    mask = real & (counts < counts[:, -1:])
    is_last = real & (counts == counts[:, -1:])
    last = jnp.where(is_last, inputs, 0).sum(axis=1)
    return cls(mask, positions, last, positions[:, -1])


class Query(NamedTuple):
  """Prompts and their targets in one sequence.

  Attributes:
    ids: int32 `[rows, inputs + targets]`.
    mask: bool like `ids`, False on what no token may see.
    positions: int32 like `ids`.
  """

  ids: jax.Array
  mask: jax.Array
  positions: jax.Array

  @classmethod
  def read(
    cls, inputs: jax.Array, targets: jax.Array, start: int | jax.Array
  ) -> 'Query':
    """Joins prompts and targets, int32 `[rows, length]`, see `Prompt`."""
    prompt = Prompt.read(inputs, start)
    ids = [inputs, prompt.last[:, None], targets[:, :-1]]
    own = jnp.arange(targets.shape[1])
    return cls(
      jnp.concatenate(ids, axis=1),
      jnp.pad(prompt.mask, [(0, 0), (0, own.size)], constant_values=True),
      jnp.concatenate([prompt.positions, prompt.first[:, None] + own], axis=1),
    )
