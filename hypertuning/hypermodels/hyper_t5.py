"""HyperT5 (arXiv 2211.12485, section 3): examples become phi in one pass."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters
from hypertuning.hypermodels import start_tokens
from hypertuning.networks import layers, t5
from hypertuning.padding import is_real
from hypertuning.ranges import Natural


class HyperT5(t5.T5):
  """A T5 whose decoder reads learned queries instead of text.

  The encoder reads the examples. The decoder has no causal mask: its queries
  attend to one another and to the examples. A head turns the hidden states of
  the decoder into adapters. Embedding, encoder and decoder have T5's names, so
  that they can start from the weights of the downstream model.

  Attributes:
    config: sizes of the hypermodel, which may differ from the downstream
      model's.
    head: the head, a `heads.PrefixHead` or `heads.LoRAHead`.
    bidirectional_bias: whether the decoder's relative biases tell earlier
      queries from later ones, see `t5.Decoder`.
    query_tokens: ids of the tokens whose embeddings the queries start from; the
      ids are repeated if there are fewer of them than queries. A decoder with
      the weights of a language model can read such embeddings from the start
      (prompts start from sampled vocabulary in Lester et al., 2021, section
      3.2). Without ids, queries start at random.

  Raises:
    UserError: the hypermodel has no such ids.
  """

  head: nn.Module
  bidirectional_bias: bool = False
  query_tokens: Sequence[Natural] = ()

  def __post_init__(self) -> None:
    super().__post_init__()
    start_tokens.check(
      'QUERY_TOKENS', self.query_tokens, self.config.vocab_size
    )

  def setup(self) -> None:
    cfg = self.config
    self.token_embedder = layers.Embed(
      cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype
    )
    self.encoder = t5.Encoder(cfg)
    # This repeats `super().setup()`, because flax does not allow the decoder
    # to be replaced after it.
    self.decoder = t5.Decoder(
      cfg, causal=False, bidirectional_bias=self.bidirectional_bias
    )
    self.queries = layers.param_with_axes(
      'queries',
      # Random queries have the scale of T5's embeddings. With query tokens, the
      # parameter is a learned difference from their embeddings.
      nn.initializers.normal(stddev=0.0 if self.query_tokens else 1.0),
      (self.head.num_queries, cfg.emb_dim),
      jnp.float32,
      axes=('stack', 'embed'),
      module=self,
    )

  def __call__(  # type: ignore[override]  # T5 reads texts and says hidden states
    self,
    tokens: jax.Array,
    downstream: nn.Module | None = None,
    enable_dropout: bool = False,
  ) -> Adapters:
    """Generates phi.

    Args:
      tokens: token ids of the examples, int32 `[episodes, length]`, 0 on
        padding; or, in chunks, `[episodes, chunks, length]`. Chunks are encoded
        independently, and the queries attend to all of them.
      downstream: the downstream network, which is ignored, as the hypermodel
        has an encoder of its own.
      enable_dropout: whether dropout is on.

    Returns:
      Adapters with a leading `[episodes]` axis. They depend neither on the
      amount of padding nor on other episodes.
    """
    del downstream
    episodes, length = tokens.shape[0], tokens.shape[-1]
    encoded = self.encode(
      tokens.reshape(-1, length), enable_dropout=enable_dropout
    )
    queries = start_tokens.add_embeddings(
      self.queries, self.query_tokens, self.token_embedder
    )
    queries = jnp.broadcast_to(queries, (episodes, *queries.shape))
    hidden = self.decoder(
      queries,
      encoded.reshape(episodes, -1, encoded.shape[-1]),
      is_real(tokens.reshape(episodes, -1)),
      deterministic=not enable_dropout,
    )
    return self.head(hidden)
