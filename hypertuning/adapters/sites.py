"""Where in a T5 an adapter may act, and what one attention layer gets."""

from collections.abc import Mapping

import flax
import jax

ENCODER_SELF = 'encoder_self'
DECODER_SELF = 'decoder_self'
DECODER_CROSS = 'decoder_cross'
SITES = (ENCODER_SELF, DECODER_SELF, DECODER_CROSS)


@flax.struct.dataclass
class KeyValue:
  """Keys and values that stand before the text's own.

  Attributes:
    key: `[episodes, prefix, layers, heads, head_dim]`.
    value: the same shape.
  """

  key: jax.Array
  value: jax.Array


@flax.struct.dataclass
class LowRank:
  """The two factors of one projection's update, `dW = scale * a @ b`.

  Attributes:
    a: `[episodes, layers, embed, rank]`.
    b: `[episodes, layers, rank, heads, head_dim]`.
  """

  a: jax.Array
  b: jax.Array


@flax.struct.dataclass
class SiteAdapter:
  """An adapter's part for one site, the layers axis moved to the front.

  A network indexes or scans that axis; one attention layer then sees leaves
  without it: `prefix` of `[batch, prefix, heads, head_dim]`, `lora` factors of
  `[batch, embed, rank]` and `[batch, rank, heads, head_dim]` (scale included).
  """

  prefix: KeyValue | None = None
  lora: Mapping[str, LowRank] | None = None


def num_layers(site: str, encoder_layers: int, decoder_layers: int) -> int:
  """How many attention layers a site has."""
  return encoder_layers if site == ENCODER_SELF else decoder_layers
