"""HyperT5 (arXiv 2211.12485, section 3): few-shot text to phi in one pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters import Adapters
from hypertuning.networks import layers, t5


class HyperT5(t5.T5):
  """A T5 whose decoder reads learned queries instead of text.

  The encoder reads the examples. The decoder has no causal mask: its queries
  attend to one another and to the examples, and a head turns what it says into
  adapter parameters. Embedding, encoder and decoder have T5's names, so that
  they can start from the downstream model's weights.

  Attributes:
    config: sizes of the hypermodel; free of the downstream model's.
    head: `heads.PrefixHead` or `heads.LoRAHead`.
    bidirectional_bias: see `t5.Decoder`.
  """

  head: nn.Module
  bidirectional_bias: bool = False

  def setup(self) -> None:
    cfg = self.config
    self.token_embedder = layers.Embed(
      cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype
    )
    self.encoder = t5.Encoder(cfg)
    # Not `super().setup()`: flax lets nobody replace its decoder afterwards.
    self.decoder = t5.Decoder(
      cfg, causal=False, bidirectional_bias=self.bidirectional_bias
    )
    self.queries = partitioning.param_with_axes(
      'queries',
      nn.initializers.normal(stddev=1.0),  # the scale of T5's embeddings
      (self.head.num_queries, cfg.emb_dim),
      jnp.float32,
      axes=('stack', 'embed'),
      module=self,
    )

  def __call__(
    self, tokens: jax.Array, enable_dropout: bool = False
  ) -> Adapters:
    """Generates phi.

    Args:
      tokens: few-shot text, int32 `[episodes, length]`, 0 on padding.
      enable_dropout: whether dropout is on.

    Returns:
      Adapters with a leading `[episodes]` axis. They depend neither on the
      amount of padding nor on the other episodes.
    """
    encoded = self.encode(tokens, enable_dropout=enable_dropout)
    queries = jnp.broadcast_to(
      self.queries, (tokens.shape[0], *self.queries.shape)
    )
    hidden = self.decoder(
      queries,
      jnp.ones(queries.shape[:2], bool),
      encoded,
      tokens > 0,
      deterministic=not enable_dropout,
    )
    return self.head(hidden)
