"""The gin files of a Llama, and its size as one binds it."""

from hypertuning.conversion.family import Bindings, Gin, GinSize
from hypertuning.networks.llama_config import LlamaConfig
from hypertuning.networks.rotary import RotaryScaling


def _size(config: LlamaConfig) -> GinSize:
  """What a gin file binds, see `Gin`."""
  scaling = config.rotary.scaling
  macros = [
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
    return GinSize(macros)
  return GinSize(
    macros, _scaling(scaling), ['from hypertuning.networks import rotary']
  )


def _scaling(scaling: RotaryScaling) -> Bindings:
  values = {
    'factor': scaling.factor,
    'low_freq_factor': scaling.low_freq_factor,
    'high_freq_factor': scaling.high_freq_factor,
    'original_length': scaling.original_length,
  }
  return [(f'rotary.RotaryScaling.{k}', repr(v)) for k, v in values.items()]


GIN = Gin(
  'gin/models/llama.gin',
  'hyper_llama.gin',
  'gin/architectures/llama_full_size.gin',
  _size,
)
