"""The gin files of a T5, and its size as one binds it."""

from hypertuning.conversion.family import Gin, GinSize
from hypertuning.networks.t5_config import T5Config


def _size(config: T5Config) -> GinSize:
  """What a gin file binds, see `Gin`."""
  macros = [
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
  return GinSize(
    macros,
    [(f't5.T5Config.{k}', repr(v)) for k, v in more.items()],
    ['from hypertuning.networks import t5'],
  )


GIN = Gin(
  'gin/models/t5.gin',
  'hyper_t5_*.gin',
  'gin/architectures/full_size.gin',
  _size,
)
