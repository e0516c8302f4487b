"""Greedy decoding one token at a time, so that a caller sees each of them."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning import trees
from hypertuning.adapters import Adapters
from hypertuning.engine.partitioning import Partitioner
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Progress:
  """An answer after some of its tokens.

  Attributes:
    text: the answer so far.
    read: number of tokens that the network read before it.
    written: number of tokens of the answer so far, with that of its end.
    is_done: whether the answer is complete.
  """

  text: str
  read: int
  written: int
  is_done: bool


@dataclasses.dataclass
class Row:
  """Ids of one answer so far, and whether the last of them ends it."""

  ids: list[int] = dataclasses.field(default_factory=list)
  is_done: bool = False


class Stepper:
  """Decodes a batch step by step; `decoding.greedy` does so in one program."""

  def __init__(
    self, network: HyperTuningModel, partitioner: Partitioner
  ) -> None:
    """Compiles nothing before the first call.

    Args:
      network: the model that decodes.
      partitioner: the device.
    """
    self._module = network.module
    self._start = partitioner.compile(self._read_inputs)
    # A memory is not read twice: the new one takes its place.
    self._next = partitioner.compile(
      self._read_ids, decodes=True, donate_argnums=3
    )

  def start(
    self, params: Any, frozen: Any, batch: Batch, adapters: Adapters | None
  ) -> tuple[jax.Array, Any]:
    """Reads the inputs of a batch with one query per row.

    Args:
      params: trainable variables.
      frozen: frozen variables.
      batch: model features; targets give the most tokens.
      adapters: phi `[rows, ...]` or `[1, ...]`; None for none.

    Returns:
      The first id of every answer, int32 `[rows]`, and the memory.
    """
    outputs: tuple[jax.Array, Any] = self._start(
      params, frozen, batch, adapters
    )
    return outputs

  def next(
    self, params: Any, frozen: Any, ids: jax.Array, memory: Any
  ) -> tuple[jax.Array, Any]:
    """Reads one id per row.

    Args:
      params: trainable variables.
      frozen: frozen variables.
      ids: the last ids, int32 `[rows]`.
      memory: the memory, which cannot be used again.

    Returns:
      The next id of every answer, and the new memory.
    """
    outputs: tuple[jax.Array, Any] = self._next(params, frozen, ids, memory)
    return outputs

  def decode(
    self,
    params: Any,
    frozen: Any,
    batch: Batch,
    adapters: Adapters | None,
    ends: Collection[int],
    count: int,
    max_tokens: int,
  ) -> Iterator[list[Row]]:
    """Decodes until all answers are complete.

    Args:
      params: trainable variables.
      frozen: frozen variables.
      batch: see `start`.
      adapters: see `start`.
      ends: ids that end an answer.
      count: number of rows of the batch that are questions; the others fill it.
      max_tokens: number of tokens of an answer.

    Yields:
      The first `count` rows, which grow, after each token.
    """
    ids, memory = self.start(params, frozen, batch, adapters)
    rows = [Row() for _ in range(count)]
    for _ in range(max_tokens):
      for row, token in zip(rows, np.asarray(ids).tolist(), strict=False):
        if not row.is_done:
          row.ids.append(token)
          row.is_done = token in ends
      yield rows
      if all(row.is_done for row in rows):
        return
      ids, memory = self.next(params, frozen, ids, memory)

  def _read_inputs(
    self, params: Any, frozen: Any, batch: Batch, adapters: Adapters | None
  ) -> tuple[jax.Array, Any]:
    memory: Any = self._module.apply(
      {'params': trees.join(params, frozen)},
      batch['input_tokens'],
      adapters,
      batch['target_tokens'].shape[-1],
      method='start',
    )
    return self._read_ids(params, frozen, memory.first, memory)

  def _read_ids(
    self, params: Any, frozen: Any, ids: jax.Array, memory: Any
  ) -> tuple[jax.Array, Any]:
    outputs: Any = self._module.apply(
      {'params': trees.join(params, frozen)}, ids, memory, method='step'
    )
    logits, memory = outputs
    return jnp.argmax(logits, axis=-1).astype(jnp.int32), memory
