"""Learned vectors that start as the embeddings of tokens."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from hypertuning.errors import UserError


def check(macro: str, tokens: Sequence[int], vocab_size: int) -> None:
  """Refuses ids that have no embedding.

  Args:
    macro: name of the macro that gives the ids, for the error message.
    tokens: ids of the tokens.
    vocab_size: number of embeddings.

  Raises:
    UserError: names the macro and the first such id.
  """
  for token in tokens:
    if not 0 <= token < vocab_size:
      raise UserError(
        f'{macro} = {tuple(tokens)!r}: has {token}, but VOCAB_SIZE = '
        f'{vocab_size}.'
      )


def add_embeddings(
  vectors: jax.Array,
  tokens: Sequence[int],
  embed: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """Adds the embeddings of tokens to the vectors, which differ from them.

  Args:
    vectors: learned differences, or the vectors themselves without tokens,
      `[vectors, embed]`.
    tokens: ids of the tokens, which are repeated if there are fewer of them
      than vectors.
    embed: function from int32 ids `[vectors]` to embeddings `[vectors, embed]`.

  Returns:
    `[vectors, embed]`.
  """
  if not tokens:
    return vectors
  return vectors + embed(jnp.resize(jnp.array(tokens), vectors.shape[:1]))
