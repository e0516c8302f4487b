"""CACLM: a text is cut into A, B, C and D; C follows B, and phi reads A and D.

HyperTuning, section 4 (hyperpretraining). It is not known how the published
model draws the lengths of the parts; the distributions here are this project's
choice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import lengths as lengths_lib
from hypertuning.data import seqio_vocabularies
from hypertuning.data.features import TextFeature
from hypertuning.data.text_format import Vocabulary
from hypertuning.errors import UserError

Lengths = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SegmentLengths:
  """Distributions of the lengths of a window's four parts, in tokens.

  The lengths of C and B are uniform in their ranges, and independent. The rest
  of the window is divided between A and D at a uniformly drawn place.

  Attributes:
    window: greatest number of tokens in a window.
    b: least and greatest length of B, inclusive.
    c: least and greatest length of C, inclusive.
  """

  window: int = 512
  b: tuple[int, int] = (64, 256)
  c: tuple[int, int] = (32, 128)

  def __post_init__(self) -> None:
    for name, (low, high) in (('b', self.b), ('c', self.c)):
      if not 1 <= low <= high:
        raise UserError(
          f'SegmentLengths.{name} = {(low, high)}: give (least, greatest) with '
          '1 <= least <= greatest.'
        )
    if self.window < self.shortest:
      raise UserError(
        f'SegmentLengths.window = {self.window} has no room for A or D: give '
        f'at least b[0] + c[0] + 1 = {self.shortest}.'
      )

  @property
  def shortest(self) -> int:
    """The length of the shortest text that gives an example.

    It leaves one token for A and D together.
    """
    return self.b[0] + self.c[0] + 1


def encode_text(
  ds: tf.data.Dataset, vocabulary: Vocabulary, key: str = 'text'
) -> tf.data.Dataset:
  """Preprocessor that replaces a text by its token ids, without EOS.

  Args:
    ds: elements whose feature `key` is a text, a string `[]`.
    vocabulary: vocabulary that encodes the texts.
    key: name of the feature.

  Returns:
    The same elements, whose feature `key` is int32 `[tokens]`.
  """
  return ds.map(
    lambda example: {
      key: seqio_vocabularies.encode(vocabulary, example[key][None])[0]
    },
    num_parallel_calls=tf.data.AUTOTUNE,
  )


def windows(
  ds: tf.data.Dataset, key: str, lengths: SegmentLengths
) -> tf.data.Dataset:
  """Divides every text into as few windows as possible, of about equal lengths.

  Every token is in one window. Windows that are shorter than `lengths.shortest`
  are dropped.

  Args:
    ds: elements whose feature `key` is int32 `[tokens]`.
    key: name of the feature that has the token ids.
    lengths: distributions of the lengths of the parts.

  Returns:
    Windows, int32 `[at most lengths.window]`.
  """

  def tile(example: dict[str, tf.Tensor]) -> tf.data.Dataset:
    tokens = example[key]
    size = tf.size(tokens, tf.int64)
    count = -(-size // lengths.window)
    numbers = tf.data.Dataset.range(count)
    return numbers.map(
      lambda i: tokens[i * size // count : (i + 1) * size // count]
    )

  tiled = ds.flat_map(tile)
  return tiled.filter(lambda tokens: tf.size(tokens) >= lengths.shortest)


def split_segments(
  tokens: tf.Tensor,
  seeds: tf.Tensor,
  lengths: SegmentLengths,
  has_last: bool = True,
  has_input: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Cuts a window into A, B, C and D; their concatenation is the window.

  Args:
    tokens: token ids of the window, int32 `[n]`, at least `lengths.shortest`.
    seeds: seeds `[3 or more, 2]`. The first three draw the lengths of C, B and
      A, in this order.
    lengths: distributions of the lengths; the upper ends of the ranges shrink
      if the window is short.
    has_last: whether there is a part D. If not, A is all of the text before B.
    has_input: whether there is a part B. If not, it is empty.

  Returns:
    A, B, C and D, int32. C has at least `lengths.c[0]` tokens; A and D have at
    least one token together.
  """
  size = tf.size(tokens)
  room = size - 1 - lengths.b[0]
  c = _uniform(seeds[0], lengths.c[0], tf.minimum(lengths.c[1], room))
  b = _uniform(seeds[1], lengths.b[0], tf.minimum(lengths.b[1], size - 1 - c))
  b = b if has_input else tf.constant(0)
  a = size - b - c
  if has_last:
    a = _uniform(seeds[2], 0, a)
  return tuple(tf.split(tokens, [a, b, c, size - a - b - c], num=4))


def caclm(
  ds: tf.data.Dataset,
  sequence_length: Lengths | None,
  output_features: Mapping[str, TextFeature],
  lengths: SegmentLengths,
  joiner: int | None = None,
  key: str = 'text',
  parts: int = 4,
) -> tf.data.Dataset:
  """Preprocessor that turns token ids of texts into hyperpretraining episodes.

  With 4 parts, A B C D, this is CACLM: the hypermodel reads A and D, and the
  downstream model reads B and predicts C. With 2 parts, A C, the hypermodel
  compresses A, and the downstream model predicts C from the ids alone that
  begin a text. HINT (arXiv 2212.10315) has two other forms. With 3 parts,
  A B C, the hypermodel reads only the text before B. With 6 parts, A B C D E F,
  it reads A, C and F, and the downstream model reads B and D and predicts E.

  Args:
    ds: elements whose feature `key` is int32 `[tokens]`.
    sequence_length: TASK_FEATURE_LENGTHS, as seqio passes them on.
    output_features: features made by `features.output_features`; their format
      gives the ids around the text.
    lengths: distributions of the lengths of the parts.
    joiner: id between A and D, which shows the hypermodel where text is left
      out; by default, the ids that the format puts before an input, or between
      two examples if there are none.
    key: name of the feature that has the token ids.
    parts: number of parts of a window: 2, 3, 4 or 6. With 2, the range of B is
      not used.

  Returns:
    Elements with int32 features. With 4 parts and T5's format, `hyper_inputs`
    is A joiner D EOS, `[tokens]`; `inputs` is B, `[1, tokens]`; and `targets`
    is C EOS, `[1, tokens]`.

  Raises:
    UserError: `sequence_length` would cut a feature, or `parts` is another
      number.
  """
  if parts not in (2, 3, 4, 6):
    raise UserError(f'caclm.parts = {parts}: give 2, 3, 4 or 6.')
  form = output_features['hyper_inputs'].text_format
  join = form.inputs or form.between if joiner is None else (joiner,)
  # An encoder has nothing to attend to in an empty input.
  begin = form.start if parts != 2 else form.start or form.end
  start, begin_input, joint, end, target_end = map(
    seqio_vocabularies.constant,
    (form.start, begin, join, form.end, form.target_end),
  )
  # Number of ids in the hypermodel's text that are not from the window.
  frame_size = (
    len(form.start) + len(form.end) + {4: 1, 6: 2}.get(parts, 0) * len(join)
  )
  most_input = lengths.b[1] if parts != 2 else 0
  least_input = lengths.b[0] if parts != 2 else 0
  _check_room(
    sequence_length,
    hyper_inputs=lengths.window - least_input - lengths.c[0] + frame_size,
    inputs=len(begin) + most_input + len(join) * (parts == 6),
    targets=lengths.c[1] + len(form.target_end),
  )

  def convert(tokens: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
    a, b, c, d = split_segments(
      tokens, seeds, lengths, has_last=parts > 3, has_input=parts > 2
    )
    if parts == 6:
      # The end of A and all of B are one stretch of text, which is divided anew
      # into B, C and D. C gets the length of the end of A.
      a, middle = _split_in_two(a, seeds[3])
      first, _ = _split_in_two(b, seeds[4])
      order = [tf.size(first), tf.size(middle), tf.size(b) - tf.size(first)]
      first, middle, last = tf.split(tf.concat([middle, b], 0), order)
      a = tf.concat([a, joint, middle], axis=0)
      b = tf.concat([first, joint, last], axis=0)
    if parts > 3:
      a = tf.concat([a, joint, d], axis=0)
    return {
      'hyper_inputs': tf.concat([start, a, end], axis=0),
      'inputs': tf.concat([begin_input, b], axis=0)[None],
      'targets': tf.concat([c, target_end], axis=0)[None],
    }

  return seqio.map_over_dataset(convert, num_seeds=5)(windows(ds, key, lengths))


def prefix_lm(
  ds: tf.data.Dataset,
  sequence_length: Lengths | None,
  output_features: Mapping[str, TextFeature],
  lengths: SegmentLengths,
  queries: int = 1,
  key: str = 'text',
) -> tf.data.Dataset:
  """Preprocessor that cuts texts in the same way, to pretrain without phi.

  This is T5's LM adaptation: a model predicts C from the text before it. That
  text begins at a uniformly drawn place in A, or at the start of B, so that the
  model learns to read a B alone as well.

  Args:
    ds: elements whose feature `key` is int32 `[tokens]`.
    sequence_length: TASK_FEATURE_LENGTHS, as seqio passes them on.
    output_features: features made by `features.output_features`; their format
      gives the ids around the text.
    lengths: distributions of the lengths of the parts.
    queries: number of windows per example. If texts are mixed with episodes
      that have as many queries, no query of a batch is padding.
    key: name of the feature that has the token ids.

  Returns:
    Elements with int32 features: `inputs` `[queries, tokens]`, the end of A and
    B; `targets` `[queries, tokens]`, C and EOS; and `hyper_inputs`, which holds
    only the ids that the format has in an empty text.

  Raises:
    UserError: `sequence_length` would cut a feature.
  """
  form = output_features['targets'].text_format
  start, empty_text, target_end = map(
    seqio_vocabularies.constant,
    (form.start, form.start + form.end, form.target_end),
  )
  _check_room(
    sequence_length,
    hyper_inputs=len(form.start) + len(form.end),
    inputs=len(form.start) + lengths.window - lengths.c[0],
    targets=lengths.c[1] + len(form.target_end),
  )

  def convert(tokens: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
    a, b, c, _ = split_segments(tokens, seeds, lengths)
    first = _uniform(seeds[3], 0, tf.size(a))
    return {
      'inputs': tf.concat([start, a[first:], b], axis=0),
      'targets': tf.concat([c, target_end], axis=0),
    }

  examples = seqio.map_over_dataset(convert, num_seeds=4)(
    windows(ds, key, lengths)
  )
  return examples.padded_batch(queries).map(
    lambda example: {'hyper_inputs': empty_text, **example}
  )


def _split_in_two(
  tokens: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
  """Cuts tokens at a uniformly drawn place; either part can be empty."""
  position = _uniform(seed, 0, tf.size(tokens))
  return tokens[:position], tokens[position:]


def _uniform(seed: tf.Tensor, low: Any, high: Any) -> tf.Tensor:
  """Draws a number from `low` to `high`, both inclusive, int32 `[]`."""
  return tf.random.stateless_uniform([], seed, low, high + 1, dtype=tf.int32)


def _check_room(lengths: Lengths | None, **least_lengths: int) -> None:
  chunks = (lengths or {}).get('hyper_inputs')
  if isinstance(chunks, (tuple, list)):
    raise UserError(
      f"TASK_FEATURE_LENGTHS['hyper_inputs'] = {chunks!r}: a text is not "
      'divided in chunks of examples; give one number.'
    )
  for name, least in least_lengths.items():
    length = lengths_lib.length_of(lengths, name)
    if lengths and length is not None and length < least:
      raise UserError(
        f'TASK_FEATURE_LENGTHS[{name!r}] = {lengths[name]!r} would cut the '
        f'segments that SegmentLengths draws: it needs a length of {least}.'
      )
