"""HyperTuning via gisting (arXiv 2402.16817): gist tokens turn text to phi.

A network reads the examples and, behind them, a few gist tokens. What it keeps
of them is phi: the keys and values at the gists of every layer are a prefix for
the frozen network, or a head turns the hidden states at the gists into adapter
parameters (ours, beyond the paper).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp

from hypertuning.adapters import Adapters, LoRASpec, Prefix
from hypertuning.adapters.specs import HasSites
from hypertuning.errors import UserError
from hypertuning.hypermodels import start_tokens
from hypertuning.hypermodels.learned import Learned
from hypertuning.networks import layers
from hypertuning.padding import is_real
from hypertuning.ranges import Count, Natural, NotNegative

Reader = Callable[[jax.Array], tuple[jax.Array, Prefix]]


@runtime_checkable
class Config(HasSites, Protocol):
  """The part of a network's configuration that gists need."""

  @property
  def vocab_size(self) -> int:
    """Number of embeddings."""

  @property
  def emb_dim(self) -> int:
    """Size of an embedding."""

  @property
  def max_length(self) -> int | None:
    """Number of positions; None where any number will do."""


class Gist(nn.Module):
  """A source of phi that compresses text by gist tokens.

  The network that reads is the frozen downstream network itself, with LoRA that
  only this pass has, or a tower of its own. Its own parameters are `gists`,
  `lora` and, where there are any, `tower` and `head`.

  Attributes:
    downstream: configuration of the network that is adapted.
    num_gists: number of gist tokens per text; None for as many as the head
      reads, or 16 without a head.
    adapter: LoRA of the reading pass; None for none, as a tower of its own
      needs it.
    tower: network that reads in place of the frozen one, or None.
    head: a head of `heads` that reads the hidden states at the gists, one per
      query of the head, and gives phi; None takes keys and values as a prefix.
    gist_tokens: ids whose embeddings the gists start from, over and over. Where
      there are none, gists start at random, as large as an embedding.
    gist_stddev: standard deviation of gists that start at random.
    chunks: what becomes of examples in several chunks. `recurrent`: every chunk
      is read behind the gists of the one before, and the last gists are phi.
      What a layer's gists have read is read one layer above, so that no more
      chunks are heard of than the network has layers less one.
      `concatenated` and `averaged`: chunks are read apart.
    in_one_sequence: whether training reads text, gists and queries in one
      masked sequence (Mu et al., 2023), see `predict`. It has the same
      variables, losses and gradients as two passes, which generate phi and
      read the queries behind it. Only the frozen network can read so.

  Raises:
    UserError: the network has no such tokens or too few positions for the
      gists, the head has another number of queries, or one sequence cannot be
      read with a tower or a head.
  """

  downstream: Config
  num_gists: Count | None = None
  adapter: LoRASpec | None = None
  tower: nn.Module | None = None
  head: nn.Module | None = None
  gist_tokens: Sequence[Natural] = ()
  gist_stddev: NotNegative = 1.0
  chunks: Literal['recurrent', 'concatenated', 'averaged'] = 'recurrent'
  in_one_sequence: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    start_tokens.check(
      'GIST_TOKENS', self.gist_tokens, self.downstream.vocab_size
    )
    self._check_head()
    room = self.downstream.max_length
    if room is not None and self._count >= room:
      raise UserError(
        f'NUM_GISTS = {self._count} leaves no room for text: the network '
        f'has MAX_LENGTH = {room} positions.'
      )
    for macro, module in (('GIST_TOWER', self.tower), ('HEAD', self.head)):
      if self.in_one_sequence and module is not None:
        raise UserError(
          f'GIST_IN_ONE_SEQUENCE = True: the frozen network reads all, so that '
          f'{macro} must be None.'
        )

  def _check_head(self) -> None:
    """Refuses a head that reads other gists than there are."""
    if self.head is None:
      return
    wanted = self.head.num_queries
    if self.num_gists is not None and self.num_gists != wanted:
      raise UserError(
        f'NUM_GISTS = {self.num_gists}: the head reads {wanted} gists; give '
        'this number, or None.'
      )
    if self.chunks == 'concatenated':
      raise UserError(
        "GIST_CHUNKS = 'concatenated': the head reads the gists of one text; "
        "give 'recurrent' or 'averaged'."
      )

  @property
  def _count(self) -> int:
    """Number of gist tokens per text."""
    if self.num_gists is not None:
      return self.num_gists
    return 16 if self.head is None else self.head.num_queries

  def setup(self) -> None:
    self.gists = layers.param_with_axes(
      'gists',
      nn.initializers.normal(0.0 if self.gist_tokens else self.gist_stddev),
      (self._count, self.downstream.emb_dim),
      jnp.float32,
      axes=('stack', 'embed'),
      module=self,
    )
    if self.adapter is not None:
      self.lora = Learned(self.downstream, self.adapter)

  @nn.nowrap
  def check_lengths(self, chunks: int, length: int) -> None:
    """Refuses text that leaves no room for the gists behind it.

    Args:
      chunks: number of chunks of text.
      length: number of tokens in a chunk.

    Raises:
      UserError: the network that reads has fewer positions.
    """
    config = self.downstream if self.tower is None else self.tower.config
    is_recurrent = self.chunks == 'recurrent' and chunks > 1
    gists = self._count * (1 + is_recurrent)
    if check := getattr(config, 'check_positions', None):
      check(length + gists, f'{length} hyper inputs and {gists} gists')

  def __call__(
    self,
    tokens: jax.Array,
    downstream: nn.Module | None = None,
    enable_dropout: bool = False,
  ) -> Adapters:
    """Generates phi.

    Args:
      tokens: few-shot text, int32 `[episodes, length]`, 0 on padding, or in
        chunks `[episodes, chunks, length]`.
      downstream: the frozen network, which reads where there is no tower.
      enable_dropout: whether dropout is on.

    Returns:
      Adapters with a leading `[episodes]` axis. They depend neither on the
      amount of padding nor on the other episodes.
    """
    network: Any = downstream if self.tower is None else self.tower
    gists, lora = self._own(tokens, network)

    def read(
      tokens: jax.Array, before: Prefix | None = None
    ) -> tuple[jax.Array, Prefix]:
      return network.compress(tokens, gists, lora, before, enable_dropout)

    if tokens.ndim == 2:
      hidden, prefix = read(tokens)
    elif self.chunks == 'recurrent':
      hidden, prefix = read(tokens[:, 0])
      for chunk in range(1, tokens.shape[1]):
        text = tokens[:, chunk]
        # An empty chunk has nothing to say: what was known stays.
        says = is_real(text).any(axis=1)
        hidden, prefix = jax.tree.map(
          lambda new, old, says=says: jnp.where(
            says.reshape(-1, *[1] * (new.ndim - 1)), new, old
          ),
          read(text, prefix),
          (hidden, prefix),
        )
    else:
      hidden, prefix = self._apart(read, tokens)
    return prefix if self.head is None else self.head(hidden)

  def predict(
    self,
    tokens: jax.Array,
    downstream: nn.Module,
    inputs: jax.Array,
    targets: jax.Array,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Hidden states that predict targets, by one pass over one sequence.

    Args:
      tokens: few-shot text, int32 `[episodes, length]`, 0 on padding.
      downstream: the frozen network, which reads all.
      inputs: inputs of the queries, int32 `[episodes * queries, inputs]`.
      targets: targets of the queries, int32 `[episodes * queries, targets]`.
      enable_dropout: whether dropout is on.

    Returns:
      `[episodes * queries, targets, embed]`: what the downstream network gives
      with the prefix of `__call__`, but for random dropout.

    Raises:
      UserError: the text is in chunks.
    """
    if tokens.ndim > 2:
      raise UserError(
        'GIST_IN_ONE_SEQUENCE = True: reads one text per episode, but '
        "'hyper_inputs' of TASK_FEATURE_LENGTHS has chunks; give one length."
      )
    network: Any = downstream
    gists, lora = self._own(tokens, network)
    return network.compress_and_predict(
      tokens, gists, inputs, targets, lora, enable_dropout
    )

  def _own(self, tokens: jax.Array, network: Any) -> tuple[jax.Array, Any]:
    """The gists' embeddings and the LoRA, or None, of this source."""
    gists = start_tokens.add_embeddings(
      self.gists, self.gist_tokens, network.token_embedder
    )
    return gists, self.lora(tokens) if self.adapter is not None else None

  def _apart(self, read: Reader, tokens: jax.Array) -> tuple[jax.Array, Prefix]:
    """Reads chunks `[episodes, chunks, length]` apart and joins the results."""
    episodes, chunks, length = tokens.shape
    hidden, prefix = jax.tree.map(
      lambda x: x.reshape(episodes, chunks, *x.shape[1:]),
      read(tokens.reshape(-1, length)),
    )
    if self.chunks == 'concatenated':
      # The prefixes of all chunks, one behind the other.
      prefix = jax.tree.map(
        lambda x: x.reshape(episodes, -1, *x.shape[3:]), prefix
      )
      return hidden.reshape(episodes, -1, hidden.shape[-1]), prefix
    says = is_real(tokens).any(axis=-1)
    share = says / jnp.maximum(says.sum(axis=1, keepdims=True), 1)
    return jax.tree.map(
      lambda x: jnp.einsum('ec,ec...->e...', share.astype(x.dtype), x),
      (hidden, prefix),
    )
