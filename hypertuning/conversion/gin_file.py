"""Writes the gin file of a converted model: its size and its vocabulary."""

import pathlib
from collections.abc import Sequence
from typing import Any

from hypertuning.conversion.vocabulary import Vocabulary
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.rotary import RotaryScaling
from hypertuning.networks.t5_config import T5Config

NAME = 'model.gin'
_Bindings = list[tuple[str, str]]


def text(config: Any, vocabulary: Vocabulary, folder: pathlib.Path) -> str:
  """The text of a gin file that comes after that of the model's network.

  Args:
    config: our config of the model.
    vocabulary: the model's vocabulary.
    folder: folder that the vocabulary's file will stand in.
  """
  if isinstance(config, LlamaConfig):
    size, bindings, imports = _llama(config)
    models = 'gin/models/llama.gin or hyper_llama.gin'
    include = ['gin/architectures/llama_full_size.gin']
  else:
    size, bindings, imports = _t5(config)
    models = 'gin/models/t5.gin or hyper_t5_*.gin'
    include = ['gin/architectures/full_size.gin']
  if vocabulary.file:
    path = str(folder / vocabulary.file)
    bindings = [('VOCABULARY_FILE', repr(path)), *bindings]
  lines = [
    f'# The model in this folder. After {models}.',
    *(f'include {path!r}' for path in (*include, *vocabulary.include)),
    '',
    'from __gin__ import dynamic_registration',
    '',
    *sorted({*imports, *vocabulary.imports}),
    '',
    *(f'{name} = {value}' for name, value in size),
    '',
    *(f'{name} = {value}' for name, value in (*bindings, *vocabulary.bindings)),
  ]
  return '\n'.join(lines) + '\n'


def _llama(config: LlamaConfig) -> tuple[_Bindings, _Bindings, Sequence[str]]:
  """Macros of the size, further bindings, and the imports of these."""
  scaling = config.rotary.scaling
  size = [
    ('VOCAB_SIZE', str(config.vocab_size)),
    ('EMB_DIM', str(config.emb_dim)),
    ('NUM_LAYERS', str(config.num_layers)),
    ('NUM_HEADS', str(config.num_heads)),
    ('NUM_KV_HEADS', str(config.num_kv_heads)),
    ('HEAD_DIM', str(config.head_dim)),
    ('MLP_DIM', str(config.mlp_dim)),
    ('MAX_LENGTH', str(config.max_length)),
    ('NORM_EPSILON', repr(config.norm_epsilon)),
    ('TIED_EMBEDDING', str(config.tied_embedding)),
    ('ROPE_THETA', repr(config.rotary.theta)),
    ('ROPE_SCALING', '@rotary.RotaryScaling()' if scaling else 'None'),
  ]
  if scaling is None:
    return size, [], []
  return (
    size,
    _scaling(scaling),
    ['from hypertuning.networks import rotary'],
  )


def _scaling(scaling: RotaryScaling) -> _Bindings:
  values = {
    'factor': scaling.factor,
    'low_freq_factor': scaling.low_freq_factor,
    'high_freq_factor': scaling.high_freq_factor,
    'original_length': scaling.original_length,
  }
  return [(f'rotary.RotaryScaling.{k}', repr(v)) for k, v in values.items()]


def _t5(config: T5Config) -> tuple[_Bindings, _Bindings, Sequence[str]]:
  """Macros of the size, further bindings, and the imports of these."""
  size = [
    ('VOCAB_SIZE', str(config.vocab_size)),
    ('EMB_DIM', str(config.emb_dim)),
    ('NUM_LAYERS', str(config.num_encoder_layers)),
    ('NUM_HEADS', str(config.num_heads)),
    ('HEAD_DIM', str(config.head_dim)),
    ('MLP_DIM', str(config.mlp_dim)),
  ]
  more = {
    'num_decoder_layers': config.num_decoder_layers,
    'logits_via_embedding': config.logits_via_embedding,
    'relpos_num_buckets': config.relpos_num_buckets,
    'relpos_max_distance': config.relpos_max_distance,
  }
  return (
    size,
    [(f't5.T5Config.{k}', repr(v)) for k, v in more.items()],
    ['from hypertuning.networks import t5'],
  )
