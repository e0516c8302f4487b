"""The configuration of a GGUF file, as Hugging Face's `config.json` has it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypertuning.conversion import llama, t5
from hypertuning.conversion.fields import Fields
from hypertuning.errors import UserError
from hypertuning.networks.rotary import Rotary, RotaryScaling

# Beginnings of the names of the fields that are read.
KEYS = ('general.architecture', 'split.', 'llama.', 't5.', 'tokenizer.ggml.')
_ROPE = 'rope_freqs.weight'
# Arrays that become a part of the configuration.
READ = (_ROPE,)
# The stretching of Llama 3.1 to 3.3, apart from its factor.
_LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
_LLAMA3_LENGTH = 8192


def config(
  values: Mapping[str, Any], tensors: Mapping[str, Any], place: str
) -> Fields:
  """The configuration of a model.

  Args:
    values: fields of the file.
    tensors: arrays of the file, as the library `gguf` gives them.
    place: path of the file.

  Raises:
    UserError: the file holds another architecture, is one part of several, or
      lacks a field.
  """
  own = Fields(values, place)
  if own.get('split.count', 1) != 1:
    raise UserError(
      f'{place}: is one of {own.get("split.count")} parts; join them with '
      'llama-gguf-split --merge.'
    )
  makers = {'llama': _llama, 't5': _t5}
  architecture = own.get('general.architecture')
  if architecture not in makers:
    raise own.refuse(
      'general.architecture',
      f'this architecture is not read, {", ".join(makers)} are',
    )
  if 'token_embd.weight' not in tensors:
    raise UserError(f'{place}: has no array token_embd.weight.')
  made = makers[architecture](own, tensors)
  table = tensors['token_embd.weight']
  made['vocab_size'] = int(table.shape[-1])
  made['tie_word_embeddings'] = 'output.weight' not in tensors
  made['torch_dtype'] = 'float32'
  for name, key in (
    ('bos_token_id', 'tokenizer.ggml.bos_token_id'),
    ('eos_token_id', 'tokenizer.ggml.eos_token_id'),
  ):
    if own.get(key) is not None:
      made[name] = own.get(key)
  return Fields(made, place)


def depths(fields: Fields) -> list[int]:
  """Numbers of layers of a model's stacks."""
  names = ('num_hidden_layers', 'num_layers', 'num_decoder_layers')
  return [fields.get(name) for name in names if fields.get(name)]


def paired_heads(name: str, fields: Fields) -> int | None:
  """The number of heads of an array whose rows stand in pairs, else None.

  Files for llama.cpp have the two rows that a Llama turns together next to one
  another.

  Args:
    name: Hugging Face's name of the array.
    fields: see `config`.
  """
  if name.endswith('self_attn.q_proj.weight'):
    return fields.count('num_attention_heads')
  if name.endswith('self_attn.k_proj.weight'):
    return fields.count('num_key_value_heads')
  return None


def _llama(own: Fields, tensors: Mapping[str, Any]) -> dict[str, Any]:
  own.expect('llama.rope.scaling.type', 'none', 'none')
  own.expect('llama.expert_count', 0, 0)
  heads = own.count('llama.attention.head_count')
  width = own.count('llama.embedding_length')
  head_dim = own.count('llama.rope.dimension_count', width // heads)
  own.expect('llama.attention.key_length', head_dim, head_dim)
  theta = _shortest(own.number('llama.rope.freq_base', 10_000.0))
  made = {
    'architectures': [llama.ARCHITECTURE],
    'model_type': 'llama',
    'hidden_act': 'silu',
    'hidden_size': width,
    'intermediate_size': own.count('llama.feed_forward_length'),
    'num_hidden_layers': own.count('llama.block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': own.count('llama.attention.head_count_kv', heads),
    'head_dim': head_dim,
    'max_position_embeddings': own.count('llama.context_length'),
    'rms_norm_eps': _shortest(
      own.number('llama.attention.layer_norm_rms_epsilon')
    ),
    'rope_theta': theta,
  }
  if _ROPE in tensors:
    divisors = np.asarray(tensors[_ROPE].data, np.float64)
    made['rope_scaling'] = _stretching(divisors, theta, own.place)
  return made


def _stretching(
  divisors: np.ndarray, theta: float, place: str
) -> dict[str, Any]:
  """The fields of a stretching of positions that a file has as a table.

  Args:
    divisors: division of each frequency, float `[head_dim / 2]`.
    theta: base of the wave lengths.
    place: path of the file.

  Raises:
    UserError: the table is not that of Llama 3.1 to 3.3.
  """
  factor = float(divisors.max())
  plain = Rotary(theta).frequencies(2 * divisors.size)
  if factor > 1:
    scaling = RotaryScaling(factor, **_LLAMA3, original_length=_LLAMA3_LENGTH)
    stretched = Rotary(theta, scaling).frequencies(2 * divisors.size)
    if np.allclose(plain / stretched, divisors, rtol=1e-4):
      return {
        'rope_type': 'llama3',
        'factor': factor,
        **_LLAMA3,
        'original_max_position_embeddings': _LLAMA3_LENGTH,
      }
  raise UserError(
    f"{place}: {_ROPE} is not Llama 3.1's stretching of positions, and no "
    'other one is read.'
  )


def _t5(own: Fields, tensors: Mapping[str, Any]) -> dict[str, Any]:
  layers = own.count('t5.block_count')
  is_gated = any('.ffn_gate.' in name for name in tensors)
  return {
    'architectures': [t5.ARCHITECTURE],
    'model_type': 't5',
    'd_model': own.count('t5.embedding_length'),
    'd_kv': own.count('t5.attention.key_length'),
    'd_ff': own.count('t5.feed_forward_length'),
    'num_layers': layers,
    'num_decoder_layers': own.count('t5.decoder_block_count', layers),
    'num_heads': own.count('t5.attention.head_count'),
    'relative_attention_num_buckets': own.count(
      't5.attention.relative_buckets_count'
    ),
    # llama.cpp knows no other distance.
    'relative_attention_max_distance': 128,
    'layer_norm_epsilon': _shortest(
      own.number('t5.attention.layer_norm_epsilon')
    ),
    'feed_forward_proj': 'gated-gelu' if is_gated else 'relu',
    'is_encoder_decoder': True,
    'pad_token_id': 0,
    'decoder_start_token_id': own.get('t5.decoder_start_token_id', 0),
  }


def _shortest(value: float) -> float:
  """A float32 with the fewest digits that tell it apart, such as 1e-05."""
  return float(str(np.float32(value)))
