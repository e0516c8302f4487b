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
  """Whether one phi serves all episodes: an episodes axis of 1."""
  return jax.tree.leaves(adapters)[0].shape[0] == 1


def repeat(adapters: _T, times: int) -> _T:
  """`[episodes, ...]` to `[episodes * times, ...]`, each phi `times` in a row.

  Phi that all episodes share stays as it is.
  """
  if is_shared(adapters):
    return adapters
  return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), adapters)


def take(adapters: _T, episodes: jax.Array) -> _T:
  """Phi of the numbered episodes; one that all share stays as it is."""
  if is_shared(adapters):
    return adapters
  return jax.tree.map(lambda x: x[episodes], adapters)


def expand(adapters: _T, episodes: int) -> _T:
  """A copy per episode of phi that all share, where each must have its own."""
  return jax.tree.map(
    lambda x: jnp.broadcast_to(x, (episodes, *x.shape[1:])), adapters
  )


def average(adapters: _T, draws: int) -> _T:
  """`[episodes * draws, ...]` to `[episodes, ...]`: the mean over draws.

  Phi that all episodes share stays as it is.
  """
  if is_shared(adapters):
    return adapters
  return jax.tree.map(
    lambda x: x.reshape(-1, draws, *x.shape[1:]).mean(axis=1), adapters
  )
