"""Symbol tuning (Wei et al., 2023): arbitrary symbols in place of labels.

The labels of an episode are replaced by symbols, which are the same in its
shots, queries and options. Only the shots then show what a symbol stands for.
"""

import random
from collections.abc import Sequence

import seqio
import tensorflow as tf

from hypertuning.data import packed_ids
from hypertuning.data.packed_ids import beside
from hypertuning.data.sampling import Episode
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError

# Features that hold labels.
_LABELS = ('shot_targets', 'query_targets', 'query_options')


def relabel(
  ds: tf.data.Dataset,
  labels: Sequence[str],
  text_format: TextFormat | None = None,
) -> tf.data.Dataset:
  """Preprocessor that draws symbols for an episode, and replaces its labels.

  Different labels become different symbols. The definition becomes empty, as
  definitions name the labels.

  Args:
    ds: elements of an `EpisodeSource`.
    labels: symbols to draw from, at least as many as an episode has labels.
    text_format: format of the text, for elements that have the ids of their
      texts; None for those that have none.

  Returns:
    The same elements, with symbols in place of targets and options, and without
    `query_references`.

  Raises:
    UserError: a symbol occurs twice in `labels`.
  """
  if len(set(labels)) != len(labels):
    raise UserError('Symbols must all be different.')
  table = tf.constant(list(labels))
  ids: list[bytes] = []
  if packed_ids.are_needed(text_format):
    ids = [*map(packed_ids.packer(text_format, 'targets'), labels)]
  id_table = tf.constant(ids, tf.string)

  def convert(episode: Episode, seed: tf.Tensor) -> Episode:
    # Each label, in the order in which it occurs, gets the next drawn symbol.
    # As symbols come in random order, they say nothing about the shots.
    names = [
      tf.reshape(episode[name], [-1]) for name in _LABELS if name in episode
    ]
    own_labels = tf.unique(tf.concat(names, axis=0)).y
    own_labels = tf.boolean_mask(own_labels, own_labels != '')
    keys = tf.random.stateless_uniform([len(labels)], seed)
    new_labels = tf.argsort(keys)[: tf.size(own_labels)]
    tf.debugging.assert_equal(
      tf.size(new_labels),
      tf.size(own_labels),
      f'An episode has more labels than the {len(labels)} symbols.',
    )

    def replace(values: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
      flat = tf.reshape(values, [-1])
      same = flat[:, None] == own_labels[None]
      symbol = tf.gather(new_labels, tf.argmax(tf.cast(same, tf.int32), axis=1))
      flat = tf.where(flat == '', '', tf.gather(table, symbol))
      return tf.ensure_shape(tf.reshape(flat, tf.shape(values)), values.shape)

    changed = {'definition': tf.constant('')}
    for name in _LABELS:
      if name in episode:
        changed[name] = replace(episode[name], table)
      if beside(name) in episode:
        changed[beside(name)] = replace(episode[name], id_table)
    if beside('definition') in episode:
      changed[beside('definition')] = tf.constant('')
    features = {k: v for k, v in episode.items() if k != 'query_references'}
    return {**features, **changed}

  return seqio.map_over_dataset(convert, num_seeds=1)(ds)


def symbol_labels(
  count: int = 3000, held_out: bool = False, words: Sequence[str] = ()
) -> list[str]:
  """Symbols as Wei et al. draw them: whole numbers, letter strings and words.

  Args:
    count: number of symbols, divided equally among the kinds. There are fewer
      if `words` is short.
    held_out: whether to return the symbols for evaluation, none of which is
      used in training.
    words: words that are used as symbols, a fourth of them for evaluation only.
      Without words, there are two kinds of symbols.
  """
  count_per_kind = count // (3 if words else 2)
  low, high = (10_000, 100_000) if held_out else (0, 10_000)
  rng = random.Random(int(held_out))
  numbers = rng.sample(range(low, high), count_per_kind)
  letters = rng.sample(range(low + 1, high + 1), count_per_kind)
  shuffled = random.Random(0).sample(sorted(set(words)), len(set(words)))
  first = len(shuffled) // 4
  own = shuffled[:first] if held_out else shuffled[first:]
  numbers_and_letters = [str(n) for n in numbers] + [
    _letters(n) for n in letters
  ]
  # A word may equal a string of letters; such a symbol must not occur twice.
  return list(dict.fromkeys([*numbers_and_letters, *own[:count_per_kind]]))


def _letters(number: int) -> str:
  """Names a number like the column of a spreadsheet: 1 is A, 27 is AA."""
  text = ''
  while number:
    number, rest = divmod(number - 1, 26)
    text = chr(ord('A') + rest) + text
  return text
