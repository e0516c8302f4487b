"""Few-shot text: episodes as token features.

The only place that lays out an episode's text: training, evaluation, the files
that `hypertuning.infer` answers and `hypertuning.tasks show` all come through
`episode_features`. What stands between the parts is a `TextFormat`'s to say; in
HyperTuning (section 5, multi-task fine-tuning) it is one separator before each
input and one before each target.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from hypertuning.data import features, vocabularies
from hypertuning.data.sampling import Episode
from hypertuning.data.text_format import Ids, TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format

# Rank classification, see `options_as_queries`: the suffix of its tasks' names,
# and the features that it adds to every query.
SCORE_EVAL = '_score_eval'
_RANKING = ('question', 'is_correct')
_KEPT = ('task', 'draw', 'query_references', *_RANKING)
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
  """Preprocessor: makes one query of every option, so that each gets a score.

  All options of a question stay in one episode: they share its shots, and phi
  is generated once.

  Args:
    ds: elements of an `EpisodeSource` of one query, whose rows have options.
    sequence_length: seqio's lengths; None checks nothing.

  Returns:
    Elements with two more features, int32 `[queries]`: `question`, the number
    of the query that an option belongs to, and `is_correct`, 1 where the option
    is the query's target.

  Raises:
    UserError: the rows have no options, or the lengths have no room for all
      options of a question.
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
    # Questions with fewer options than others are filled up with ''.
    is_option = tf.reshape(options != '', [-1])

    def per_option(values: tf.Tensor) -> tf.Tensor:
      return tf.boolean_mask(tf.repeat(values, most, axis=0), is_option)

    answers = tf.boolean_mask(tf.reshape(options, [-1]), is_option)
    correct = answers == per_option(episode['query_targets'])
    changed = {
      'query_inputs': per_option(episode['query_inputs']),
      'query_targets': answers,
      'question': per_option(tf.range(count)),
      'is_correct': tf.cast(correct, tf.int32),
    }
    kept = {
      name: value
      for name, value in episode.items()
      if name not in ('query_options', 'query_references')
    }
    return {**kept, **changed}

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


@takes_text_format
def episode_features(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
  text_format: TextFormat,
  in_context: bool = False,
  taught: bool = False,
) -> tf.data.Dataset:
  """Preprocessor: lays out an episode's strings as token features.

  Where the lengths have no room for everything, no part of the format and no
  end of a text is cut. The definition goes before the examples and loses its
  last tokens; examples are kept or left out as wholes; a long query loses its
  own first tokens (as in the authors' code), and a long target its last.

  Args:
    ds: elements of an `EpisodeSource`.
    sequence_length: seqio's lengths; None cuts nothing.
    text_format: what stands around the parts.
    in_context: whether the downstream model itself reads the definition and all
      examples before every query (the in-context baseline).
    taught: whether to add `teacher_inputs`, in which a teacher reads the same.

  Returns:
    Elements with, in int32, `hyper_inputs` `[tokens]` (definition and
    examples; where its length is `(chunks, length)`, `[chunks, tokens]`, the
    definition in every chunk, as each is encoded by itself), `inputs` and
    `targets` `[queries, tokens]`, `target_sizes` `[queries]`, the number of
    tokens of each target before it is cut, and `left_out`, the number of
    examples that did not fit. Beside them stand the texts of the queries,
    `task`, and what a metric may need.

  Raises:
    UserError: a length leaves no room for the format and one token.
  """
  form = text_format
  hyper_room, input_room, target_room = _rooms(sequence_length, form)
  teacher_room = features.length_of(sequence_length, 'teacher_inputs')
  hyper_length = (sequence_length or {}).get('hyper_inputs')
  chunks = hyper_length[0] if isinstance(hyper_length, (tuple, list)) else None

  @tf.autograph.experimental.do_not_convert
  def convert(episode: Episode) -> Episode:
    definition, shots, queries, answers = _encode(episode, form)
    count = queries.nrows()
    if input_room is not None:
      around = len(form.start) + len(form.inputs) + len(form.targets)
      queries = queries[:, -(input_room - around) :]
    queries = tf.concat(
      [_column(form.inputs, count), queries, _column(form.targets, count)], 1
    )
    sizes = answers.row_lengths() + len(form.target_end)
    if target_room is not None:
      answers = answers[:, : target_room - len(form.target_end)]
    answers = tf.concat([answers, _column(form.target_end, count)], axis=1)

    def in_full(room: int | None) -> tuple[tf.RaggedTensor, tf.Tensor]:
      """All queries with the examples before them, and what was left out."""
      rest = None
      if room is not None:
        longest = tf.reduce_max(queries.row_lengths())
        rest = room - len(form.start) - tf.cast(longest, tf.int32)
      context, left_out = _context(definition, shots, form.between, rest)
      context = tf.tile(context[None], [count, 1])
      return tf.concat([start, context, queries], axis=1), left_out

    def hyper_text(
      shots: tf.RaggedTensor, room: int | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
      """What a hypermodel reads, whole, and how many shots were left out."""
      # The last example has nothing behind it here.
      room = None if room is None else room + len(form.between)
      text, left_out = _context(definition, shots, form.between, room)
      text = text[: tf.maximum(tf.size(text) - len(form.between), 0)]
      begin, end = map(vocabularies.constant, (form.start, form.end))
      return tf.concat([begin, text, end], axis=0), left_out

    start = _column(form.start, count)
    if chunks is None:
      hyper_inputs, left_out = hyper_text(shots, hyper_room)
    else:
      assert hyper_room is not None
      number = _chunk_numbers(
        shots, hyper_room, definition, len(form.between), chunks
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
      **{name: episode[name] for name in _KEPT if name in episode},
    }

  return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _encode(
  episode: Episode, form: TextFormat
) -> tuple[tf.Tensor, tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
  """The tokens of an episode's parts, int32.

  Returns:
    The definition `[tokens]` with what stands before it, empty where the task
    has none; the shots `[shots, (tokens)]`, each complete, with what stands
    between it and the next one; the queries and their targets
    `[queries, (tokens)]`, bare.
  """
  shots = tf.stack([episode['shot_inputs'], episode['shot_targets']], axis=1)
  count = tf.shape(shots)[0]
  texts = [
    episode['definition'][None],
    tf.reshape(shots, [-1]),
    episode['query_inputs'],
    episode['query_targets'],
  ]
  sizes = [tf.size(part) for part in texts]
  # One call of the vocabulary for everything: it is most of the cost.
  joined = tf.strings.join([form.blank, tf.concat(texts, axis=0)])
  tokens = vocabularies.encode(form.vocabulary, joined)
  definition, parts, queries, answers = (
    tokens[end - size : end]
    for size, end in zip(sizes, _running_sum(sizes), strict=True)
  )
  definition = definition[0]
  exists = (episode['definition'] != '') & (tf.size(definition) > 0)
  definition = tf.concat(
    [vocabularies.constant(form.definition), definition], axis=0
  )
  definition = definition[: tf.where(exists, tf.size(definition), 0)]
  # Rows of `parts` are an input, its target, the next input, ...
  order = tf.tile([0, 1], [count])
  before = tf.gather(_ragged(form.inputs, form.targets), order)
  after = tf.gather(_ragged((), form.between), order)
  parts = tf.concat([before, parts, after], axis=1)
  lengths = tf.reduce_sum(tf.reshape(parts.row_lengths(), [count, 2]), axis=1)
  whole = tf.RaggedTensor.from_row_lengths(
    parts.flat_values, lengths, validate=False
  )
  return definition, whole, queries, answers


def _running_sum(sizes: list[tf.Tensor]) -> list[tf.Tensor]:
  return tf.unstack(tf.cumsum(tf.stack(sizes)))


def _column(ids: Ids, rows: tf.Tensor) -> tf.Tensor:
  """The same ids in every row: int32 `[rows, ids]`."""
  return tf.tile(vocabularies.constant(ids)[None], [rows, 1])


def _ragged(*rows: Ids) -> tf.RaggedTensor:
  return tf.ragged.constant(
    [list(row) for row in rows],
    tf.int32,
    ragged_rank=1,
    row_splits_dtype=tf.int64,
  )


def _rooms(
  lengths: Mapping[str, Any] | None, form: TextFormat
) -> tuple[int | None, int | None, int | None]:
  """Tokens for definition and shots, for a query's input, and for a target.

  The second and the third include the format's own ids, the first does not.
  """
  around_hyper = len(form.start) + len(form.end)
  least_needed = {
    'hyper_inputs': around_hyper,
    'inputs': len(form.start) + len(form.inputs) + len(form.targets) + 1,
    'targets': len(form.target_end) + 1,
  }
  rooms = []
  for name, least in least_needed.items():
    length = features.length_of(lengths, name)
    if lengths and length is not None and length < least:
      raise UserError(
        f'TASK_FEATURE_LENGTHS[{name!r}] = {lengths[name]!r} has no room for '
        f'an example and its separators: give a length of {least} or more.'
      )
    rooms.append(length)
  hyper, inputs, targets = rooms
  return None if hyper is None else hyper - around_hyper, inputs, targets


def _context(
  definition: tf.Tensor, shots: tf.RaggedTensor, between: Ids, room: Any
) -> tuple[tf.Tensor, tf.Tensor]:
  """The definition, then the shots that fit, each with `between` behind it.

  Args:
    definition: int32 `[tokens]`, cut where it does not fit by itself.
    shots: int32 `[shots, (tokens)]`, each with `between` behind it.
    between: ids between two examples.
    room: number of tokens, or None.

  Returns:
    int32 `[tokens]`, and the number of shots left out, int32 `[]`.
  """
  if room is not None:
    definition = definition[: tf.maximum(room - len(between), 0)]
  behind = vocabularies.constant(between)[
    : tf.minimum(tf.size(definition), 1) * len(between)
  ]
  definition = tf.concat([definition, behind], axis=0)
  if room is None:
    kept = shots
  else:
    rest = tf.cast(room, tf.int32) - tf.size(definition)
    kept = _whole_shots(shots, rest)
  left_out = tf.cast(shots.nrows() - kept.nrows(), tf.int32)
  return tf.concat([definition, kept.flat_values], axis=0), left_out


def _whole_shots(shots: tf.RaggedTensor, room: Any) -> tf.RaggedTensor:
  """The shots, in their order, as far as they fit as wholes.

  Args:
    shots: `[shots, (tokens)]`.
    room: number of tokens. A shot that is longer than that by itself is left
      out without ending the row of those that fit.
  """
  room = tf.cast(room, tf.int64)
  sizes = tf.cast(shots.row_lengths(), tf.int64)
  alone = sizes <= room
  ends = tf.cumsum(tf.where(alone, sizes, 0))
  return tf.ragged.boolean_mask(shots, alone & (ends <= room))


def _chunk_numbers(
  shots: tf.RaggedTensor,
  room: int,
  definition: tf.Tensor,
  between: int,
  chunks: int,
) -> tf.Tensor:
  """The chunk that each shot goes to, in their order, as wholes.

  Args:
    shots: `[shots, (tokens)]`, each with what stands between it and the next.
    room: number of tokens of a chunk for the definition and its shots.
    definition: int32 `[tokens]`; it stands in every chunk.
    between: number of ids between two examples.
    chunks: number of chunks.

  Returns:
    int32 `[shots]`; `chunks` for shots that are left out: they are too long for
    any chunk, or come when all chunks are full.
  """
  sizes = tf.cast(shots.row_lengths(), tf.int32)
  taken = tf.minimum(tf.size(definition), room)
  # The last shot of a chunk has nothing behind it.
  rest = room + between - tf.where(taken > 0, taken + between, 0)

  def place(
    state: tuple[tf.Tensor, tf.Tensor, tf.Tensor], size: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    chunk, used, _ = state
    fits = size <= rest
    is_next = fits & (used + size > rest)
    chunk = tf.minimum(chunk + tf.cast(is_next, tf.int32), chunks)
    used = tf.where(is_next, 0, used) + tf.where(fits, size, 0)
    return chunk, used, tf.where(fits, chunk, chunks)

  zero = tf.constant(0)
  return tf.scan(place, sizes, (zero, zero, zero))[2]
