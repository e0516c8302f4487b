"""The fields of a GGUF file of a Llama, as Hugging Face's `config.json`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypertuning.conversion.family import Gguf
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.llama.config import MODEL_TYPES
from hypertuning.errors import UserError
from hypertuning.networks.rotary import Rotary, RotaryScaling

_ROPE = 'rope_freqs.weight'
# The stretching of Llama 3.1 to 3.3, apart from its factor.
_LLAMA3 = {'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
_LLAMA3_LENGTH = 8192


def _fields(own: Fields, tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a `config.json`, see `Gguf`."""
  own.expect('llama.rope.scaling.type', 'none', 'none')
  own.expect('llama.expert_count', 0, 0)
  heads = own.count('llama.attention.head_count')
  width = own.count('llama.embedding_length')
  head_dim = own.count('llama.rope.dimension_count', width // heads)
  own.expect('llama.attention.key_length', head_dim, head_dim)
  theta = own.float32('llama.rope.freq_base', 10_000.0)
  made = {
    'model_type': MODEL_TYPES[0],
    'hidden_act': 'silu',
    'hidden_size': width,
    'intermediate_size': own.count('llama.feed_forward_length'),
    'num_hidden_layers': own.count('llama.block_count'),
    'num_attention_heads': heads,
    'num_key_value_heads': own.count('llama.attention.head_count_kv', heads),
    'head_dim': head_dim,
    'max_position_embeddings': own.count('llama.context_length'),
    'rms_norm_eps': own.float32('llama.attention.layer_norm_rms_epsilon'),
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


def _paired_heads(name: str, fields: Fields) -> int | None:
  """The number of heads of an array whose rows stand in pairs, see `Gguf`.

  Files for llama.cpp have the two rows that a Llama turns together next to one
  another.
  """
  if name.endswith('self_attn.q_proj.weight'):
    return fields.count('num_attention_heads')
  if name.endswith('self_attn.k_proj.weight'):
    return fields.count('num_key_value_heads')
  return None


GGUF = Gguf('llama', _fields, (_ROPE,), _paired_heads)
