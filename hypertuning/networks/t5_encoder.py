"""The encoder of a T5 1.1, and what it shares with the decoder."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from hypertuning.adapters import Adapters, Prefix, SiteAdapter
from hypertuning.networks import attention, layers, stack
from hypertuning.networks import t5_config as t5
from hypertuning.networks.t5_config import T5Config
from hypertuning.networks.t5_layers import EncoderLayer


class Stack(nn.Module):
  """The parts that encoder and decoder share: relative biases and dropout."""

  config: T5Config

  def _relative_biases(
    self, places: attention.Places, bidirectional: bool
  ) -> attention.RelativeBiases:
    cfg = self.config
    return attention.RelativePositionBias(
      cfg.num_heads,
      bidirectional,
      cfg.relpos_num_buckets,
      cfg.relpos_max_distance,
      cfg.relpos_init,
      name='relpos_bias',
    )(places)

  def _prepare(
    self, view: attention.View, part: SiteAdapter | None, deterministic: bool
  ) -> attention.Prepared:
    dropout = self.config.dropout_rate > 0 and not deterministic
    return attention.prepare(self.config, view, part, dropout)

  def _dropout(self, x: jax.Array, deterministic: bool) -> jax.Array:
    return nn.Dropout(self.config.dropout_rate, broadcast_dims=(-2,))(
      x, deterministic=deterministic
    )


class Encoder(Stack):
  """Encodes embedded text into hidden states."""

  @nn.compact
  def __call__(
    self,
    embedded: jax.Array,
    view: attention.View,
    places: attention.Places,
    adapters: Adapters | None = None,
    deterministic: bool = True,
    before: Prefix | None = None,
    gists: int = 0,
  ) -> tuple[jax.Array, Any]:
    """Encodes embedded text.

    Args:
      embedded: embeddings of the tokens, `[rows, length, embed]`.
      view: the tokens that each token may see, without relative biases.
      places: positions of the tokens, for the relative biases.
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
    view = dataclasses.replace(
      view, relative=self._relative_biases(places, True)
    )
    parts = stack.site_adapters(
      adapters, (t5.ENCODER_SELF, t5.ENCODER_MLP), before
    )
    x, kept = stack.run_layers(
      EncoderLayer,
      cfg.num_encoder_layers,
      cfg,
      {'deterministic': deterministic, 'gists': gists},
      self._dropout(embedded.astype(cfg.dtype), deterministic),
      parts,
      None,
      self._prepare(view, parts[t5.ENCODER_SELF], deterministic),
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name='encoder_norm')(x)
    return self._dropout(x, deterministic), kept
