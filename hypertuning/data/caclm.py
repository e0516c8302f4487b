"""CACLM: a text in four parts; predict C from B, with phi from A and D.

HyperTuning, section 4 (hyperpretraining). How the published model draws the
lengths of the parts is not known; the laws here are this project's choice.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import features, vocabularies
from hypertuning.data.features import TextFeature
from hypertuning.data.text_format import Vocabulary
from hypertuning.errors import UserError

Lengths = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class SegmentLengths:
  """Length laws of the four consecutive parts of a window, in tokens.

  |C| and |B| are uniform in their ranges, each with a seed of its own; what
  remains of the window is cut in A and D at a uniform place.

  Attributes:
    window: greatest number of tokens of a window.
    b: least and greatest |B|, inclusive.
    c: least and greatest |C|, inclusive.
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
    """The shortest text that gives an example: |A| + |D| is at least 1."""
    return self.b[0] + self.c[0] + 1


def encode_text(
  ds: tf.data.Dataset, vocabulary: Vocabulary, key: str = 'text'
) -> tf.data.Dataset:
  """Preprocessor: `key` from a string to int32 ids, without EOS."""
  return ds.map(
    lambda example: {
      key: vocabularies.encode(vocabulary, example[key][None])[0]
    },
    num_parallel_calls=tf.data.AUTOTUNE,
  )


def windows(
  ds: tf.data.Dataset, key: str, lengths: SegmentLengths
) -> tf.data.Dataset:
  """Tiles every text with as few windows as will do, of about equal lengths.

  No token is lost: only a text, or windows of it, below `lengths.shortest` give
  no example.

  Args:
    ds: elements with `key`, int32 `[n]`.
    key: of the token ids.
    lengths: the length laws.

  Returns:
    int32 `[at most lengths.window]` elements.
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
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
  """Cuts `[n]` tokens in A, B, C, D; their concatenation is the input.

  Args:
    tokens: at least `lengths.shortest` of them.
    seeds: `[3 or more, 2]`; the first three draw |C|, |B| and |A|.
    lengths: the length laws; the upper ends shrink where the text is short.
    has_last: whether there is a D; A is all that stands before B if not.

  Returns:
    A, B, C and D, int32. |C| >= `lengths.c[0]`, |A| + |D| >= 1.
  """
  size = tf.size(tokens)
  room = size - 1 - lengths.b[0]
  c = _uniform(seeds[0], lengths.c[0], tf.minimum(lengths.c[1], room))
  b = _uniform(seeds[1], lengths.b[0], tf.minimum(lengths.b[1], size - 1 - c))
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
  """Preprocessor: token ids of texts to hyperpretraining episodes.

  In 4 parts, A B C D, this is CACLM. HINT (arXiv 2212.10315) has two others: in
  3 parts, A B C, the hypermodel reads what stands before alone; in 6 parts,
  A B C D E F, it reads A, C and F, the model reads B and D and predicts E.

  Args:
    ds: elements with `key`, int32 `[n]`.
    sequence_length: seqio's lengths.
    output_features: features of `features.output_features`; their format gives
      the ids around the text.
    lengths: the length laws.
    joiner: id between A and D, so that the hypermodel sees where the text that
      it does not read was; by default what stands before an input.
    key: of the token ids.
    parts: 3, 4 or 6.

  Returns:
    In 4 parts and T5's format: `hyper_inputs` = A joiner D EOS, `inputs` = B
    `[1, |B|]`, `targets` = C EOS `[1, |C| + 1]`.

  Raises:
    UserError: `sequence_length` would cut a feature, or another number of
      parts.
  """
  if parts not in (3, 4, 6):
    raise UserError(f'caclm.parts = {parts}: give 3, 4 or 6.')
  form = output_features['hyper_inputs'].text_format
  join = form.inputs if joiner is None else (joiner,)
  start, joint, end, target_end = map(
    vocabularies.constant, (form.start, join, form.end, form.target_end)
  )
  # A window without the shortest B and C, the joiners, and what is around it.
  around = (
    len(form.start) + len(form.end) + {3: 0, 4: 1, 6: 2}[parts] * len(join)
  )
  _check_room(
    sequence_length,
    hyper_inputs=lengths.window - lengths.shortest + 1 + around,
    inputs=len(form.start) + lengths.b[1] + len(join) * (parts == 6),
    targets=lengths.c[1] + len(form.target_end),
  )

  def convert(tokens: tf.Tensor, seeds: tf.Tensor) -> dict[str, tf.Tensor]:
    a, b, c, d = split_segments(tokens, seeds, lengths, has_last=parts != 3)
    if parts == 6:
      # A's end goes between the two parts of B.
      a, between = _cut(a, seeds[3])
      first, _ = _cut(b, seeds[4])
      order = [tf.size(first), tf.size(between), tf.size(b) - tf.size(first)]
      first, between, last = tf.split(tf.concat([between, b], 0), order)
      a = tf.concat([a, joint, between], axis=0)
      b = tf.concat([first, joint, last], axis=0)
    if parts != 3:
      a = tf.concat([a, joint, d], axis=0)
    return {
      'hyper_inputs': tf.concat([start, a, end], axis=0),
      'inputs': tf.concat([start, b], axis=0)[None],
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
  """Preprocessor: the same cuts for a model without phi, to pretrain it.

  This is T5's LM adaptation. The input is B and what stands before it, from a
  uniformly drawn place in A on, so that B alone is met as well.

  Args:
    ds: elements with `key`, int32 `[n]`.
    sequence_length: seqio's lengths.
    output_features: features of `features.output_features`; their format gives
      the ids around the text.
    lengths: the length laws.
    queries: windows that share an example, so that a batch mixed with episodes
      of as many queries has no padded ones.
    key: of the token ids.

  Returns:
    `inputs` = end of A, B and `targets` = C EOS `[queries, ...]`;
    `hyper_inputs` holds EOS alone.

  Raises:
    UserError: `sequence_length` would cut a feature.
  """
  form = output_features['targets'].text_format
  start, around, target_end = map(
    vocabularies.constant, (form.start, form.start + form.end, form.target_end)
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

  cut = seqio.map_over_dataset(convert, num_seeds=4)(windows(ds, key, lengths))
  return cut.padded_batch(queries).map(
    lambda example: {'hyper_inputs': around, **example}
  )


def _cut(tokens: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Two parts, cut at a uniform place; either can be empty."""
  place = _uniform(seed, 0, tf.size(tokens))
  return tokens[:place], tokens[place:]


def _uniform(seed: tf.Tensor, low: Any, high: Any) -> tf.Tensor:
  """An int32 in `low..high`, both inclusive."""
  return tf.random.stateless_uniform([], seed, low, high + 1, dtype=tf.int32)


def _check_room(lengths: Lengths | None, **needed: int) -> None:
  chunks = (lengths or {}).get('hyper_inputs')
  if isinstance(chunks, (tuple, list)):
    raise UserError(
      f"TASK_FEATURE_LENGTHS['hyper_inputs'] = {chunks!r}: a text is not "
      'divided in chunks of examples; give one number.'
    )
  for name, need in needed.items():
    length = features.length_of(lengths, name)
    if lengths and length is not None and length < need:
      raise UserError(
        f'TASK_FEATURE_LENGTHS[{name!r}] = {lengths[name]!r} would cut the '
        f'segments that SegmentLengths draws: it needs a length of {need}.'
      )
