"""Few-shot text: episodes as token features.

Training, evaluation and `hypertuning.tasks show` all use `episode_features`;
`layout` does the same without TensorFlow, for `hypertuning.infer`. A
`TextFormat` says which ids stand between the parts of a text. In HyperTuning
(section 5, multi-task fine-tuning), one separator stands before each input, and
another before each target.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from hypertuning.data import fitting, packed_ids, seqio_vocabularies
from hypertuning.data import lengths as lengths_lib
from hypertuning.data.packed_ids import beside
from hypertuning.data.sampling import Episode
from hypertuning.data.text_format import Ids, TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format

# Rank classification (see `options_as_queries`) has this suffix in the names of
# its tasks, and adds these features to every query.
SCORE_EVAL = '_score_eval'
_RANKING = ('question', 'is_correct')
# Features that `episode_features` passes on unchanged, for metrics.
_EXTRA_FEATURES = ('task', 'draw', 'query_references', *_RANKING)
# The features of `episode_features` that have one row per query.
OF_QUERIES = (
  'inputs',
  'teacher_inputs',
  'targets',
  'inputs_pretokenized',
  'targets_pretokenized',
  'query_references',
  'target_sizes',
  *_RANKING,
)


def __getattr__(name: str) -> Any:
  if name == 'Markers':
    raise UserError(
      'fewshot.Markers is text_format.markers_format now: bind text_format = '
      '@text_format.markers_format() in place of `vocabulary` and `markers`.'
    )
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def options_as_queries(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
) -> tf.data.Dataset:
  """Preprocessor that turns every option into a query, to be scored.

  All options of a question stay in one episode, so that they share its shots,
  and phi is generated only once.

  Args:
    ds: elements of an `EpisodeSource` with one query per episode, whose rows
      have options.
    sequence_length: TASK_FEATURE_LENGTHS, as seqio passes them on; None skips
      the check that all options fit.

  Returns:
    Elements with two more features, int32 `[queries]`. `question` is the number
    of the original query that the option answers. `is_correct` is 1 where the
    option is the target of that query, and 0 elsewhere.

  Raises:
    UserError: the rows have no options, or TASK_FEATURE_LENGTHS has no room for
      all options of a question.
  """
  if 'query_options' not in ds.element_spec:
    raise UserError('Rank classification needs tasks with options; none has.')
  most_options = ds.element_spec['query_options'].shape[1]
  room = (sequence_length or {}).get('inputs')
  if room and room[0] < most_options:
    raise UserError(
      f"TASK_FEATURE_LENGTHS['inputs'] = {room!r} has room for {room[0]} "
      f'queries, but a question has up to {most_options} options: give '
      f"({most_options}, {room[1]}), and {most_options} for 'targets' as well."
    )

  @tf.autograph.experimental.do_not_convert
  def convert(episode: Episode) -> Episode:
    options = episode['query_options']
    count, most = tf.unstack(tf.shape(options))
    # A question with fewer options than others is padded with empty strings.
    is_option = tf.reshape(options != '', [-1])

    def per_option(values: tf.Tensor) -> tf.Tensor:
      return tf.boolean_mask(tf.repeat(values, most, axis=0), is_option)

    targets = tf.boolean_mask(tf.reshape(options, [-1]), is_option)
    correct = targets == per_option(episode['query_targets'])
    option_features = {
      'query_inputs': per_option(episode['query_inputs']),
      'query_targets': targets,
      'question': per_option(tf.range(count)),
      'is_correct': tf.cast(correct, tf.int32),
    }
    if beside('query_options') in episode:
      inputs, answers = map(beside, ('query_inputs', 'query_targets'))
      packed = tf.reshape(episode[beside('query_options')], [-1])
      option_features |= {
        inputs: per_option(episode[inputs]),
        answers: tf.boolean_mask(packed, is_option),
      }
    dropped = ('query_options', beside('query_options'), 'query_references')
    other_features = {
      name: value for name, value in episode.items() if name not in dropped
    }
    return {**other_features, **option_features}

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


@takes_text_format
def episode_features(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
  text_format: TextFormat,
  in_context: bool = False,
  taught: bool = False,
) -> tf.data.Dataset:
  """Preprocessor that lays out an episode's strings as token features.

  Some texts may be longer than TASK_FEATURE_LENGTHS. The ids of the format are
  never cut away. A long definition loses its last tokens. An example is shown
  whole or left out. A long query loses its first tokens, as in the authors'
  code, and a long target its last tokens.

  Args:
    ds: elements of an `EpisodeSource`.
    sequence_length: TASK_FEATURE_LENGTHS, as seqio passes them on; None cuts
      nothing.
    text_format: format that gives the ids around each part of a text.
    in_context: whether the downstream model itself reads the definition and all
      examples before every query (the in-context baseline).
    taught: whether to add the feature `teacher_inputs`, in which a teacher
      reads the definition and all examples before every query.

  Returns:
    Elements with these int32 features:

    * `hyper_inputs` `[tokens]`, the definition and the examples. If the length
      of the feature is `(chunks, length)`, it is `[chunks, tokens]`: every
      chunk has whole examples, and repeats the definition, because chunks are
      encoded independently.
    * `inputs` and `targets` `[queries, tokens]`.
    * `teacher_inputs` `[queries, tokens]`, if `taught` is set.
    * `target_sizes` int32 `[queries]`, the number of tokens of each target
      before it is cut.
    * `left_out` `[]`, the number of examples that did not fit.

    They also have the texts of the queries (`inputs_pretokenized` and
    `targets_pretokenized`, strings `[queries]`), and the features of the source
    that metrics need.

  Raises:
    UserError: TASK_FEATURE_LENGTHS leaves no room for the ids of the format and
      one token of text.
  """
  form = text_format
  hyper_room, input_room, target_room = lengths_lib.rooms(sequence_length, form)
  teacher_room = lengths_lib.length_of(sequence_length, 'teacher_inputs')
  hyper_length = (sequence_length or {}).get('hyper_inputs')
  chunks = hyper_length[0] if isinstance(hyper_length, (tuple, list)) else None

  # Mapped as it is: t5x cannot save the place in a pipeline that calls another
  # `tf.function`, even a shared one that would be traced once for all tasks.
  @tf.autograph.experimental.do_not_convert
  def convert(episode: Episode) -> Episode:
    definition, shots, queries, answers = _encode(episode, form)
    count = queries.nrows()
    if input_room is not None:
      frame_size = len(form.start) + len(form.inputs) + len(form.targets)
      queries = queries[:, -(input_room - frame_size) :]
    queries = tf.concat(
      [_column(form.inputs, count), queries, _column(form.targets, count)], 1
    )
    sizes = answers.row_lengths() + len(form.target_end)
    if target_room is not None:
      answers = answers[:, : target_room - len(form.target_end)]
    answers = tf.concat([answers, _column(form.target_end, count)], axis=1)

    def in_full(room: int | None) -> tuple[tf.RaggedTensor, tf.Tensor]:
      """All queries, with the definition and the examples before each of them.

      Returns:
        int32 `[queries, (tokens)]`, and the number of shots left out.
      """
      rest = None
      if room is not None:
        longest = tf.reduce_max(queries.row_lengths())
        rest = room - len(form.start) - tf.cast(longest, tf.int32)
      context, left_out = fitting.context(
        definition, shots, form, rest, before_query=True
      )
      context = tf.tile(context[None], [count, 1])
      return tf.concat([start, context, queries], axis=1), left_out

    def hyper_text(
      shots: tf.RaggedTensor, room: int | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
      """The text of a hypermodel, and the number of shots left out."""
      text, left_out = fitting.context(
        definition, shots, form, room, before_query=False
      )
      begin, end = map(seqio_vocabularies.constant, (form.start, form.end))
      return tf.concat([begin, text, end], axis=0), left_out

    start = _column(form.start, count)
    if chunks is None:
      hyper_inputs, left_out = hyper_text(shots, hyper_room)
    else:
      assert hyper_room is not None
      number = fitting.chunk_numbers(
        shots, hyper_room, definition, form, chunks
      )
      left_out = tf.reduce_sum(tf.cast(number == chunks, tf.int32))
      hyper_inputs = tf.ragged.stack(
        [
          hyper_text(tf.ragged.boolean_mask(shots, number == i), hyper_room)[0]
          for i in range(chunks)
        ]
      ).to_tensor()
    more = {}
    if taught:
      more['teacher_inputs'] = in_full(teacher_room)[0].to_tensor()
    if in_context:
      inputs, left_out = in_full(input_room)
    else:
      inputs = tf.concat([start, queries], axis=1)
    return {
      'hyper_inputs': hyper_inputs,
      'inputs': inputs.to_tensor(),
      'targets': answers.to_tensor(),
      **more,
      'left_out': left_out,
      'target_sizes': tf.cast(sizes, tf.int32),
      'inputs_pretokenized': episode['query_inputs'],
      'targets_pretokenized': episode['query_targets'],
      **{name: episode[name] for name in _EXTRA_FEATURES if name in episode},
    }

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _encode(
  episode: Episode, form: TextFormat
) -> tuple[tf.Tensor, tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
  """The tokens of an episode's parts, int32.

  Returns:
    The definition `[tokens]`, after the ids that the format puts before it;
    empty if the task has no definition. The shots `[shots, (tokens)]`, each
    with all ids of the format, including the separator before the next shot.
    The queries and the targets, both `[queries, (tokens)]`, without any ids of
    the format.
  """
  is_packed = beside('definition') in episode
  parts_of_texts = {
    'definition': 'definition',
    'shot_inputs': 'inputs',
    'shot_targets': 'targets',
    'query_inputs': 'inputs',
    'query_targets': 'targets',
  }
  strings = {
    name: episode[beside(name)]
    if is_packed
    else tf.strings.join([form.blank_before(part), episode[name]])
    for name, part in parts_of_texts.items()
  }
  shots = tf.stack([strings['shot_inputs'], strings['shot_targets']], axis=1)
  count = tf.shape(shots)[0]
  texts = [
    strings['definition'][None],
    tf.reshape(shots, [-1]),
    strings['query_inputs'],
    strings['query_targets'],
  ]
  sizes = [tf.size(part) for part in texts]
  # The vocabulary is called once, on all texts together, as the calls are most
  # of the cost.
  all_texts = tf.concat(texts, axis=0)
  if is_packed:
    tokens = packed_ids.unpack(all_texts)
  else:
    tokens = seqio_vocabularies.encode(form.vocabulary, all_texts)
  definition, parts, queries, answers = (
    tokens[end - size : end]
    for size, end in zip(sizes, _running_sum(sizes), strict=True)
  )
  definition = definition[0]
  exists = (episode['definition'] != '') & (tf.size(definition) > 0)
  definition = tf.concat(
    [seqio_vocabularies.constant(form.definition), definition], axis=0
  )
  definition = definition[: tf.where(exists, tf.size(definition), 0)]
  # The rows of `parts` are an input, its target, the next input, and so on.
  order = tf.tile([0, 1], [count])
  ids_before = tf.gather(_ragged(form.inputs, form.targets), order)
  ids_after = tf.gather(_ragged((), form.between), order)
  parts = tf.concat([ids_before, parts, ids_after], axis=1)
  lengths = tf.reduce_sum(tf.reshape(parts.row_lengths(), [count, 2]), axis=1)
  whole = tf.RaggedTensor.from_row_lengths(
    parts.flat_values, lengths, validate=False
  )
  return definition, whole, queries, answers


def _running_sum(sizes: list[tf.Tensor]) -> list[tf.Tensor]:
  return tf.unstack(tf.cumsum(tf.stack(sizes)))


def _column(ids: Ids, rows: tf.Tensor) -> tf.Tensor:
  """The same ids in every row: int32 `[rows, ids]`."""
  return tf.tile(seqio_vocabularies.constant(ids)[None], [rows, 1])


def _ragged(*rows: Ids) -> tf.RaggedTensor:
  return tf.ragged.constant(
    [list(row) for row in rows],
    tf.int32,
    ragged_rank=1,
    row_splits_dtype=tf.int64,
  )
