"""The network of all models: a downstream one, adapted by phi of a source."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from hypertuning.adapters import Adapters
from hypertuning.networks.memory import Memory

Batch = Mapping[str, jax.Array]


class AdaptedModel(nn.Module):
  """A downstream network and, if there is one, the source of its phi.

  Attributes:
    downstream: a `networks.Network`.
    hypermodel: a source: `source(hyper_tokens, downstream, enable_dropout)`
      gives adapters, and may run the downstream network to make them; or None.
    teacher: a network like `downstream` that is distilled, or None.
  """

  downstream: nn.Module
  hypermodel: nn.Module | None = None
  teacher: nn.Module | None = None

  def generate(
    self, hyper_tokens: jax.Array, enable_dropout: bool = False
  ) -> Adapters | None:
    """Phi of every episode, or None where there is no hypermodel.

    Args:
      hyper_tokens: few-shot text, int32 `[episodes, length]`, or in chunks of
        whole examples `[episodes, chunks, length]`.
      enable_dropout: whether dropout is on.
    """
    if self.hypermodel is None:
      return None
    return self.hypermodel(
      hyper_tokens, self.downstream, enable_dropout=enable_dropout
    )

  def logits(
    self, batch: Batch, adapters: Adapters | None, enable_dropout: bool = False
  ) -> jax.Array:
    """Float32 `[episodes, queries, length, vocab]` with phi of `[episodes]`."""
    return _logits(
      self.downstream,
      batch['input_tokens'],
      batch['target_tokens'],
      adapters,
      enable_dropout,
    )

  def teacher_logits(self, batch: Batch) -> jax.Array:
    """Logits of the teacher, which reads the examples in its own input.

    Without a network of its own the teacher is the downstream model, without
    phi. No gradient goes through it.
    """
    network = self.downstream if self.teacher is None else self.teacher
    return jax.lax.stop_gradient(
      _logits(network, batch['teacher_tokens'], batch['target_tokens'])
    )

  def start(
    self, input_tokens: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """A memory with a row per query of `[episodes, queries, length]` inputs."""
    return self.downstream.start(fold(input_tokens), adapters, length)

  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """See `networks.Network`."""
    return self.downstream.step(ids, memory)

  def __call__(self, batch: Batch, enable_dropout: bool = False) -> jax.Array:
    """Logits with generated phi."""
    if self.teacher is not None and self.is_initializing():
      self.teacher_logits(batch)  # makes its parameters
    phi = self.generate(batch['hyper_tokens'], enable_dropout)
    return self.logits(batch, phi, enable_dropout)


def _logits(
  network: Any,
  inputs: jax.Array,
  targets: jax.Array,
  adapters: Adapters | None = None,
  enable_dropout: bool = False,
) -> jax.Array:
  hidden = network(fold(inputs), fold(targets), adapters, enable_dropout)
  return network.logits(hidden).reshape(*targets.shape, -1)


def fold(x: jax.Array) -> jax.Array:
  """`[episodes, queries, length]` to `[episodes * queries, length]`."""
  return x.reshape(-1, x.shape[-1])
