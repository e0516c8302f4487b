"""The network of all models: a downstream one, adapted by generated phi."""

from collections.abc import Mapping

import flax.linen as nn
import jax

from hypertuning import adapters as adapters_lib
from hypertuning.adapters import Adapters

Batch = Mapping[str, jax.Array]


class AdaptedModel(nn.Module):
  """A downstream model and, if there is one, the hypermodel that adapts it.

  Attributes:
    downstream: a network with `encode`, `decode` and an `adapters` argument.
    hypermodel: few-shot tokens to adapters, or None.
    teacher: a network like `downstream` that is distilled, or None.
  """

  downstream: nn.Module
  hypermodel: nn.Module | None = None
  teacher: nn.Module | None = None

  def generate(
    self, hyper_input_tokens: jax.Array, enable_dropout: bool = False
  ) -> Adapters | None:
    """Phi of every episode, or None where there is no hypermodel."""
    if self.hypermodel is None:
      return None
    return self.hypermodel(hyper_input_tokens, enable_dropout=enable_dropout)

  def logits(
    self, batch: Batch, adapters: Adapters | None, enable_dropout: bool = False
  ) -> jax.Array:
    """`[episodes, queries, length, vocab]` logits with phi of `[episodes]`."""
    episodes, queries = batch['encoder_input_tokens'].shape[:2]
    if adapters is not None:
      adapters = adapters_lib.repeat(adapters, queries)
    logits = self.downstream(
      fold(batch['encoder_input_tokens']),
      fold(batch['decoder_input_tokens']),
      fold(batch['decoder_target_tokens']),
      adapters,
      enable_dropout,
    )
    return logits.reshape(episodes, queries, *logits.shape[1:])

  def teacher_logits(self, batch: Batch) -> jax.Array:
    """Logits of the teacher, which reads the examples in its own input.

    Without a network of its own the teacher is the downstream model, without
    phi. No gradient goes through it.
    """
    network = self.downstream if self.teacher is None else self.teacher
    logits = network(
      fold(batch['teacher_input_tokens']),
      fold(batch['decoder_input_tokens']),
      fold(batch['decoder_target_tokens']),
    )
    shape = batch['decoder_target_tokens'].shape
    return jax.lax.stop_gradient(logits.reshape(*shape, -1))

  def __call__(self, batch: Batch, enable_dropout: bool = False) -> jax.Array:
    """Logits with generated phi."""
    if self.teacher is not None and self.is_initializing():
      self.teacher_logits(batch)  # makes its parameters
    phi = self.generate(batch['hyper_input_tokens'], enable_dropout)
    return self.logits(batch, phi, enable_dropout)


def fold(x: jax.Array) -> jax.Array:
  """`[episodes, queries, length]` to `[episodes * queries, length]`."""
  return x.reshape(-1, x.shape[-1])
