"""HyperT5 (arXiv 2211.12485, section 3): few-shot text to phi in one pass."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters
from hypertuning.errors import UserError
from hypertuning.networks import layers, t5
from hypertuning.padding import is_real
from hypertuning.ranges import Natural


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
    query_tokens: ids whose embeddings the queries start from, over and over;
      a decoder that starts from a language model's knows what to do with them
      (as prompts from sampled vocabulary, Lester et al., 2021, section 3.2).
      Where there are none, queries start at random.

  Raises:
    UserError: the hypermodel has no such ids.
  """

  head: nn.Module
  bidirectional_bias: bool = False
  query_tokens: Sequence[Natural] = ()

  def __post_init__(self) -> None:
    super().__post_init__()
    for token in self.query_tokens:
      if not 0 <= token < self.config.vocab_size:
        raise UserError(
          f'QUERY_TOKENS = {tuple(self.query_tokens)!r}: has {token}, but '
          f'VOCAB_SIZE = {self.config.vocab_size}.'
        )

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
    self.queries = layers.param_with_axes(
      'queries',
      # The scale of T5's embeddings, or a learned difference to some of them.
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
      tokens: few-shot text, int32 `[episodes, length]`, 0 on padding, or in
        chunks `[episodes, chunks, length]`. Chunks are encoded apart, and the
        queries attend to all of them.
      downstream: not used; the hypermodel has an encoder of its own.
      enable_dropout: whether dropout is on.

    Returns:
      Adapters with a leading `[episodes]` axis. They depend neither on the
      amount of padding nor on the other episodes.
    """
    del downstream
    episodes, length = tokens.shape[0], tokens.shape[-1]
    encoded = self.encode(
      tokens.reshape(-1, length), enable_dropout=enable_dropout
    )
    queries = self.queries
    if self.query_tokens:
      ids = jnp.resize(jnp.array(self.query_tokens), queries.shape[:1])
      queries = queries + self.token_embedder(ids)
    queries = jnp.broadcast_to(queries, (episodes, *queries.shape))
    hidden = self.decoder(
      queries,
      encoded.reshape(episodes, -1, encoded.shape[-1]),
      is_real(tokens.reshape(episodes, -1)),
      deterministic=not enable_dropout,
    )
    return self.head(hidden)
