"""Multi-head attention, in one place and in several ways."""

from hypertuning.networks.attention.choice import Prepared, Way, prepare
from hypertuning.networks.attention.flash import SAVED_NAMES
from hypertuning.networks.attention.module import (
  Attention,
  Rotary,
  last_columns,
  prepend,
  write,
)
from hypertuning.networks.attention.plain import Plain, dot_product_attention
from hypertuning.networks.attention.relative import RelativePositionBias
from hypertuning.networks.attention.view import (
  MASK_BIAS,
  Places,
  RelativeBiases,
  View,
  column_places,
  mask_to_bias,
  relative_position_bucket,
)

__all__ = [
  'MASK_BIAS',
  'SAVED_NAMES',
  'Attention',
  'Places',
  'Plain',
  'Prepared',
  'RelativeBiases',
  'RelativePositionBias',
  'Rotary',
  'View',
  'Way',
  'column_places',
  'dot_product_attention',
  'last_columns',
  'mask_to_bias',
  'prepare',
  'prepend',
  'relative_position_bucket',
  'write',
]
