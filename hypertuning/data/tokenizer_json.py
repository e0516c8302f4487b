"""Byte-level BPE of a `tokenizer.json`, such as SmolLM2's or Llama 3's.

VOCABULARY = @tokenizer_json.TokenizerJson()
tokenizer_json.TokenizerJson.path = '/path/to/tokenizer.json'
tokenizer_json.TokenizerJson.eos = '<|im_end|>'
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tokenizers

from hypertuning import text_files
from hypertuning.errors import UserError, one_line
from hypertuning.padding import PAD_ID
from hypertuning.ranges import Name, Path

_BYTE_LEVEL = 'ByteLevel'
# Special tokens that no model has learned to use.
_UNUSED = re.compile('reserved|unused|pad', re.IGNORECASE)


class TokenizerJson:
  """A `text_format.Vocabulary` that a `tokenizer.json` describes.

  Texts have the ids that Hugging Face's library gives, with two exceptions. No
  text becomes a special token: a literal `<|im_end|>` in a row is ordinary
  text. And id 0 is padding: if it is an ordinary token in the file, as `!` is
  in Llama 3's, it changes places with an unused id, see `swapped_ids`.

  A file may have no token for a byte that its authors never saw, such as some
  control characters in SmolLM2's. As in Hugging Face's library, such a byte has
  no id.

  Attributes:
    path: path of the file.
  """

  def __init__(self, path: Path, eos: Name) -> None:
    """Reads a file.

    Args:
      path: path of a `tokenizer.json`.
      eos: the token that ends a text, as the file names it.

    Raises:
      UserError: there is no such file, it is damaged or of another kind, or it
        has no token `eos`.
    """
    self.path = path
    text = text_files.read_text(path, 'no such file; bind VOCABULARY_FILE.')
    try:
      config = text_files.parse_object(text)
      if fault := _fault(config):
        raise UserError(f'{path}: {fault}.')
      tokenizer = tokenizers.Tokenizer.from_str(text)
    except UserError:
      raise
    except Exception as error:  # the library raises nothing more special
      raise UserError(
        f'{path}: not a tokenizer.json, or a damaged one ({one_line(error)}).'
      ) from error
    # What a file says about batches and about training is not for us.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.model.dropout = None
    tokenizer.encode_special_tokens = True  # as ordinary text
    self._tokenizer = tokenizer
    ids = tokenizer.get_vocab(with_added_tokens=True)
    special_ids = {
      token.content: i
      for i, token in tokenizer.get_added_tokens_decoder().items()
      if token.special
    }
    if eos not in ids:
      raise UserError(
        f'{path}: no token {eos!r}, which tokenizer_json.TokenizerJson.eos '
        f'names; its special tokens are {", ".join([*special_ids][:8])}.'
      )
    self._size = max(ids.values()) + 1
    self._swapped_ids = None
    if PAD_ID not in special_ids.values() or ids[eos] == PAD_ID:
      unused_ids = [
        i
        for name, i in special_ids.items()
        if _UNUSED.search(name) and i not in (PAD_ID, ids[eos])
      ]
      self._swapped_ids = (PAD_ID, max(unused_ids, default=self._size))
      self._size = max(self._size, self._swapped_ids[1] + 1)
    self._eos_id = self._swap([ids[eos]])[0]
    self._digest = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()

  @property
  def size(self) -> int:
    """Number of ids, special ones included."""
    return self._size

  @property
  def extra_ids(self) -> int:
    """0: such files have no sentinels."""
    return 0

  @property
  def eos_id(self) -> int:
    """The id that ends a text."""
    return self._eos_id

  @property
  def pad_id(self) -> int:
    """The id that fills up a row: 0."""
    return PAD_ID

  @property
  def swapped_ids(self) -> tuple[int, int] | None:
    """The two ids that changed places, or None.

    Whoever converts the weights of a model must exchange these two rows of its
    embedding, and of its head if that is another table. The second id can be
    one more than the ids of the file: the table then needs a row more first.
    """
    return self._swapped_ids

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without any special ids."""
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    return self._swap(encoding.ids)

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids; special tokens have none."""
    return self._tokenizer.decode(self._swap(list(ids)))

  def _swap(self, ids: list[int]) -> list[int]:
    """Ids of the file as ours, or ours as those of the file."""
    if self._swapped_ids is None:
      return ids
    one, other = self._swapped_ids
    places = {one: other, other: one}
    return [places.get(i, i) for i in ids]

  def __eq__(self, other: object) -> bool:
    """Whether ids mean the same in both."""
    if not isinstance(other, TokenizerJson):
      return NotImplemented
    return (self._digest, self._eos_id) == (other._digest, other._eos_id)

  def __hash__(self) -> int:
    """A hash of what the file says."""
    return hash((self._digest, self._eos_id))

  def __str__(self) -> str:
    """The vocabulary as an error message names it."""
    return f'a tokenizer.json of {self.size} ids ({self.path})'


def _fault(config: dict[str, Any]) -> str:
  """Why a file is no byte-level BPE; '' if it is one."""
  model = config.get('model')
  if not isinstance(model, dict):
    return 'not a tokenizer.json: it has no "model"'
  kind = model.get('type', 'BPE' if 'merges' in model else 'unknown')
  if kind != 'BPE':
    return f'a tokenizer.json of {kind}, but only byte-level BPE is read'
  steps = (config.get('pre_tokenizer'), config.get('normalizer'))
  if model.get('byte_fallback') or _BYTE_LEVEL not in _kinds(steps):
    return (
      'a tokenizer.json of BPE over characters, but only byte-level BPE is '
      'read: if there is a SentencePiece model beside it, bind '
      '@vocabularies.sentencepiece()'
    )
  return ''


def _kinds(value: Any) -> Iterator[str]:
  """The types of a step of a tokenizer, and of the steps within it."""
  if isinstance(value, dict):
    yield str(value.get('type'))
    value = list(value.values())
  if isinstance(value, list | tuple):
    for part in value:
      yield from _kinds(part)
