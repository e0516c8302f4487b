"""Vocabularies, and the separators of few-shot text.

The separators are T5's last two sentinels, as in the authors' code: ids 32000
and 32001 of T5's vocabulary.
"""

import functools
from collections.abc import Iterable

import seqio
import tensorflow as tf

from hypertuning.errors import UserError

_SEP_INPUT, _SEP_TARGET = 99, 98  # <extra_id_99> and <extra_id_98>


@functools.cache
def byte_vocabulary() -> seqio.ByteVocabulary:
  """Bytes plus 100 sentinels: 359 ids and no file to fetch."""
  return seqio.ByteVocabulary(extra_ids=100)


def sentencepiece(path: str) -> seqio.SentencePieceVocabulary:
  """A SentencePiece model with T5's 100 sentinels: 32,100 ids for T5's own.

  Raises:
    UserError: there is no such file.
  """
  if not tf.io.gfile.exists(path):
    raise UserError(f'{path}: no such SentencePiece model.')
  return seqio.SentencePieceVocabulary(path, extra_ids=100)


def are_same(one: seqio.Vocabulary, other: seqio.Vocabulary) -> bool:
  """Whether ids mean the same in both, wherever their files are."""
  pieces = seqio.SentencePieceVocabulary
  if isinstance(one, pieces) and isinstance(other, pieces):
    return one.sp_model == other.sp_model  # it has the sentinels too
  return one == other


def told(vocabulary: seqio.Vocabulary) -> str:
  """A vocabulary as a message names it."""
  kind = type(vocabulary).__name__
  file = getattr(vocabulary, 'sentencepiece_model_file', '')
  return f'a {kind} of {vocabulary.vocab_size} ids{file and f" ({file})"}'


def sentinel(vocabulary: seqio.Vocabulary, n: int) -> int:
  """The id of `<extra_id_n>`: sentinels count down from the end.

  Raises:
    UserError: the vocabulary has no such sentinel.
  """
  if not 0 <= n < vocabulary.extra_ids:
    raise UserError(
      f'The vocabulary has {vocabulary.extra_ids} extra ids and no '
      f'<extra_id_{n}>: build it with extra_ids=100.'
    )
  return vocabulary.vocab_size - 1 - n


def separators(vocabulary: seqio.Vocabulary) -> tuple[int, int]:
  """Ids of SEP_INPUT, before every input, and SEP_TARGET, before its target.

  Raises:
    UserError: the vocabulary has fewer than 100 extra ids.
  """
  return sentinel(vocabulary, _SEP_INPUT), sentinel(vocabulary, _SEP_TARGET)


def encode(vocabulary: seqio.Vocabulary, texts: tf.Tensor) -> tf.RaggedTensor:
  """Token ids of many texts at once, without EOS.

  Args:
    vocabulary: of the ids.
    texts: strings `[n]`.

  Returns:
    int32 `[n, (tokens)]`.
  """
  if isinstance(vocabulary, seqio.ByteVocabulary):
    # Its encode_tf takes one string: encode them joined, then cut.
    flat = vocabulary.encode_tf(tf.strings.reduce_join(texts))
    lengths = tf.cast(tf.strings.length(texts), tf.int64)
    return tf.RaggedTensor.from_row_lengths(flat, lengths, validate=False)
  return tf.cast(vocabulary.encode_tf(texts), tf.int32)


def readable(vocabulary: seqio.Vocabulary, tokens: Iterable[int]) -> str:
  """Text of token ids with separators and EOS written out; padding is not."""
  sep_input, sep_target = separators(vocabulary)
  marks = {sep_input: '<input>', sep_target: '<target>'}
  marks[vocabulary.eos_id] = '</s>'
  parts: list[str] = []
  text: list[int] = []
  for token in [*map(int, tokens), 0]:
    if token in marks or token == 0:
      parts += [vocabulary.decode(text)] if text else []
      parts += [marks[token]] if token in marks else []
      text = []
    else:
      text.append(token)
  return ' '.join(parts)
