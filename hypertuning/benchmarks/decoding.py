"""Measures greedy decoding of ours and of transformers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning.benchmarks import peers, rounds
from hypertuning.engine.partitioning import one_device
from hypertuning.models import HyperTuningModel
from hypertuning.planning import flops

OURS, PEER = 'hypertuning', 'transformers'
_FIRST_ID = 2  # behind padding and what ends a text
_SEED = 0


def measure(
  model: HyperTuningModel, shape: tuple[int, int], length: int, count: int
) -> dict[str, Any]:
  """Measures hypertuning and transformers in turn.

  Args:
    model: a model whose downstream network transformers has too.
    shape: numbers `(rows, tokens)` of the inputs, none of them padding.
    length: number of tokens that are decoded per row.
    count: number of measured calls of each; one more call of each comes first,
      which compiles and is not measured.

  Returns:
    `rows`: one row per way, ours first, with `way`, `seconds` and their spread,
    and `ratio` (the seconds of the way by ours); `flops` of the matmuls in a
    call of hypertuning; and `length`.
  """
  config = model.module.downstream.config
  rng = np.random.default_rng(_SEED)
  inputs = rng.integers(_FIRST_ID, config.vocab_size, shape).astype(np.int32)

  def make_peer() -> Callable[[], None]:
    from hypertuning.benchmarks import torch_peers  # PyTorch may be missing

    generate = torch_peers.decoder(config, inputs, length)
    generate()
    return generate

  ways = {OURS: _ours(model, inputs, length)}
  ways[OURS]()
  peer = peers.attempt(PEER, make_peer)
  if peer is not None:
    ways[PEER] = peer
  rows: list[dict[str, Any]] = [
    {'way': name, **rounds.spread(seconds)}
    for name, seconds in rounds.in_turn(ways, count).items()
  ]
  for row in rows:
    row['ratio'] = row['seconds'] / rows[0]['seconds']
  return {
    'rows': rows,
    'flops': decode_flops(model, shape, length),
    'length': length,
  }


def decode_flops(
  model: HyperTuningModel, shape: tuple[int, ...], length: int
) -> int:
  """FLOPs of the matmuls in decoding: of reading the inputs and of all steps.

  The trace of a loop does not show how often it runs. Therefore the FLOPs of
  one step are counted, and multiplied by the number of steps.

  Args:
    model: a model whose downstream network decodes.
    shape: shape `(rows, tokens)` of the inputs.
    length: number of tokens that are decoded per row.
  """
  (start, *start_arguments), (step, *step_arguments) = parts(
    model, shape, length
  )
  first = flops.matmul_flops(jax.make_jaxpr(start)(*start_arguments))
  each = flops.matmul_flops(jax.make_jaxpr(step)(*step_arguments))
  return first + length * each


def parts(
  model: HyperTuningModel, shape: tuple[int, ...], length: int
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
  """Reading the inputs, and one step, each with its abstract arguments.

  Args:
    model: a model whose downstream network decodes.
    shape: shape `(rows, tokens)` of the inputs.
    length: number of tokens that are decoded per row.
  """
  network = model.module.downstream
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  variables = jax.eval_shape(
    lambda: network.init(
      jax.random.key(0), jnp.ones((1, 1), int), jnp.ones((1, 1), int)
    )
  )

  def start(variables: Any, tokens: Any) -> Any:
    return network.apply(variables, tokens, None, length, method='start')

  def step(variables: Any, ids: Any, memory: Any) -> Any:
    return network.apply(variables, ids, memory, method='step')

  memory = jax.eval_shape(start, variables, tokens)
  ids = jax.ShapeDtypeStruct(shape[:1], jnp.int32)
  return (start, variables, tokens), (step, variables, ids, memory)


def _ours(
  model: HyperTuningModel, inputs: np.ndarray, length: int
) -> Callable[[], Any]:
  """Decoding by hypertuning with random weights, as a function to measure."""
  batch = {
    'input_tokens': jnp.asarray(inputs)[:, None],
    'target_tokens': jnp.zeros((len(inputs), 1, length), jnp.int32),
  }
  network = model.module.downstream

  def initial() -> Any:
    tokens = jnp.ones((1, 1), jnp.int32)
    drawn = network.init(jax.random.key(_SEED), tokens, tokens)['params']
    # In the dtype that they are computed in, as the peer's.
    return jax.tree.map(lambda x: x.astype(network.config.dtype), drawn)

  params = jax.jit(initial)()
  partitioner = one_device()
  decode = partitioner.compile(
    lambda params: model.predict_batch(
      {'downstream': params}, batch, adapters=None
    ),
    decodes=True,
  )
  return lambda: jax.block_until_ready(decode(params))
