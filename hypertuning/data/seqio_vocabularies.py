"""Seqio's vocabularies: in our protocol, and from our own vocabularies.

Here, too, many texts are encoded at once in TensorFlow.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data import text_format
from hypertuning.data.text_format import Vocabulary
from hypertuning.data.vocabularies import (
  ByteVocabulary,
  SentencePieceVocabulary,
)

# TensorFlow only reads data here; it must not reserve the memory of a GPU. Once
# a task is registered, it is too late to say so, and whoever registers one has
# imported this module.
tf.config.set_visible_devices([], 'GPU')


class SeqioVocabulary:
  """A `Vocabulary` that wraps a seqio vocabulary.

  It equals other vocabularies, wrapped or our own, if ids mean the same in
  both, even if they were read from different files.

  Attributes:
    wrapped: the seqio vocabulary.
  """

  def __init__(self, vocabulary: seqio.Vocabulary) -> None:
    """Wraps a vocabulary."""
    self.wrapped = vocabulary

  @property
  def size(self) -> int:
    """Number of ids, including the extra ids."""
    return self.wrapped.vocab_size

  @property
  def extra_ids(self) -> int:
    """Number of sentinels, which are the last ids of the vocabulary."""
    return self.wrapped.extra_ids

  @property
  def eos_id(self) -> int:
    """The id that ends a text."""
    return self.wrapped.eos_id

  @property
  def pad_id(self) -> int:
    """The id that fills up a row."""
    return self.wrapped.pad_id

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without EOS."""
    return list(self.wrapped.encode(text))

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids, up to EOS."""
    return self.wrapped.decode(list(ids))

  def __eq__(self, other: object) -> bool:
    """Whether ids mean the same in both."""
    if not isinstance(
      other, SeqioVocabulary | ByteVocabulary | SentencePieceVocabulary
    ):
      return NotImplemented
    return are_same(self.wrapped, to_seqio(other))

  def __hash__(self) -> int:
    """A hash of what equal vocabularies share, without reading a file."""
    return hash(self.extra_ids)

  def __str__(self) -> str:
    """The vocabulary as an error message names it."""
    kind = type(self.wrapped).__name__
    file = getattr(self.wrapped, 'sentencepiece_model_file', '')
    return f'a {kind} of {self.size} ids{file and f" ({file})"}'


class PythonVocabulary(seqio.Vocabulary):
  """A seqio vocabulary that wraps a `Vocabulary`, and encodes in Python.

  t5x cannot save its place in a tf.data pipeline that runs Python.
  """

  def __init__(self, vocabulary: Vocabulary) -> None:
    """Wraps a vocabulary that seqio does not know."""
    super().__init__(extra_ids=vocabulary.extra_ids)
    self.wrapped = vocabulary

  @property
  def eos_id(self) -> int:
    """The id that ends a text."""
    return self.wrapped.eos_id

  @property
  def unk_id(self) -> None:
    """None, as every id stands for a text of its own."""
    return None

  @property
  def _base_vocab_size(self) -> int:
    return self.wrapped.size - self.wrapped.extra_ids

  def _encode(self, s: str) -> list[int]:
    return self.wrapped.encode(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return self.wrapped.decode(list(ids))

  def _encode_tf(self, s: tf.Tensor) -> tf.RaggedTensor:
    """Token ids, int32 `[n, (tokens)]`, of texts, strings `[n]`."""

    def encode_all(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
      rows = [self.wrapped.encode(text.decode()) for text in texts]
      flat = [token for row in rows for token in row]
      sizes = [len(row) for row in rows]
      return np.array(flat, np.int32), np.array(sizes, np.int64)

    flat, sizes = tf.numpy_function(encode_all, [s], [tf.int32, tf.int64])
    flat, sizes = (tf.ensure_shape(x, [None]) for x in (flat, sizes))
    return tf.RaggedTensor.from_row_lengths(flat, sizes, validate=False)

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    raise NotImplementedError('Answers are decoded outside of TensorFlow.')

  def __eq__(self, other: object) -> bool:
    """Whether both wrap the same vocabulary."""
    return isinstance(other, PythonVocabulary) and self.wrapped == other.wrapped

  def __hash__(self) -> int:
    """The hash of the wrapped vocabulary."""
    return hash(self.wrapped)


def to_seqio(vocabulary: Vocabulary) -> seqio.Vocabulary:
  """A vocabulary in the form that seqio's features need.

  Bytes and SentencePiece become seqio's own classes, which encode in
  TensorFlow.
  """
  if isinstance(vocabulary, SeqioVocabulary):
    return vocabulary.wrapped
  if isinstance(vocabulary, ByteVocabulary):
    return seqio.ByteVocabulary(extra_ids=vocabulary.extra_ids)
  if isinstance(vocabulary, SentencePieceVocabulary):
    return seqio.SentencePieceVocabulary(
      vocabulary.path, extra_ids=vocabulary.extra_ids
    )
  return PythonVocabulary(vocabulary)


def from_seqio(vocabulary: seqio.Vocabulary) -> Vocabulary:
  """The vocabulary of a seqio feature as a `Vocabulary`."""
  if isinstance(vocabulary, PythonVocabulary):
    return vocabulary.wrapped
  return SeqioVocabulary(vocabulary)


def runs_python(vocabulary: Vocabulary) -> bool:
  """Whether a vocabulary has no TensorFlow operation, and encodes in Python."""
  return isinstance(to_seqio(vocabulary), PythonVocabulary)


def are_same(one: seqio.Vocabulary, other: seqio.Vocabulary) -> bool:
  """Whether ids mean the same in both, whichever files they were read from."""
  pieces = seqio.SentencePieceVocabulary
  if isinstance(one, pieces) and isinstance(other, pieces):
    return one.sp_model == other.sp_model  # the model includes the sentinels
  return one == other


def constant(ids: Sequence[int]) -> tf.Tensor:
  """A part of a format as a tensor, int32 `[ids]`; it may be empty."""
  return tf.constant(ids, tf.int32, [len(ids)])


def encode(vocabulary: Any, texts: tf.Tensor) -> tf.RaggedTensor:
  """Token ids of many texts at once, without EOS.

  Args:
    vocabulary: a `Vocabulary` or a seqio vocabulary.
    texts: texts to encode, strings `[n]`.

  Returns:
    Token ids, int32 `[n, (tokens)]`.
  """
  inner = to_seqio(text_format.as_vocabulary(vocabulary))
  if isinstance(inner, seqio.ByteVocabulary):
    # Its encode_tf takes a single string. The texts are joined, encoded, and
    # divided again: every byte is one id.
    flat = inner.encode_tf(tf.strings.reduce_join(texts))
    lengths = tf.cast(tf.strings.length(texts), tf.int64)
    return tf.RaggedTensor.from_row_lengths(flat, lengths, validate=False)
  return tf.cast(inner.encode_tf(texts), tf.int32)
