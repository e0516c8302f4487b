"""Adapter parameters (phi): small pytrees with a leading `[episodes]` axis."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from hypertuning.adapters.lora import LoRA, merge
from hypertuning.adapters.prefix import Prefix
from hypertuning.adapters.sites import SITES, KeyValue, LowRank, SiteAdapter

__all__ = [
  'SITES',
  'Adapters',
  'KeyValue',
  'LoRA',
  'LowRank',
  'Prefix',
  'SiteAdapter',
  'average',
  'merge',
  'repeat',
]

Adapters = Prefix | LoRA
_T = TypeVar('_T', bound=Adapters)


def repeat(adapters: _T, times: int) -> _T:
  """`[episodes, ...]` to `[episodes * times, ...]`, each phi `times` in a row.

  The order is that of `[episodes, queries]` folded into one axis.
  """
  return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), adapters)


def average(adapters: _T, draws: int) -> _T:
  """`[episodes * draws, ...]` to `[episodes, ...]`: the mean over draws."""
  return jax.tree.map(
    lambda x: x.reshape(-1, draws, *x.shape[1:]).mean(axis=1), adapters
  )
