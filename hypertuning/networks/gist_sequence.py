"""Text, gist tokens and queries in one sequence (Mu et al., 2023).

The sequence is `[text | gists | query | query | ...]`. What stands behind the
gists hears of the text through the gists alone, and queries are blind to one
another: each sees what it would see behind the gists' cached keys and values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class GistMask(NamedTuple):
  """What may see what, apart from padding and from what comes later.

  Attributes:
    visible: bool `[length, length]`, True where the token of the row may attend
      to the token of the column.
    through: bool `[length, length]`, the part of `visible` where a query
      attends to gists.
  """

  visible: jax.Array
  through: jax.Array


def append_gists(
  embedded: jax.Array, real: jax.Array, gists: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Puts gist tokens into the columns behind texts.

  Their positions are those right behind the text's: the padding between the two
  has none and is never attended to.

  Args:
    embedded: embeddings of the texts, `[rows, text, embed]`.
    real: bool `[rows, text]`, False on padding.
    gists: embeddings of the gist tokens, `[gists, embed]`.

  Returns:
    Embeddings `[rows, text + gists, embed]` in the dtype of the texts', the
    mask, and positions from 0 on, int32 `[rows, text + gists]`.
  """
  own = jnp.broadcast_to(gists, (embedded.shape[0], *gists.shape))
  real = jnp.pad(real, [(0, 0), (0, gists.shape[0])], constant_values=True)
  return (
    jnp.concatenate([embedded, own.astype(embedded.dtype)], axis=1),
    real,
    jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0),
  )


def gist_mask(text: int, gists: int, queries: int, query: int) -> GistMask:
  """The mask of one sequence; no row of it is empty.

  Args:
    text: number of columns of the text, with its padding.
    gists: number of gist tokens.
    queries: number of queries.
    query: number of columns per query, with its padding.

  Returns:
    Masks whose length is `text + gists + queries * query`.
  """
  lengths = [text + gists, *[query] * queries]
  section = np.repeat(np.arange(queries + 1), lengths)
  column = np.arange(section.size)
  is_gist = (column >= text) & (column < text + gists)
  own = jnp.asarray(section)[:, None] == section
  through = jnp.asarray(section > 0)[:, None] & is_gist
  return GistMask(own | through, through)
