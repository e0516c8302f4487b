"""Few-shot text: episodes as token features.

HyperTuning, section 5 (multi-task fine-tuning): examples stand one after the
other, parted by two separators only, and a query has no text but its own.
"""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import features, vocabularies
from hypertuning.data.episodes import Episode
from hypertuning.errors import UserError


def episode_features(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
  vocabulary: seqio.Vocabulary,
  in_context: bool = False,
) -> tf.data.Dataset:
  """Preprocessor: an episode's strings to token features.

  A shot is `[SEP_INPUT] input [SEP_TARGET] target`; a query ends after
  `[SEP_TARGET]`. Lengths never cut a separator or EOS: shots are kept as wholes
  as far as they fit, and long queries and targets lose their own last tokens.

  Args:
    ds: elements of an `EpisodeSource`.
    sequence_length: seqio's lengths; None cuts nothing.
    vocabulary: of all three features.
    in_context: every query is read after all shots, in the model's own input
      (the in-context baseline).

  Returns:
    Elements with `hyper_inputs` (all shots and EOS), `inputs` and `targets`
    `[queries, ...]` (targets end in EOS), their texts and `task`.

  Raises:
    UserError: a length leaves no room for a separator and a token.
  """
  sep_input, sep_target = vocabularies.separators(vocabulary)
  eos = vocabulary.eos_id
  hyper_room, input_room, target_room = _rooms(sequence_length)

  def column(rows: tf.RaggedTensor, token: int) -> tf.Tensor:
    return tf.fill([rows.nrows(), 1], token)

  def convert(episode: Episode) -> Episode:
    shots = tf.stack([episode['shot_inputs'], episode['shot_targets']], axis=1)
    count, queries = shots.shape[0], episode['query_inputs'].shape[0]
    # One call of the vocabulary for everything: it is most of the cost.
    tokens = vocabularies.encode(
      vocabulary,
      tf.concat(
        [
          tf.reshape(shots, [-1]),
          episode['query_inputs'],
          episode['query_targets'],
        ],
        axis=0,
      ),
    )
    parts = tokens[: 2 * count]
    asked = tokens[2 * count : 2 * count + queries]
    answers = tokens[2 * count + queries :]
    marks = tf.tile([[sep_input], [sep_target]], [count, 1])
    parts = tf.concat([marks, parts], axis=1)
    shots = tf.RaggedTensor.from_row_lengths(
      parts.flat_values,
      tf.reduce_sum(tf.reshape(parts.row_lengths(), [count, 2]), axis=1),
      validate=False,
    )
    asked = tf.concat(
      [
        column(asked, sep_input),
        asked if input_room is None else asked[:, : input_room - 2],
        column(asked, sep_target),
      ],
      axis=1,
    )
    if target_room is not None:
      answers = answers[:, : target_room - 1]
    answers = tf.concat([answers, column(answers, eos)], axis=1)
    if in_context:
      room = None
      if input_room is not None:
        room = input_room - tf.reduce_max(asked.row_lengths())
      context = _whole_shots(shots, room)
      asked = tf.concat([tf.tile(context[None], [queries, 1]), asked], axis=1)
    text = _whole_shots(shots, hyper_room)
    return {
      'hyper_inputs': tf.concat([text, [eos]], axis=0),
      'inputs': tf.ensure_shape(asked.to_tensor(), [queries, None]),
      'targets': tf.ensure_shape(answers.to_tensor(), [queries, None]),
      'inputs_pretokenized': episode['query_inputs'],
      'targets_pretokenized': episode['query_targets'],
      'task': episode['task'],
    }

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _rooms(lengths: Mapping[str, Any] | None) -> tuple[int | None, ...]:
  """Tokens for shots, for a query and for a target."""
  rooms = []
  # EOS; two separators and a token; a token and EOS.
  for name, least in (('hyper_inputs', 1), ('inputs', 3), ('targets', 2)):
    length = features.length_of(lengths, name)
    if lengths and length is not None and length < least:
      raise UserError(
        f'TASK_FEATURE_LENGTHS[{name!r}] = {lengths[name]!r} has no room for '
        f'an example and its separators: give a length of {least} or more.'
      )
    rooms.append(length)
  return (None if rooms[0] is None else rooms[0] - 1, *rooms[1:])


def _whole_shots(shots: tf.RaggedTensor, room: Any) -> tf.Tensor:
  """The shots, one after the other, as far as they fit as wholes.

  Args:
    shots: `[shots, (tokens)]`.
    room: tokens; None for all. A shot that is longer by itself is left out.
  """
  if room is None:
    return shots.flat_values
  room = tf.cast(room, tf.int64)
  sizes = tf.cast(shots.row_lengths(), tf.int64)
  alone = sizes <= room
  ends = tf.cumsum(tf.where(alone, sizes, 0))
  return tf.ragged.boolean_mask(shots, alone & (ends <= room)).flat_values
