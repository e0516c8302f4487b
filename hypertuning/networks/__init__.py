"""Transformers, written once; hypermodels and downstream models share them."""

from typing import Any, Protocol

import jax

from hypertuning.adapters import Adapters
from hypertuning.networks.memory import Memory


class Network(Protocol):
  """What every downstream network is: a Flax module with these methods.

  Attributes:
    config: has `vocab_size`, `dtype`, `scan_layers`, `remat_policy` and `sites`
      (see `adapters.sites`); nothing else of it is read outside the network.
  """

  config: Any

  def __call__(
    self,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Hidden states from which `logits` predicts every target token.

    Args:
      inputs: what is read, int32 `[rows, inputs]`, 0 on padding.
      targets: what is to be said, int32 `[rows, targets]`, 0 on padding; the
        network itself shifts them.
      adapters: phi of episodes; rows of an episode are neighbours, and there
        are equally many per episode.
      enable_dropout: whether dropout is on.

    Returns:
      `[rows, targets, embed]`.
    """

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Float32 `[..., vocab]` from hidden states `[..., embed]`."""

  def start(
    self, inputs: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """Reads the inputs once, with room for `length` tokens to decode."""

  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """Logits `[rows, vocab]` of the token behind ids `[rows]`."""
