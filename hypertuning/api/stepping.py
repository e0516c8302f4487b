"""Greedy decoding one token at a time, so that a caller sees each of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hypertuning import trees
from hypertuning.adapters import Adapters
from hypertuning.engine.partitioning import Partitioner
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, Any]


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
    self._next = partitioner.compile(self._read_ids, donate_argnums=3)

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
