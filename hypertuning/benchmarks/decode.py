"""How long does greedy decoding take, compared with transformers in PyTorch?

    python -m hypertuning.benchmarks.decode --gin_file=gin/models/t5.gin \\
      --gin_file=gin/models/sizes/small.gin --gin_file=gin/benchmarks/decode.gin

Both decode the same random inputs in float32, with random weights of the same
sizes, and no text ends early. They take turns, so that a drift in the machine's
speed affects both. Prints the seconds per call, their ratio, and the FLOPs of a
call of hypertuning: those of reading the inputs, plus those of one step times
the number of tokens.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.benchmarks.decode', 'measure')

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.networks import t5
from hypertuning.planning import flops
from hypertuning.ranges import Count

HEADER = '| | seconds | fastest to slowest round |\n| --- | --- | --- |'
_SEED = 0


def measure(
  *,
  model: HyperTuningModel,
  batch_size: Count = 8,
  input_length: Count = 384,
  target_length: Count = 64,
  rounds: Count = 5,
) -> dict[str, Any]:
  """Measures hypertuning and transformers in turn, and prints the results.

  Args:
    model: a model whose downstream network is a T5, which transformers has too.
    batch_size: number of inputs that are decoded at once.
    input_length: number of tokens per input, none of them padding.
    target_length: number of tokens that are decoded per input.
    rounds: number of measured calls of each; one more call of each comes first,
      which compiles and is not measured.

  Returns:
    `ours` and `peer`: the seconds of each call of hypertuning and transformers;
    `ratio`: the ratio of their medians; `flops`: the FLOPs of the matmuls in a
    call of hypertuning.

  Raises:
    UserError: the network is no T5, or transformers is not installed or ends a
      text early.
  """
  config = model.module.downstream.config
  rng = np.random.default_rng(_SEED)
  inputs = rng.integers(2, config.vocab_size, (batch_size, input_length))
  inputs = inputs.astype(np.int32)
  if type(config) not in _PEERS:
    raise UserError(
      f'DOWNSTREAM: there is no peer for a {type(config).__name__}; take a T5, '
      'such as gin/models/t5.gin.'
    )
  peer = _PEERS[type(config)](config, inputs, target_length)
  ours = _ours(model, inputs, target_length)
  times: dict[str, list[float]] = {'ours': [], 'peer': []}
  for function in (ours, peer):
    function()
  for _ in range(rounds):
    for name, function in (('ours', ours), ('peer', peer)):
      start = time.perf_counter()
      function()
      times[name].append(time.perf_counter() - start)
  ratio = statistics.median(times['ours']) / statistics.median(times['peer'])
  work = decode_flops(model, inputs.shape, target_length)
  print(HEADER)
  for name, seconds in (
    ('hypertuning', times['ours']),
    ('transformers', times['peer']),
  ):
    middle, low, high = statistics.median(seconds), min(seconds), max(seconds)
    print(f'| {name} | {middle:.3f} | {low:.3f} to {high:.3f} |')
  print(f'\nhypertuning / transformers: {ratio:.2f}; {work / 1e9:,.1f} GFLOPs.')
  return {**times, 'ratio': ratio, 'flops': work}


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
  first = flops.matmul_flops(jax.make_jaxpr(start)(variables, tokens))
  each = flops.matmul_flops(jax.make_jaxpr(step)(variables, ids, memory))
  return first + length * each


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
    return network.init(jax.random.key(_SEED), tokens, tokens)['params']

  params = jax.jit(initial)()
  decode = jax.jit(
    lambda params: model.predict_batch(
      {'downstream': params}, batch, adapters=None
    )
  )
  return lambda: jax.block_until_ready(decode(params))


def _t5_peer(
  config: t5.T5Config, inputs: np.ndarray, length: int
) -> Callable[[], Any]:
  """transformers' `generate` with random weights of the same sizes."""
  try:
    import torch
    import transformers
  except ImportError as error:
    raise UserError(
      f"{error}: the peer is transformers; pip install '.[hf]'."
    ) from error
  sizes: dict[str, Any] = {
    'vocab_size': config.vocab_size,
    'd_model': config.emb_dim,
    'd_kv': config.head_dim,
    'd_ff': config.mlp_dim,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'num_heads': config.num_heads,
    'feed_forward_proj': 'gated-gelu',
    'tie_word_embeddings': False,
    'dropout_rate': 0.0,
    'decoder_start_token_id': 0,
    'eos_token_id': None,  # no text ends early
  }
  peer = transformers.T5ForConditionalGeneration(
    transformers.T5Config(**sizes)
  ).eval()
  tokens = torch.tensor(inputs, dtype=torch.long)

  def generate() -> Any:
    with torch.inference_mode():
      return peer.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        num_beams=1,
        do_sample=False,
        max_new_tokens=length,
      )

  generated = generate()
  if generated.shape[1] != length + 1:  # one more for the start token
    raise UserError('transformers ended a text early; compare another version.')
  return generate


# What a network is measured beside, by the type of its configuration.
_PEERS = {t5.T5Config: _t5_peer}
