"""Hugging Face's configuration of a T5, as ours."""

from typing import Any

from hypertuning.conversion.fields import Fields
from hypertuning.errors import UserError
from hypertuning.networks.t5_config import T5Config
from hypertuning.padding import PAD_ID

MODEL_TYPES = ('t5', 'mt5')
_ACTIVATIONS, _FEED_FORWARD = ('gelu', 'linear'), 'gated-gelu'
_EPSILON = 1e-6


def config(fields: Fields) -> T5Config:
  """Our configuration of a model.

  Args:
    fields: fields of the model's `config.json`.

  Raises:
    UserError: a field is missing, wrong, or asks for what our network lacks.
  """
  is_mt5 = fields.get('model_type') == 'mt5'
  feed_forward = _FEED_FORWARD if is_mt5 else 'relu'
  fields.expect('feed_forward_proj', _FEED_FORWARD, feed_forward)
  fields.expect('layer_norm_epsilon', _EPSILON, _EPSILON)
  layers = fields.count('num_layers')
  # transformers 5 writes that all heads are tied, and the scale by itself.
  is_tied = bool(fields.get('tie_word_embeddings', not is_mt5))
  return T5Config(
    vocab_size=fields.count('vocab_size'),
    emb_dim=fields.count('d_model'),
    num_heads=fields.count('num_heads'),
    num_encoder_layers=layers,
    num_decoder_layers=fields.count('num_decoder_layers', layers),
    head_dim=fields.count('d_kv'),
    mlp_dim=fields.count('d_ff'),
    logits_via_embedding=bool(fields.get('scale_decoder_outputs', is_tied)),
    relpos_num_buckets=fields.count('relative_attention_num_buckets', 32),
    relpos_max_distance=fields.count('relative_attention_max_distance', 128),
  )


def fields(config: T5Config) -> dict[str, Any]:
  """The inverse of `config`: fields of a `config.json`.

  Args:
    config: our configuration of a model. How it computes, such as its dtype,
      is in no field.

  Raises:
    UserError: the feed-forward blocks are not those of T5 1.1.
  """
  if tuple(config.mlp_activations) != _ACTIVATIONS:
    raise UserError(
      f't5.T5Config.mlp_activations = {tuple(config.mlp_activations)}: '
      f'only {_ACTIVATIONS} can leave for transformers.'
    )
  return {
    'model_type': MODEL_TYPES[0],
    'is_encoder_decoder': True,
    'decoder_start_token_id': PAD_ID,
    'feed_forward_proj': _FEED_FORWARD,
    'layer_norm_epsilon': _EPSILON,
    'dropout_rate': config.dropout_rate,
    'vocab_size': config.vocab_size,
    'd_model': config.emb_dim,
    'num_heads': config.num_heads,
    'num_layers': config.num_encoder_layers,
    'num_decoder_layers': config.num_decoder_layers,
    'd_kv': config.head_dim,
    'd_ff': config.mlp_dim,
    'tie_word_embeddings': config.logits_via_embedding,
    'relative_attention_num_buckets': config.relpos_num_buckets,
    'relative_attention_max_distance': config.relpos_max_distance,
  }
