"""The network of every model: a downstream network, adapted by a source's phi.

A source is a hypermodel, which generates phi, or learned adapters.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.linen as nn
import jax

from hypertuning.adapters import Adapters
from hypertuning.networks.memory import Memory

Batch = Mapping[str, jax.Array]
_Method = TypeVar('_Method', bound=Callable[..., Any])


def _precise(method: _Method) -> _Method:
  """A method whose matmuls have the module's `matmul_precision`.

  Their gradients have it too: a matmul of a trace keeps it.
  """

  @functools.wraps(method)
  def call(self: Any, *args: Any, **kwargs: Any) -> Any:
    with jax.default_matmul_precision(self.matmul_precision):
      return method(self, *args, **kwargs)

  return call  # type: ignore[return-value]


class AdaptedModel(nn.Module):
  """A downstream network and, if there is one, the source of its phi.

  Attributes:
    downstream: downstream network, a `networks.Network`.
    hypermodel: source of phi; None for no phi. The call
      `source(hyper_tokens, downstream, enable_dropout)` returns adapters, and
      may run the downstream network to make them. A source with
      `in_one_sequence` also has a method `predict`, see `gist.Gist`, which
      trains it.
    teacher: network like `downstream` that is distilled; None for no network of
      its own.
    matmul_precision: precision in which float32 is multiplied, a value of
      `jax.default_matmul_precision`.
  """

  downstream: nn.Module
  hypermodel: nn.Module | None = None
  teacher: nn.Module | None = None
  matmul_precision: str = 'float32'

  @_precise
  def generate(
    self, hyper_tokens: jax.Array, enable_dropout: bool = False
  ) -> Adapters | None:
    """Generates phi of every episode; None if there is no hypermodel.

    Args:
      hyper_tokens: token ids of the examples, int32 `[episodes, length]`, 0 on
        padding; or, in chunks of whole examples, `[episodes, chunks, length]`.
      enable_dropout: whether dropout is on.
    """
    if self.hypermodel is None:
      return None
    return self.hypermodel(
      hyper_tokens, self.downstream, enable_dropout=enable_dropout
    )

  @_precise
  def hidden(
    self, batch: Batch, adapters: Adapters | None, enable_dropout: bool = False
  ) -> jax.Array:
    """Hidden states that predict the targets with these adapters.

    Args:
      batch: model features, of which `input_tokens` and `target_tokens`, int32
        `[episodes, queries, length]`, are read.
      adapters: phi of the episodes; None for no phi.
      enable_dropout: whether dropout is on.

    Returns:
      `[episodes, queries, length, embed]`, in the dtype of the network.
    """
    return _hidden(
      self.downstream,
      batch['input_tokens'],
      batch['target_tokens'],
      adapters,
      enable_dropout,
    )

  @_precise
  def logits(self, hidden: jax.Array) -> jax.Array:
    """Logits, float32 `[..., vocab]`, of hidden states `[..., embed]`."""
    return self.downstream.logits(hidden)

  @_precise
  def teacher_hidden(self, batch: Batch) -> jax.Array:
    """Hidden states of the teacher, which reads the examples in its own input.

    If there is no network `teacher`, the downstream network without phi is the
    teacher.

    Args:
      batch: model features, of which `teacher_tokens` and `target_tokens`,
        int32 `[episodes, queries, length]`, are read.

    Returns:
      `[episodes, queries, length, embed]`, in the dtype of the network.
    """
    return _hidden(
      self._teacher, batch['teacher_tokens'], batch['target_tokens']
    )

  @_precise
  def teacher_logits(self, hidden: jax.Array) -> jax.Array:
    """Logits of the teacher's hidden states, see `logits`."""
    return self._teacher.logits(hidden)

  @property
  def _teacher(self) -> Any:
    return self.downstream if self.teacher is None else self.teacher

  @_precise
  def cache(self, tokens: jax.Array) -> Adapters:
    """Texts as a prefix of the downstream network, see `networks.Cacher`."""
    return self.downstream.cache(tokens)

  @_precise
  def start(
    self, input_tokens: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """Reads the inputs of all queries; the memory has one row per query.

    Args:
      input_tokens: token ids, int32 `[episodes, queries, length]`.
      adapters: phi of the episodes; None for no phi.
      length: number of tokens that the memory must have room for.
    """
    return self.downstream.start(fold(input_tokens), adapters, length)

  @_precise
  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """Reads one token per row, see `networks.Network.step`."""
    return self.downstream.step(ids, memory)

  @_precise
  def __call__(self, batch: Batch, enable_dropout: bool = False) -> jax.Array:
    """Computes the hidden states that predict the targets, for training.

    They are those that `hidden` gives with the phi that `generate` gives, to
    rounding, but a source may compute them in another way.

    Args:
      batch: model features of episodes.
      enable_dropout: whether dropout is on.

    Returns:
      `[episodes, queries, length, embed]`, in the dtype of the network.
    """
    if self.teacher is not None and self.is_initializing():
      self.teacher_hidden(batch)  # makes the teacher's parameters
    if not getattr(self.hypermodel, 'in_one_sequence', False):
      phi = self.generate(batch['hyper_tokens'], enable_dropout)
      return self.hidden(batch, phi, enable_dropout)
    source: Any = self.hypermodel
    targets = batch['target_tokens']
    hidden = source.predict(
      batch['hyper_tokens'],
      self.downstream,
      fold(batch['input_tokens']),
      fold(targets),
      enable_dropout,
    )
    if self.is_initializing():
      self.downstream.logits(hidden)  # makes the parameters of the output head
    return hidden.reshape(*targets.shape, -1)


def _hidden(
  network: Any,
  inputs: jax.Array,
  targets: jax.Array,
  adapters: Adapters | None = None,
  enable_dropout: bool = False,
) -> jax.Array:
  hidden = network(fold(inputs), fold(targets), adapters, enable_dropout)
  return hidden.reshape(*targets.shape, -1)


def fold(x: jax.Array) -> jax.Array:
  """Joins two axes: `[episodes, queries, length]` to `[rows, length]`."""
  return x.reshape(-1, x.shape[-1])
