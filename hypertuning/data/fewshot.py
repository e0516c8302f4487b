"""Few-shot text: episodes as token features.

HyperTuning, section 5 (multi-task fine-tuning): examples stand one after the
other, parted by two separators only, and a query has no text but its own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import features, vocabularies
from hypertuning.data.sampling import Episode
from hypertuning.errors import UserError

# Rank classification, see `options_as_queries`: suffix of its tasks' names, and
# features of its queries.
SCORE_EVAL = '_score_eval'
_RANKING = ('question', 'is_correct')
_KEPT = ('task', 'draw', 'query_references', *_RANKING)
# Features of `episode_features` with a row a query.
OF_QUERIES = (
  'inputs',
  'teacher_inputs',
  'targets',
  'inputs_pretokenized',
  'targets_pretokenized',
  'query_references',
  *_RANKING,
)


@dataclasses.dataclass(frozen=True)
class Markers:
  """Text that parts definition, inputs and targets, instead of separators.

  For models that have not been trained with sentinels between examples.
  """

  definition: str = 'Definition: '
  inputs: str = ' Input: '
  targets: str = ' Output: '


def options_as_queries(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
) -> tf.data.Dataset:
  """Preprocessor: every option of a query becomes a query, for its score.

  The options of a question stand in one episode, so that they share its draw of
  shots, and phi.

  Args:
    ds: elements of an `EpisodeSource` of one query, whose rows have options.
    sequence_length: seqio's lengths; None checks nothing.

  Returns:
    Elements with the further features `question`, the number of the query, and
    `is_correct`, whether the option is its target, int32 `[queries]`.

  Raises:
    UserError: no options, or no room for those of a question.
  """
  if 'query_options' not in ds.element_spec:
    raise UserError('Rank classification needs tasks with options; none has.')
  needed = ds.element_spec['query_options'].shape[1]
  room = (sequence_length or {}).get('inputs')
  if room and room[0] < needed:
    raise UserError(
      f"TASK_FEATURE_LENGTHS['inputs'] = {room!r} has room for {room[0]} "
      f'queries, but a question has up to {needed} options: give '
      f"({needed}, {room[1]}), and {needed} for 'targets' as well."
    )

  @tf.autograph.experimental.do_not_convert
  def convert(episode: Episode) -> Episode:
    options = episode['query_options']
    count, most = tf.unstack(tf.shape(options))
    given = tf.reshape(options != '', [-1])

    def each(values: tf.Tensor) -> tf.Tensor:
      return tf.boolean_mask(tf.repeat(values, most, axis=0), given)

    said = tf.boolean_mask(tf.reshape(options, [-1]), given)
    correct = said == each(episode['query_targets'])
    changed = {
      'query_inputs': each(episode['query_inputs']),
      'query_targets': said,
      'question': each(tf.range(count)),
      'is_correct': tf.cast(correct, tf.int32),
    }
    kept = {
      name: value
      for name, value in episode.items()
      if name not in ('query_options', 'query_references')
    }
    return {**kept, **changed}

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def episode_features(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
  vocabulary: seqio.Vocabulary,
  in_context: bool = False,
  taught: bool = False,
  markers: Markers | None = None,
) -> tf.data.Dataset:
  """Preprocessor: an episode's strings to token features.

  A shot is `[SEP_INPUT] input [SEP_TARGET] target`; a query ends after
  `[SEP_TARGET]`; a definition comes first. Lengths never cut a separator or
  EOS: the definition goes before the shots, which are kept as wholes as far as
  they fit, a long query loses its own first tokens (as in the authors' code),
  and a long target its last.

  Args:
    ds: elements of an `EpisodeSource`.
    sequence_length: seqio's lengths; None cuts nothing.
    vocabulary: of all features.
    in_context: every query is read after the definition and all shots, in the
      model's own input (the in-context baseline).
    taught: a teacher is to read the same, in `teacher_inputs`.
    markers: texts in place of the two separators.

  Returns:
    Elements with `hyper_inputs` (definition, shots, EOS), `inputs` and
    `targets` `[queries, ...]` (targets end in EOS), their texts, `task`, and
    what a metric may need.

  Raises:
    UserError: a length leaves no room for a separator and a token.
  """
  define, sep_input, sep_target = _separators(vocabulary, markers)
  eos = vocabulary.eos_id
  around = len(sep_input) + len(sep_target)
  hyper_room, input_room, target_room = _rooms(sequence_length, around)
  teacher_room = features.length_of(sequence_length, 'teacher_inputs')

  def column(rows: tf.RaggedTensor, tokens: list[int]) -> tf.Tensor:
    return tf.tile(tf.constant([tokens], tf.int32), [rows.nrows(), 1])

  @tf.autograph.experimental.do_not_convert
  def convert(episode: Episode) -> Episode:
    shots = tf.stack([episode['shot_inputs'], episode['shot_targets']], axis=1)
    count, queries = tf.shape(shots)[0], tf.size(episode['query_inputs'])
    # One call of the vocabulary for everything: it is most of the cost.
    tokens = vocabularies.encode(
      vocabulary,
      tf.concat(
        [
          episode['definition'][None],
          tf.reshape(shots, [-1]),
          episode['query_inputs'],
          episode['query_targets'],
        ],
        axis=0,
      ),
    )
    definition, parts, asked, answers = (
      tokens[0],
      tokens[1 : 1 + 2 * count],
      tokens[1 + 2 * count : 1 + 2 * count + queries],
      tokens[1 + 2 * count + queries :],
    )
    if define:
      said = tf.cast(tf.size(definition) > 0, tf.int32)
      mark = tf.constant(define, tf.int32)[: said * len(define)]
      definition = tf.concat([mark, definition], axis=0)
    marks = tf.ragged.constant(
      [sep_input, sep_target], tf.int32, row_splits_dtype=tf.int64
    )
    marks = tf.gather(marks, tf.tile([0, 1], [count]))
    parts = tf.concat([marks, parts], axis=1)
    shots = tf.RaggedTensor.from_row_lengths(
      parts.flat_values,
      tf.reduce_sum(tf.reshape(parts.row_lengths(), [count, 2]), axis=1),
      validate=False,
    )
    if input_room is not None:
      asked = asked[:, -(input_room - around) :]
    asked = tf.concat(
      [column(asked, sep_input), asked, column(asked, sep_target)], axis=1
    )
    if target_room is not None:
      answers = answers[:, : target_room - 1]
    answers = tf.concat([answers, column(answers, [eos])], axis=1)

    def in_full(room: int | None) -> tf.RaggedTensor:
      left = None
      if room is not None:
        left = room - tf.reduce_max(asked.row_lengths())
      context = _context(definition, shots, left)
      return tf.concat([tf.tile(context[None], [queries, 1]), asked], axis=1)

    teacher = {}
    if taught:
      teacher['teacher_inputs'] = in_full(teacher_room).to_tensor()
    if in_context:
      asked = in_full(input_room)
    text = _context(definition, shots, hyper_room)
    return {
      'hyper_inputs': tf.concat([text, [eos]], axis=0),
      'inputs': asked.to_tensor(),
      **teacher,
      'targets': answers.to_tensor(),
      'inputs_pretokenized': episode['query_inputs'],
      'targets_pretokenized': episode['query_targets'],
      **{name: episode[name] for name in _KEPT if name in episode},
    }

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _separators(
  vocabulary: seqio.Vocabulary, markers: Markers | None
) -> tuple[list[int], list[int], list[int]]:
  """Token ids before a definition, an input and a target."""
  if markers is None:
    sep_input, sep_target = vocabularies.separators(vocabulary)
    return [], [sep_input], [sep_target]
  texts = (markers.definition, markers.inputs, markers.targets)
  return tuple(vocabulary.encode(text) for text in texts)


def _rooms(
  lengths: Mapping[str, Any] | None, around: int
) -> tuple[int | None, ...]:
  """Tokens for definition and shots, for a query and for a target."""
  rooms = []
  # EOS; the separators and a token; a token and EOS.
  for name, least in (
    ('hyper_inputs', 1),
    ('inputs', around + 1),
    ('targets', 2),
  ):
    length = features.length_of(lengths, name)
    if lengths and length is not None and length < least:
      raise UserError(
        f'TASK_FEATURE_LENGTHS[{name!r}] = {lengths[name]!r} has no room for '
        f'an example and its separators: give a length of {least} or more.'
      )
    rooms.append(length)
  return (None if rooms[0] is None else rooms[0] - 1, *rooms[1:])


def _context(
  definition: tf.Tensor, shots: tf.RaggedTensor, room: Any
) -> tf.Tensor:
  """The definition, cut only where it does not fit by itself, then shots."""
  if room is None:
    return tf.concat([definition, shots.flat_values], axis=0)
  definition = definition[:room]
  rest = tf.cast(room, tf.int32) - tf.size(definition)
  return tf.concat([definition, _whole_shots(shots, rest)], axis=0)


def _whole_shots(shots: tf.RaggedTensor, room: Any) -> tf.Tensor:
  """The shots, one after the other, as far as they fit as wholes.

  Args:
    shots: `[shots, (tokens)]`.
    room: tokens. A shot that is longer by itself is left out.
  """
  room = tf.cast(room, tf.int64)
  sizes = tf.cast(shots.row_lengths(), tf.int64)
  alone = sizes <= room
  ends = tf.cumsum(tf.where(alone, sizes, 0))
  return tf.ragged.boolean_mask(shots, alone & (ends <= room)).flat_values
