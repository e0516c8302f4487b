"""Vocabularies of bytes and of SentencePiece, as seqio has them.

Ids and texts are those of seqio's classes of the same names, but nothing here
needs seqio or TensorFlow; `seqio_vocabularies.to_seqio` gives seqio's.
"""

import functools
from collections.abc import Sequence
from typing import Any

import sentencepiece as sentencepiece_lib
from etils import epath
from sentencepiece import sentencepiece_model_pb2

from hypertuning.data import text_format
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError, one_line
from hypertuning.padding import PAD_ID
from hypertuning.ranges import Natural, Path

# A character that no model has a piece for: it is for private use.
_RARE = '\U000f0000'
_BYTES = 256
_proto: Any = sentencepiece_model_pb2  # made while it runs, without types


class ByteVocabulary:
  """A `text_format.Vocabulary` of the bytes of UTF-8, as ByT5 has it.

  Id 0 is padding, 1 is EOS and 2 is unused. Then follow the bytes, and at last
  the sentinels.
  """

  _EOS_ID = 1
  _FIRST_BYTE = 3

  def __init__(self, extra_ids: Natural = 0) -> None:
    """Makes a vocabulary.

    Args:
      extra_ids: number of sentinels.
    """
    self._extra_ids = extra_ids

  @property
  def size(self) -> int:
    """Number of ids, including the extra ids."""
    return self._FIRST_BYTE + _BYTES + self._extra_ids

  @property
  def extra_ids(self) -> int:
    """Number of sentinels, which are the last ids of the vocabulary."""
    return self._extra_ids

  @property
  def eos_id(self) -> int:
    """The id that ends a text."""
    return self._EOS_ID

  @property
  def pad_id(self) -> int:
    """The id that fills up a row: 0."""
    return PAD_ID

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without EOS."""
    return [byte + self._FIRST_BYTE for byte in text.encode()]

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids, up to EOS; what is not UTF-8 is left out."""
    places = [i - self._FIRST_BYTE for i in _until(self._EOS_ID, ids)]
    text = bytes(place for place in places if 0 <= place < _BYTES)
    return text.decode(errors='ignore')

  def __eq__(self, other: object) -> bool:
    """Whether ids mean the same in both."""
    if not isinstance(other, ByteVocabulary):
      return NotImplemented
    return self._extra_ids == other._extra_ids

  def __hash__(self) -> int:
    """A hash that a seqio vocabulary with the same ids has too."""
    return hash(self._extra_ids)

  def __str__(self) -> str:
    """The vocabulary as an error message names it."""
    return f'a ByteVocabulary of {self.size} ids'


class SentencePieceVocabulary:
  """A `text_format.Vocabulary` that a SentencePiece model describes.

  The sentinels are pieces behind the model's own, the first one last. Two of
  these vocabularies are equal if ids mean the same in both, even if they were
  read from different files.

  Attributes:
    path: path of the SentencePiece model.
    model: the model with the sentinels, as it is serialized.
  """

  def __init__(self, path: Path, extra_ids: Natural = 0) -> None:
    """Reads a model.

    Args:
      path: path of the SentencePiece model.
      extra_ids: number of sentinels.

    Raises:
      Exception: the file cannot be read, or is no SentencePiece model; of any
        kind, as each library raises its own.
    """
    self.path = path
    self._extra_ids = extra_ids
    self.model, self._processor = _load(path, extra_ids)

  @property
  def size(self) -> int:
    """Number of ids, including the extra ids."""
    return self._processor.GetPieceSize()

  @property
  def extra_ids(self) -> int:
    """Number of sentinels, which are the last ids of the vocabulary."""
    return self._extra_ids

  @property
  def eos_id(self) -> int:
    """The id that ends a text."""
    return self._processor.eos_id()

  @property
  def pad_id(self) -> int:
    """The id that fills up a row: 0."""
    return PAD_ID

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without EOS."""
    return self._processor.EncodeAsIds(text)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids, up to EOS; an id without a piece is unknown."""
    unknown, size = self._processor.unk_id(), self.size
    known = [i if i < size else unknown for i in _until(self.eos_id, ids)]
    return self._processor.DecodeIds(known)

  def __eq__(self, other: object) -> bool:
    """Whether ids mean the same in both."""
    if not isinstance(other, SentencePieceVocabulary):
      return NotImplemented
    return self.model == other.model  # which includes the sentinels

  def __hash__(self) -> int:
    """A hash that a seqio vocabulary with the same ids has too."""
    return hash(self._extra_ids)

  def __str__(self) -> str:
    """The vocabulary as an error message names it."""
    return f'a SentencePieceVocabulary of {self.size} ids ({self.path})'


def byte_vocabulary(extra_ids: Natural = 100) -> ByteVocabulary:
  """The vocabulary of bytes and sentinels, which needs no file.

  Args:
    extra_ids: number of sentinels; with 100 of them it has 359 ids.
  """
  return ByteVocabulary(extra_ids)


def byte_format() -> TextFormat:
  """T5's format over bytes, for tasks that are registered without a format."""
  return text_format.t5_format(byte_vocabulary())


def sentencepiece(
  path: Path, extra_ids: Natural = 100
) -> SentencePieceVocabulary:
  """A SentencePiece vocabulary, with T5's 100 sentinels or without.

  Args:
    path: path of a SentencePiece model, such as T5's, which gives 32,100 ids.
    extra_ids: number of sentinels behind the model's own pieces; 0 for Llama 2,
      whose 32,000 ids are the model's.

  Raises:
    UserError: there is no such file, it is something else, or texts with
      unknown characters would lose them.
  """
  try:
    if not epath.Path(path).exists():
      raise UserError(f'{path}: no such SentencePiece model.')
    vocabulary = SentencePieceVocabulary(path, extra_ids)
  except UserError:
    raise
  except Exception as error:  # the library of each kind of bucket has its own
    raise UserError(
      f'{path}: not a SentencePiece model, or a damaged one '
      f'({one_line(error)}).'
    ) from error
  if vocabulary.size <= extra_ids:
    raise UserError(f'{path}: this SentencePiece model has no pieces.')
  # Llama 2's unknown piece has id 0 too, but its bytes are pieces as well.
  if PAD_ID in vocabulary.encode(_RARE):
    raise UserError(
      f'{path}: its unknown piece has id 0, which is padding here: train it '
      'with pad_id=0, or with byte_fallback.'
    )
  return vocabulary


# gin makes a vocabulary anew for each binding that refers to it.
@functools.cache
def _load(
  path: str, extra_ids: int
) -> tuple[bytes, sentencepiece_lib.SentencePieceProcessor]:
  """A SentencePiece model with sentinels, serialized and as a processor."""
  proto = _proto.ModelProto.FromString(epath.Path(path).read_bytes())
  kind = _proto.ModelProto.SentencePiece.USER_DEFINED
  for i in reversed(range(extra_ids)):
    proto.pieces.add(piece=f'▁<extra_id_{i}>', score=0.0, type=kind)
  model = proto.SerializeToString()
  processor = sentencepiece_lib.SentencePieceProcessor()
  processor.LoadFromSerializedProto(model)
  return model, processor


def _until(eos_id: int, ids: Sequence[int]) -> list[int]:
  """Ids up to the first EOS, which is kept."""
  own_ids = [int(i) for i in ids]
  if eos_id in own_ids:
    return own_ids[: own_ids.index(eos_id) + 1]
  return own_ids
