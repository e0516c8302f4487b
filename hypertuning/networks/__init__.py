"""Transformers, written once; hypermodels and downstream models share them."""

from typing import Any, Protocol, runtime_checkable

import jax

from hypertuning.adapters import Adapters, LoRA, Prefix
from hypertuning.networks.memory import Memory


class Network(Protocol):
  """The contract of every downstream network: a Flax module with these methods.

  Attributes:
    config: configuration with `vocab_size`, `dtype`, `scan_layers`,
      `remat_policy` and `sites` (see `adapters.sites`). No other field of it is
      read outside the network. Where a model was trained for a number of
      positions, there is also `check_positions(count, text)`, which refuses
      more.
  """

  config: Any

  def __call__(
    self,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: Adapters | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Computes hidden states from which `logits` predicts every target token.

    Args:
      inputs: tokens that the network reads, int32 `[rows, inputs]`, 0 on
        padding.
      targets: tokens that the network should predict, int32 `[rows, targets]`,
        0 on padding. The network itself shifts them.
      adapters: phi of the episodes; None for the frozen network alone. The rows
        of an episode are consecutive, and all episodes have equally many.
      enable_dropout: whether dropout is on.

    Returns:
      Hidden states `[rows, targets, embed]`, in the dtype of the network.
    """

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Logits, float32 `[..., vocab]`, of hidden states `[..., embed]`.

    An objective calls it with a block of the hidden states that `__call__`
    returned, so that the logits of a whole batch never exist.
    """

  def start(
    self, inputs: jax.Array, adapters: Adapters | None, length: int
  ) -> Memory:
    """Reads the inputs, once, before tokens are decoded.

    Args:
      inputs: tokens that the network reads, int32 `[rows, inputs]`, 0 on
        padding.
      adapters: phi of the episodes, see `__call__`.
      length: number of tokens that the memory must have room for.
    """

  def step(self, ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
    """Reads one token per row, and predicts the next one.

    Args:
      ids: ids of the tokens, int32 `[rows]`.
      memory: memory of all tokens before them.

    Returns:
      The logits of the next token, float32 `[rows, vocab]`, and the new memory.
    """


class Compressor(Protocol):
  """A network that can read text into gist tokens (arXiv 2402.16817)."""

  def compress(
    self,
    tokens: jax.Array,
    gists: jax.Array,
    adapters: Adapters | None = None,
    before: Prefix | None = None,
    enable_dropout: bool = False,
  ) -> tuple[jax.Array, Prefix]:
    """Reads texts and the gist tokens behind them.

    Args:
      tokens: int32 `[rows, length]`, 0 on padding.
      gists: embeddings of the gist tokens, `[gists, embed]`.
      adapters: LoRA of this pass, shared by all rows or one per row.
      before: prefix that stands before the text, one per row.
      enable_dropout: whether dropout is on.

    Returns:
      Hidden states at the gists, `[rows, gists, embed]`, and the keys and
      values at the gists of every layer, without positions, as a prefix. They
      depend neither on the amount of padding nor on the other rows.
    """

  def compress_and_predict(
    self,
    tokens: jax.Array,
    gists: jax.Array,
    inputs: jax.Array,
    targets: jax.Array,
    adapters: LoRA | None = None,
    enable_dropout: bool = False,
  ) -> jax.Array:
    """Reads texts, gists and the queries behind them in one sequence.

    It gives what `compress` and `Network.__call__` with its prefix give, one
    after the other, for the same weights, but for random dropout. See
    `gist_mask`.

    Args:
      tokens: int32 `[episodes, length]`, 0 on padding.
      gists: embeddings of the gist tokens, `[gists, embed]`.
      inputs: inputs of the queries, see `Network.__call__`. The rows of an
        episode are consecutive, and all episodes have equally many.
      targets: targets of the queries, see `Network.__call__`.
      adapters: LoRA of texts and gists, which is off in the queries; shared by
        all episodes or one per episode.
      enable_dropout: whether dropout is on.

    Returns:
      Hidden states that predict the targets, `[rows, targets, embed]`.
    """


@runtime_checkable
class Cacher(Protocol):
  """A network that reads the first part of a text apart from the rest.

  An encoder cannot: what it makes of a token depends on the tokens behind it.
  """

  def cache(self, tokens: jax.Array) -> Prefix:
    """Reads texts that others go on from.

    Args:
      tokens: int32 `[rows, length]`, 0 on padding.

    Returns:
      The keys and values of every token as a prefix with a mask. With it, the
      network gives the rest of a text the hidden states that it has behind
      these tokens.
    """
