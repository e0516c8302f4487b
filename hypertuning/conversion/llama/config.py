"""Hugging Face's configuration of a Llama, as ours."""

from typing import Any

from hypertuning.conversion.fields import Fields
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.rotary import Rotary, RotaryScaling

MODEL_TYPES = ('llama',)


def config(fields: Fields) -> LlamaConfig:
  """Our configuration of a model.

  Args:
    fields: fields of the model's `config.json`, as transformers 4 or 5 writes
      them.

  Raises:
    UserError: a field is missing, wrong, or asks for what our network lacks.
  """
  fields.expect('hidden_act', 'silu', 'silu')
  fields.expect('attention_bias', False, False)
  fields.expect('mlp_bias', False, False)
  heads = fields.count('num_attention_heads')
  width = fields.count('hidden_size')
  return LlamaConfig(
    vocab_size=fields.count('vocab_size'),
    emb_dim=width,
    num_layers=fields.count('num_hidden_layers'),
    num_heads=heads,
    num_kv_heads=fields.count('num_key_value_heads', heads),
    head_dim=fields.count('head_dim', width // heads),
    mlp_dim=fields.count('intermediate_size'),
    max_length=fields.count('max_position_embeddings'),
    rotary=_rotary(fields),
    norm_epsilon=fields.number('rms_norm_eps', 1e-6),
    tied_embedding=bool(fields.get('tie_word_embeddings', False)),
  )


def fields(config: LlamaConfig) -> dict[str, Any]:
  """The inverse of `config`: fields of a `config.json`.

  Args:
    config: our configuration of a model. How it computes, such as its dtype,
      is in no field.
  """
  scaling = config.rotary.scaling
  rope: dict[str, Any] = {
    'rope_type': 'llama3' if scaling else 'default',
    'rope_theta': config.rotary.theta,
  }
  if scaling:
    rope |= {
      'factor': scaling.factor,
      'low_freq_factor': scaling.low_freq_factor,
      'high_freq_factor': scaling.high_freq_factor,
      'original_max_position_embeddings': scaling.original_length,
    }
  return {
    'model_type': MODEL_TYPES[0],
    'hidden_act': 'silu',
    'attention_bias': False,
    'mlp_bias': False,
    'vocab_size': config.vocab_size,
    'hidden_size': config.emb_dim,
    'num_hidden_layers': config.num_layers,
    'num_attention_heads': config.num_heads,
    'num_key_value_heads': config.num_kv_heads,
    'head_dim': config.head_dim,
    'intermediate_size': config.mlp_dim,
    'max_position_embeddings': config.max_length,
    'rope_parameters': rope,
    # transformers 4 reads the base of the rotation here.
    'rope_theta': config.rotary.theta,
    'rms_norm_eps': config.norm_epsilon,
    'tie_word_embeddings': config.tied_embedding,
  }


def _rotary(fields: Fields) -> Rotary:
  """The rotation, as transformers 4 writes it (two fields) or 5 (one)."""
  old_name, new_name = 'rope_scaling', 'rope_parameters'
  rope = fields.part(new_name if fields.get(new_name) else old_name)
  theta = rope.number('rope_theta', fields.number('rope_theta', 10_000.0))
  rope.expect('partial_rotary_factor', 1, 1)
  kind_name = 'rope_type' if rope.get('rope_type') else 'type'
  kind = rope.get(kind_name, 'default')
  if kind == 'default':
    return Rotary(theta)
  if kind != 'llama3':
    raise rope.refuse(kind_name, "only 'default' and 'llama3' are read")
  scaling = RotaryScaling(
    factor=rope.number('factor'),
    low_freq_factor=rope.number('low_freq_factor'),
    high_freq_factor=rope.number('high_freq_factor'),
    original_length=rope.count('original_max_position_embeddings'),
  )
  return Rotary(theta, scaling)
