"""The encoder of a T5 1.1, and what it shares with the decoder."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters, Prefix
from hypertuning.networks import attention, layers, stack
from hypertuning.networks import t5_config as t5
from hypertuning.networks.t5_config import T5Config
from hypertuning.networks.t5_layers import EncoderLayer


class Stack(nn.Module):
  """The parts that encoder and decoder share: relative biases and dropout."""

  config: T5Config

  def _relative_bias(
    self, queries: jax.Array, keys: jax.Array, bidirectional: bool
  ) -> jax.Array:
    cfg = self.config
    return layers.RelativePositionBias(
      cfg.num_heads,
      bidirectional,
      cfg.relpos_num_buckets,
      cfg.relpos_max_distance,
      cfg.relpos_init,
      name='relpos_bias',
    )(queries, keys)

  def _dropout(self, x: jax.Array, deterministic: bool) -> jax.Array:
    return nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))(
      x, deterministic=deterministic
    )


class View(NamedTuple):
  """What the tokens of a sequence may see, and how.

  Attributes:
    visible: bool `[rows, 1 or length, length]`.
    positions: int32 `[length]` or `[rows, length]`, for the relative biases.
    through: bool `[length, length]`, True on pairs whose bias is 0, as behind a
      prefix; None for no such pairs.
  """

  visible: jax.Array
  positions: jax.Array
  through: jax.Array | None = None


class Encoder(Stack):
  """Encodes embedded text into hidden states."""

  @nn.compact
  def __call__(
    self,
    embedded: jax.Array,
    view: View,
    adapters: Adapters | None = None,
    deterministic: bool = True,
    before: Prefix | None = None,
    gists: int = 0,
  ) -> tuple[jax.Array, Any]:
    """Encodes embedded text.

    Args:
      embedded: embeddings of the tokens, `[rows, length, embed]`.
      view: what the tokens may see.
      adapters: phi of the episodes, which have equally many rows each; None for
        no phi.
      deterministic: whether dropout is off.
      before: prefix beside the adapters.
      gists: number of last columns that are gist tokens, see `T5.compress`.

    Returns:
      Hidden states, `[rows, length, embed]`; those of padding have no meaning.
      With gists, keys and values at them, see `stack.run_layers`.
    """
    cfg = self.config
    bias = self._relative_bias(view.positions, view.positions, True)
    if view.through is not None:
      bias = jnp.where(view.through, 0.0, bias)
    bias = bias + attention.mask_to_bias(view.visible[:, None])
    x, kept = stack.run_layers(
      EncoderLayer,
      cfg.num_encoder_layers,
      cfg,
      {'deterministic': deterministic, 'gists': gists},
      self._dropout(embedded.astype(cfg.dtype), deterministic),
      stack.site_adapters(adapters, (t5.ENCODER_SELF, t5.ENCODER_MLP), before),
      None,
      bias,
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name='encoder_norm')(x)
    return self._dropout(x, deterministic), kept
