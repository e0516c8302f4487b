"""Examples of a task as the tokens that a hypermodel reads."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hypertuning.api import buckets
from hypertuning.api.questions import Example
from hypertuning.data import layout
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError

_MOST_CHUNKS = 32


def hyper_tokens(
  pairs: Sequence[Example],
  definition: str,
  draws: int,
  seed: int,
  length: Any,
  form: TextFormat,
) -> tuple[np.ndarray, int]:
  """Lays out examples in some orders; no example is left out.

  Args:
    pairs: examples, as pairs of input and target.
    definition: text that says what the task is.
    draws: number of orders; the first is the given one.
    seed: seed of the other orders.
    length: length of `hyper_inputs` that the hypermodel was trained with, a
      number, or a pair of chunks and a number.
    form: format of the text.

  Returns:
    Token ids, int32 `[rows, tokens]`; or `[rows, chunks, tokens]` if not all
    examples fit into one text; and the number of chunks. The first `draws` rows
    are the orders, and the others are padding.

  Raises:
    UserError: an example does not fit into a text, or there are too many.
  """
  room = length[-1] if isinstance(length, tuple | list) else length
  random = np.random.default_rng(seed)
  orders = [list(pairs)]
  for _ in range(draws - 1):
    orders.append([pairs[i] for i in random.permutation(len(pairs)).tolist()])
  chunks = max(
    layout.chunks_needed(shots, definition, room, form) for shots in orders
  )
  if chunks > _MOST_CHUNKS:
    raise UserError(
      f'examples: {len(pairs)} of them need {chunks} texts of {room} tokens, '
      f'the length that the hypermodel was trained on; {_MOST_CHUNKS} texts '
      'are read at most. Give fewer examples.'
    )
  lengths = {
    'hyper_inputs': room if chunks == 1 else (chunks, room),
    # There is no query: room for the ids of the format.
    'inputs': (1, len(form.query('')) + 8),
    'targets': (1, len(form.target_end) + 8),
  }
  texts = [
    layout.task_features(
      layout.Texts(shots, [''], [''], definition), lengths, form
    )['hyper_inputs']
    for shots in orders
  ]
  longest = buckets.length(max(text.shape[-1] for text in texts), room)
  shape = (buckets.rows(draws), *(() if chunks == 1 else (chunks,)), longest)
  tokens = np.zeros(shape, np.int32)
  for row, text in zip(tokens, texts, strict=False):
    row[..., : text.shape[-1]] = text
  return tokens, chunks
