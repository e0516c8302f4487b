"""Adapter parameters (phi): small pytrees with a leading `[episodes]` axis."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from hypertuning.adapters.lora import LoRA, merge
from hypertuning.adapters.prefix import Prefix
from hypertuning.adapters.sites import (
  KeyValue,
  LowRank,
  Matrix,
  Site,
  SiteAdapter,
)
from hypertuning.adapters.specs import LoRASpec, PrefixSpec, Spec

__all__ = [
  'Adapters',
  'KeyValue',
  'LoRA',
  'LoRASpec',
  'LowRank',
  'Matrix',
  'Prefix',
  'PrefixSpec',
  'Site',
  'SiteAdapter',
  'Spec',
  'average',
  'expand',
  'is_shared',
  'merge',
  'repeat',
  'take',
]

Adapters = Prefix | LoRA
_T = TypeVar('_T', bound=Adapters)


def is_shared(adapters: Adapters) -> bool:
  """Whether all episodes share one phi: its episodes axis has the size 1."""
  return jax.tree.leaves(adapters)[0].shape[0] == 1


def repeat(adapters: _T, times: int) -> _T:
  """Repeats the phi of every episode, `times` times in a row.

  Args:
    adapters: phi `[episodes, ...]`.
    times: number of copies of each phi.

  Returns:
    Phi `[episodes * times, ...]`. Phi that all episodes share is returned as it
    is.
  """
  if is_shared(adapters):
    return adapters
  return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), adapters)


def take(adapters: _T, episodes: jax.Array) -> _T:
  """Selects the phi of some episodes.

  Args:
    adapters: phi `[episodes, ...]`.
    episodes: numbers of the episodes, int `[n]`.

  Returns:
    Phi `[n, ...]`. Phi that all episodes share is returned as it is.
  """
  if is_shared(adapters):
    return adapters
  return jax.tree.map(lambda x: x[episodes], adapters)


def expand(adapters: _T, episodes: int) -> _T:
  """Gives every episode a phi of its own.

  Args:
    adapters: phi `[1, ...]`, which all episodes share, or `[episodes, ...]`.
    episodes: number of episodes.

  Returns:
    Phi `[episodes, ...]`.
  """
  return jax.tree.map(
    lambda x: jnp.broadcast_to(x, (episodes, *x.shape[1:])), adapters
  )


def average(
  adapters: _T, draws: int, count: jax.Array | int | None = None
) -> _T:
  """The mean of phi over consecutive draws of examples.

  Args:
    adapters: phi `[episodes * draws, ...]`.
    draws: number of consecutive rows whose mean is taken.
    count: number of the first draws of each episode that count, int32 `[]`, the
      others being padding; None for all.

  Returns:
    Phi `[episodes, ...]`. Phi that all episodes share is returned as it is.
  """
  if is_shared(adapters):
    return adapters

  def mean(x: jax.Array) -> jax.Array:
    x = x.reshape(-1, draws, *x.shape[1:])
    if count is None:
      return x.mean(axis=1)
    numbers = jnp.arange(draws).reshape(draws, *[1] * (x.ndim - 2))
    return x.mean(axis=1, where=numbers < count)

  return jax.tree.map(mean, adapters)
