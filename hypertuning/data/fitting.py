"""Fits the definition and the shots of an episode into a length."""

from typing import Any

import tensorflow as tf

from hypertuning.data import seqio_vocabularies
from hypertuning.data.text_format import TextFormat


def context(
  definition: tf.Tensor,
  shots: tf.RaggedTensor,
  form: TextFormat,
  room: Any,
  before_query: bool,
) -> tuple[tf.Tensor, tf.Tensor]:
  """The definition, then the shots that fit, each followed by its separator.

  Args:
    definition: tokens of the definition, int32 `[tokens]`; it is cut if it does
      not fit even without shots.
    shots: tokens of the shots, int32 `[shots, (tokens)]`, each followed by the
      separator between two examples.
    form: the format, which gives the separators.
    room: number of tokens that there is room for; None for no limit.
    before_query: whether a query follows. If not, no separator is last.

  Returns:
    The tokens, int32 `[tokens]`, and the number of shots left out, int32 `[]`.
  """
  definition_end = seqio_vocabularies.constant(form.definition_separator)
  if room is not None:
    end_size = len(form.definition_separator) if before_query else 0
    definition = definition[: tf.maximum(room - end_size, 0)]
  definition_end = definition_end[
    : tf.minimum(tf.size(definition), 1) * tf.size(definition_end)
  ]
  begin = tf.concat([definition, definition_end], axis=0)
  if room is None:
    shots_that_fit = shots
  else:
    rest = tf.cast(room, tf.int32) - tf.size(begin)
    # The separator behind the last shot needs no room if it is not kept.
    rest += 0 if before_query else len(form.between)
    shots_that_fit = whole_shots(shots, rest)
  left_out = tf.cast(shots.nrows() - shots_that_fit.nrows(), tf.int32)
  text = tf.concat([begin, shots_that_fit.flat_values], axis=0)
  if not before_query:
    has_shots = shots_that_fit.nrows() > 0
    last = tf.where(has_shots, len(form.between), tf.size(definition_end))
    text = text[: tf.size(text) - last]
  return text, left_out


def whole_shots(shots: tf.RaggedTensor, room: Any) -> tf.RaggedTensor:
  """The first shots that fit, each of them whole.

  Args:
    shots: tokens of the shots, int32 `[shots, (tokens)]`.
    room: number of tokens that there is room for. A shot that is longer than
      this by itself is skipped, and the shots after it may still fit.

  Returns:
    int32 `[shots that fit, (tokens)]`, in their order.
  """
  room = tf.cast(room, tf.int64)
  sizes = tf.cast(shots.row_lengths(), tf.int64)
  fits_alone = sizes <= room
  ends = tf.cumsum(tf.where(fits_alone, sizes, 0))
  return tf.ragged.boolean_mask(shots, fits_alone & (ends <= room))


def chunk_numbers(
  shots: tf.RaggedTensor,
  room: int,
  definition: tf.Tensor,
  form: TextFormat,
  chunks: int,
) -> tf.Tensor:
  """The number of the chunk that each shot goes to; shots are never divided.

  Args:
    shots: tokens of the shots, int32 `[shots, (tokens)]`, each followed by the
      separator.
    room: number of tokens that a chunk has for the definition and its shots.
    definition: tokens of the definition, int32 `[tokens]`; every chunk repeats
      it.
    form: the format, which gives the separators.
    chunks: number of chunks.

  Returns:
    int32 `[shots]`. Shots that are left out have the number `chunks`: they are
    longer than a chunk, or all chunks were full before them.
  """
  sizes = tf.cast(shots.row_lengths(), tf.int32)
  definition_size = tf.minimum(tf.size(definition), room)
  # No separator follows the last shot of a chunk.
  rest = (
    room
    + len(form.between)
    - tf.where(
      definition_size > 0,
      definition_size + len(form.definition_separator),
      0,
    )
  )

  def place(
    state: tuple[tf.Tensor, tf.Tensor, tf.Tensor], size: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    chunk, used_tokens, _ = state
    fits = size <= rest
    is_next = fits & (used_tokens + size > rest)
    chunk = tf.minimum(chunk + tf.cast(is_next, tf.int32), chunks)
    used_tokens = tf.where(is_next, 0, used_tokens) + tf.where(fits, size, 0)
    return chunk, used_tokens, tf.where(fits, chunk, chunks)

  zero = tf.constant(0)
  return tf.scan(place, sizes, (zero, zero, zero))[2]
