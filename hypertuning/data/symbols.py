"""Symbol tuning (Wei et al., 2023): labels that mean nothing by themselves.

The labels of an episode are replaced by arbitrary symbols, the same in its
shots, queries and options, so that only the shots tell what they stand for.
"""

import random
from collections.abc import Sequence

import seqio
import tensorflow as tf

from hypertuning.data.sampling import Episode
from hypertuning.errors import UserError

# Features that hold labels.
_LABELS = ('shot_targets', 'query_targets', 'query_options')


def relabel(ds: tf.data.Dataset, labels: Sequence[str]) -> tf.data.Dataset:
  """Preprocessor: replaces an episode's labels by symbols drawn for it.

  Different labels become different symbols. The definition becomes empty, as
  definitions name the labels.

  Args:
    ds: elements of an `EpisodeSource`.
    labels: symbols to draw from; at least as many as an episode has labels.

  Returns:
    The same elements with symbols for targets and options.

  Raises:
    UserError: a symbol occurs twice.
  """
  if len(set(labels)) != len(labels):
    raise UserError('Symbols must all be different.')
  table = tf.constant(list(labels))

  def convert(episode: Episode, seed: tf.Tensor) -> Episode:
    # Drawn in the order of the names, which tells nothing about the shots.
    names = [
      tf.reshape(episode[name], [-1]) for name in _LABELS if name in episode
    ]
    known = tf.unique(tf.concat(names, axis=0)).y
    known = tf.boolean_mask(known, known != '')
    keys = tf.random.stateless_uniform([len(labels)], seed)
    drawn = tf.gather(table, tf.argsort(keys)[: tf.size(known)])
    tf.debugging.assert_equal(
      tf.size(drawn),
      tf.size(known),
      f'An episode has more labels than the {len(labels)} symbols.',
    )

    def replace(values: tf.Tensor) -> tf.Tensor:
      flat = tf.reshape(values, [-1])
      same = flat[:, None] == known[None]
      symbol = tf.gather(drawn, tf.argmax(tf.cast(same, tf.int32), axis=1))
      flat = tf.where(flat == '', '', symbol)
      return tf.ensure_shape(tf.reshape(flat, tf.shape(values)), values.shape)

    kept = {k: v for k, v in episode.items() if k != 'query_references'}
    changed = {k: replace(v) for k, v in kept.items() if k in _LABELS}
    return {**kept, **changed, 'definition': tf.constant('')}

  return seqio.map_over_dataset(convert, num_seeds=1)(ds)


def symbol_labels(
  count: int = 3000, held_out: bool = False, words: Sequence[str] = ()
) -> list[str]:
  """Symbols as Wei et al. draw them: whole numbers, letter strings and words.

  Args:
    count: number of symbols, the same number of each kind, but no more words
      than there are.
    held_out: whether to return the symbols for evaluation, of which none is
      used in training.
    words: words to use as symbols, a fourth of them for evaluation only;
      without any there are two kinds.
  """
  each = count // (3 if words else 2)
  low, high = (10_000, 100_000) if held_out else (0, 10_000)
  rng = random.Random(int(held_out))
  numbers = rng.sample(range(low, high), each)
  letters = rng.sample(range(low + 1, high + 1), each)
  shuffled = random.Random(0).sample(sorted(set(words)), len(set(words)))
  first = len(shuffled) // 4
  own = shuffled[:first] if held_out else shuffled[first:]
  found = [str(n) for n in numbers] + [_letters(n) for n in letters]
  # A word may be spelled as a string of letters.
  return list(dict.fromkeys([*found, *own[:each]]))


def _letters(number: int) -> str:
  """1 to A, 26 to Z, 27 to AA, as columns of a spreadsheet."""
  text = ''
  while number:
    number, rest = divmod(number - 1, 26)
    text = chr(ord('A') + rest) + text
  return text
