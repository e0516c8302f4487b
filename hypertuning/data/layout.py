"""Lays out the texts of one episode as token features, in numpy.

`fewshot` and `features` do the same for datasets, in TensorFlow, whose graph
t5x saves its place in. What both give is the same, id by id.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from hypertuning.data import lengths as lengths_lib
from hypertuning.data.lengths import Lengths
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.padding import is_real

_Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Texts:
  """The texts of one episode.

  Attributes:
    shots: examples that are shown, as pairs of input and target.
    queries: inputs that are asked, one or more.
    targets: one target per query.
    definition: text that says what the task is; it may be empty.
  """

  shots: Sequence[tuple[str, str]]
  queries: Sequence[str]
  targets: Sequence[str]
  definition: str = ''


def task_features(
  texts: Texts,
  lengths: Lengths,
  form: TextFormat,
  in_context: bool = False,
  taught: bool = False,
) -> dict[str, np.ndarray]:
  """The token features of an episode, see `fewshot.episode_features`.

  Args:
    texts: texts of the episode.
    lengths: value of TASK_FEATURE_LENGTHS, with the lengths of all features.
    form: format that gives the ids around each part of a text.
    in_context: whether the downstream model itself reads the definition and all
      examples before every query.
    taught: whether to add the feature `teacher_inputs`.

  Returns:
    `hyper_inputs` `[tokens]` or `[chunks, tokens]`, `inputs` and `targets`
    `[queries, tokens]`, `teacher_inputs` `[queries, tokens]` if `taught` is
    set, `target_sizes` `[queries]` and `left_out` `[]`, all int32, with 0 as
    padding.

  Raises:
    UserError: TASK_FEATURE_LENGTHS leaves no room for the ids of the format and
      one token of text.
  """
  hyper_room, input_room, target_room = lengths_lib.rooms(lengths, form)
  assert hyper_room is not None and input_room is not None
  assert target_room is not None
  definition = _definition(texts.definition, form)
  shots = _shots(texts.shots, form)
  start = list(form.start)
  query_room = input_room - len(form.start + form.inputs + form.targets)
  queries = [
    [*form.inputs, *form.encode(text, 'inputs')[-query_room:], *form.targets]
    for text in texts.queries
  ]
  answers = [form.encode(text, 'targets') for text in texts.targets]
  end = list(form.target_end)

  def in_full(room: int) -> tuple[list[_Ids], int]:
    rest = room - len(start) - max(map(len, queries))
    context, left_out = _context(definition, shots, form, rest, True)
    return [start + context + query for query in queries], left_out

  def hyper_text(some_shots: list[_Ids]) -> tuple[_Ids, int]:
    text, left_out = _context(definition, some_shots, form, hyper_room, False)
    return [*start, *text, *form.end], left_out

  hyper_length = lengths['hyper_inputs']
  if isinstance(hyper_length, (tuple, list)):
    chunks = hyper_length[0]
    numbers = _chunk_numbers(shots, hyper_room, definition, form, chunks)
    left_out = numbers.count(chunks)
    hyper_inputs = _padded(
      [
        hyper_text([x for x, n in zip(shots, numbers, strict=True) if n == i])[
          0
        ]
        for i in range(chunks)
      ]
    )
  else:
    text, left_out = hyper_text(shots)
    hyper_inputs = np.array(text, np.int32)
  features = {'hyper_inputs': hyper_inputs}
  if taught:
    teacher_room = lengths_lib.length_of(lengths, 'teacher_inputs')
    assert teacher_room is not None
    features['teacher_inputs'] = _padded(in_full(teacher_room)[0])
  if in_context:
    inputs, left_out = in_full(input_room)
  else:
    inputs = [start + query for query in queries]
  return features | {
    'inputs': _padded(inputs),
    'targets': _padded([x[: target_room - len(end)] + end for x in answers]),
    'target_sizes': np.array([len(x + end) for x in answers], np.int32),
    'left_out': np.array(left_out, np.int32),
  }


def chunks_needed(
  shots: Sequence[tuple[str, str]], definition: str, room: int, form: TextFormat
) -> int:
  """The number of texts of a hypermodel into which all examples fit.

  Args:
    shots: examples, as pairs of input and target.
    definition: text that says what the task is, which each text begins with.
    room: number of tokens per text.
    form: format that gives the ids around each part of a text.

  Raises:
    UserError: an example does not even fit alone; names it.
  """
  inside = room - len(form.start) - len(form.end)
  ids, most = _shots(shots, form), len(shots)
  numbers = _chunk_numbers(
    ids, inside, _definition(definition, form), form, most
  )
  if most in numbers:
    number = numbers.index(most)
    raise UserError(
      f'examples: number {number + 1} has {len(ids[number])} tokens, but the '
      f'hypermodel reads texts of {room} tokens'
      + (', the definition included.' if definition else '.')
    )
  return max(numbers, default=0) + 1


def model_features(
  features: Mapping[str, np.ndarray], lengths: Lengths, taught: bool = False
) -> dict[str, np.ndarray]:
  """The features that the model reads, see `features.EpisodeFeatureConverter`.

  Args:
    features: result of `task_features`.
    lengths: value of TASK_FEATURE_LENGTHS.
    taught: whether a teacher reads as well.

  Returns:
    int32 arrays of the shapes that `lengths.of_model` gives, cut and padded.

  Raises:
    UserError: see `lengths.check`.
  """
  shapes = lengths_lib.of_model(lengths, taught)
  targets = _fitted(features['targets'], shapes['target_tokens'])
  found = {
    'hyper_tokens': _fitted(features['hyper_inputs'], shapes['hyper_tokens']),
    'input_tokens': _fitted(features['inputs'], shapes['input_tokens']),
    'target_tokens': targets,
    'target_weights': is_real(targets).astype(np.int32),
  }
  if taught:
    found['teacher_tokens'] = _fitted(
      features['teacher_inputs'], shapes['teacher_tokens']
    )
  return found


def _shots(shots: Sequence[tuple[str, str]], form: TextFormat) -> list[_Ids]:
  """The ids of every example, with those around it and behind it."""
  return [
    [
      *(*form.inputs, *form.encode(inputs, 'inputs')),
      *(*form.targets, *form.encode(targets, 'targets'), *form.between),
    ]
    for inputs, targets in shots
  ]


def _definition(text: str, form: TextFormat) -> _Ids:
  """The ids of a definition after those of the format; [] without a text."""
  ids = form.encode(text, 'definition') if text else []
  return [*form.definition, *ids] if ids else []


def _context(
  definition: _Ids,
  shots: list[_Ids],
  form: TextFormat,
  room: int,
  before_query: bool,
) -> tuple[_Ids, int]:
  """The definition and the shots that fit, see `fitting.context`."""
  separator = list(form.definition_separator)
  definition = definition[: max(room - len(separator) * before_query, 0)]
  begin = [*definition, *separator] if definition else []
  # The separator behind the last shot needs no room if it is not kept.
  rest = room - len(begin) + (0 if before_query else len(form.between))
  shots_that_fit = _whole_shots(shots, rest)
  text = begin + [token for shot in shots_that_fit for token in shot]
  if not before_query:
    last = form.between if shots_that_fit else separator * bool(definition)
    text = text[: len(text) - len(last)]
  return text, len(shots) - len(shots_that_fit)


def _whole_shots(shots: list[_Ids], room: int) -> list[_Ids]:
  """The first shots that fit, each of them whole, see `fitting.whole_shots`."""
  kept, end = [], 0
  for shot in shots:
    if len(shot) <= room:
      end += len(shot)
      kept += [shot] if end <= room else []
  return kept


def _chunk_numbers(
  shots: list[_Ids],
  room: int,
  definition: _Ids,
  form: TextFormat,
  chunks: int,
) -> list[int]:
  """The chunk of each shot, or `chunks`, see `fitting.chunk_numbers`."""
  lead = min(len(definition), room)
  rest = room + len(form.between)
  rest -= lead + len(form.definition_separator) if lead else 0
  numbers, chunk, used_tokens = [], 0, 0
  for shot in shots:
    if len(shot) > rest:
      numbers.append(chunks)
      continue
    if used_tokens + len(shot) > rest:
      chunk, used_tokens = min(chunk + 1, chunks), 0
    used_tokens += len(shot)
    numbers.append(chunk)
  return numbers


def _padded(rows: Sequence[_Ids]) -> np.ndarray:
  """Rows of ids as one array, int32 `[rows, longest]`."""
  array = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for i, row in enumerate(rows):
    array[i, : len(row)] = row
  return array


def _fitted(array: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
  """An array that is cut and padded to a shape of as many axes."""
  shape = tuple(size) if isinstance(size, (tuple, list)) else (size,)
  fitted = np.zeros(shape, np.int32)
  inside = tuple(map(slice, map(min, array.shape, shape)))
  fitted[inside] = array[inside]
  return fitted
