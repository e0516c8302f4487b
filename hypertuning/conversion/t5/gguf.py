"""The fields of a GGUF file of a T5, as Hugging Face's `config.json`."""

from collections.abc import Mapping
from typing import Any

from hypertuning.conversion.family import Gguf
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.t5.config import MODEL_TYPES


def _fields(own: Fields, tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of a `config.json`, see `Gguf`."""
  layers = own.count('t5.block_count')
  is_gated = any('.ffn_gate.' in name for name in tensors)
  return {
    'model_type': MODEL_TYPES[0],
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
    'layer_norm_epsilon': own.float32('t5.attention.layer_norm_epsilon'),
    'feed_forward_proj': 'gated-gelu' if is_gated else 'relu',
    'is_encoder_decoder': True,
    'pad_token_id': 0,
    'decoder_start_token_id': own.get('t5.decoder_start_token_id', 0),
  }


GGUF = Gguf('t5', _fields)
