"""The vocabulary of a converted model: its file, its format, and its ids."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import tokenizers

from hypertuning.conversion.fields import Fields
from hypertuning.data.tokenizer_json import TokenizerJson
from hypertuning.errors import UserError, one_line
from hypertuning.padding import PAD_ID

BYTE_LEVEL, SENTENCEPIECE = 'tokenizer.json', 'tokenizer.model'
T5_PIECES = 'spiece.model'
_T5_SENTINELS, _BYT5_SENTINELS = 100, 125
_BYTES = 259  # and three special ids
# Tables have rows for no token, as multiples of this are fast.
_MOST_SPARE_ROWS = 512
_BYT5 = 'ByT5Tokenizer'
_FIRST_EXAMPLE, _INPUT, _OUTPUT = 'a', 'Input:', 'Output:'


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """What a model's gin file says of its vocabulary.

  Attributes:
    file: name of the vocabulary's file; '' if it needs none.
    size: number of ids of the tokenizer.
    include: gin files that wire it.
    imports: modules that `bindings` need.
    bindings: names and values, as gin writes them.
    swapped: two ids that have changed places, see `TokenizerJson.swapped_ids`.
  """

  file: str
  size: int
  include: Sequence[str] = ()
  imports: Sequence[str] = ()
  bindings: Sequence[tuple[str, str]] = ()
  swapped: tuple[int, int] | None = None

  def rows(self, rows: int) -> int:
    """The number of rows of our tables.

    Args:
      rows: number of rows of the file's tables.
    """
    return max(rows, max(self.swapped or (0,)) + 1)


def read(
  files: Mapping[str, bytes],
  folder: pathlib.Path,
  fields: Fields,
  place: str,
) -> Vocabulary:
  """Reads the vocabulary that belongs to a model's weights.

  Args:
    files: content of the vocabulary's files, by name.
    folder: folder that holds them.
    fields: the model's `config.json`.
    place: path that error messages begin with.

  Raises:
    UserError: there is no vocabulary, it is damaged, or it belongs to another
      model.
  """
  is_t5 = fields.get('model_type') != 'llama'
  try:
    if is_t5:
      vocabulary = _t5(files, fields, place)
    elif SENTENCEPIECE in files:
      vocabulary = _sentencepiece(files[SENTENCEPIECE], fields, place)
    elif BYTE_LEVEL in files:
      vocabulary = _byte_level(folder / BYTE_LEVEL, fields, place)
    else:
      raise UserError(f'{place}: has no {BYTE_LEVEL} and no {SENTENCEPIECE}.')
  except UserError as error:
    # The folder is a temporary one, which the user has never seen.
    raise UserError(str(error).replace(f'{folder}/', f'{place}: ')) from error
  rows = fields.count('vocab_size')
  if not rows - _MOST_SPARE_ROWS <= vocabulary.size <= rows:
    raise UserError(
      f'{place}: the vocabulary {vocabulary.file} has {vocabulary.size} ids, '
      f'but the weights have {rows} embeddings: it belongs to another model.'
    )
  return vocabulary


def _t5(files: Mapping[str, bytes], fields: Fields, place: str) -> Vocabulary:
  """T5's SentencePiece model and its sentinels, or ByT5's bytes."""
  names = [str(fields.get('tokenizer_class'))]
  names += [files.get('tokenizer_config.json', b'').decode(errors='replace')]
  if any(_BYT5 in name for name in names):
    return Vocabulary(
      '',
      _BYTES + _BYT5_SENTINELS,
      imports=['from hypertuning.data import vocabularies'],
      bindings=[
        ('VOCABULARY', '@vocabularies.byte_vocabulary()'),
        ('vocabularies.byte_vocabulary.extra_ids', str(_BYT5_SENTINELS)),
      ],
    )
  if T5_PIECES not in files:
    raise UserError(f'{place}: has no {T5_PIECES}.')
  pieces = _Pieces(files[T5_PIECES], f'{place}: {T5_PIECES}')
  return Vocabulary(
    T5_PIECES,
    pieces.size + _T5_SENTINELS,
    imports=['from hypertuning.data import vocabularies'],
    bindings=[
      ('VOCABULARY', '@vocabularies.sentencepiece()'),
      ('vocabularies.sentencepiece.path', '%VOCABULARY_FILE'),
    ],
  )


class _Pieces:
  """A SentencePiece model."""

  def __init__(self, model: bytes, place: str) -> None:
    import sentencepiece

    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except Exception as error:  # the library raises nothing more special
      raise UserError(
        f'{place}: not a SentencePiece model, or a damaged one '
        f'({one_line(error)}).'
      ) from error
    self._place = place
    self.size = self._processor.get_piece_size()

  def encode(self, text: str) -> tuple[int, ...]:
    """Ids of a text."""
    return tuple(self._processor.encode(text))

  def id(self, piece: str) -> int:
    """Id of a piece, which must be there."""
    index = self._processor.piece_to_id(piece)
    if index == self._processor.unk_id():
      raise UserError(f'{self._place}: has no piece {piece!r}.')
    return index


def _sentencepiece(model: bytes, fields: Fields, place: str) -> Vocabulary:
  """Llama 2's format, in the ids of a SentencePiece model."""
  pieces = _Pieces(model, f'{place}: {SENTENCEPIECE}')
  newline = (pieces.id('<0x0A>'),)
  starts, ends = _ids(fields, 'bos_token_id'), _ids(fields, 'eos_token_id')
  return Vocabulary(
    SENTENCEPIECE,
    pieces.size,
    include=['gin/models/formats/llama2.gin'],
    imports=['from hypertuning.data import text_format'],
    bindings=_format(
      start=starts[:1],
      definition_end=newline,
      inputs=pieces.encode(_INPUT) + newline,
      targets=newline + pieces.encode(_OUTPUT) + newline,
      between=newline * 2,
      target_end=ends[:1],
      end_ids=ends,
      names=tuple((i, '<s>') for i in starts[:1]),
    ),
  )


def _byte_level(path: pathlib.Path, fields: Fields, place: str) -> Vocabulary:
  """Lines, as in gin/models/formats/lines.gin, in the ids of a byte-level BPE.

  An answer ends with its line. How a blank line between two examples is cut
  differs: SmolLM2's is two tokens, Llama 3's is one.
  """
  starts, ends = _ids(fields, 'bos_token_id'), _ids(fields, 'eos_token_id')
  if not ends:
    raise UserError(f"{place}: has no field 'eos_token_id'.")
  names = _token_names(path)
  for token in (*starts, *ends):
    if token not in names:
      raise UserError(
        f'{place}: the configuration begins or ends a text with the id '
        f'{token}, which {BYTE_LEVEL} does not have: it belongs to another '
        'model.'
      )
  own = TokenizerJson(str(path), names[ends[0]])
  places = dict(
    [own.swapped_ids, own.swapped_ids[::-1]] if own.swapped_ids else []
  )
  start = tuple(
    places.get(i, i) for i in starts[:1] if places.get(i, i) != PAD_ID
  )
  newline, blank_line = own.encode('\n'), own.encode('\n\n')
  between = tuple(_between(own)) or tuple(newline * 2)
  end_ids = {
    *(places.get(i, i) for i in ends),
    *newline[:1],
    *blank_line[:1],
    between[0],
  } - {PAD_ID}
  size = max(names) + 1
  return Vocabulary(
    BYTE_LEVEL,
    size,
    include=['gin/models/formats/lines.gin'],
    imports=['from hypertuning.data import text_format'],
    bindings=[
      ('END_TOKEN', repr(names[ends[0]])),
      *_format(
        start=start,
        between=between,
        target_end=between[:1],
        end_ids=tuple(sorted(end_ids)),
        names=tuple((i, names[starts[0]]) for i in start),
      ),
    ],
    swapped=own.swapped_ids,
  )


def _between(own: TokenizerJson) -> list[int]:
  """The ids of the blank line between two examples; [] if it has none alone."""
  first, second = own.encode(_FIRST_EXAMPLE), own.encode(_INPUT)
  both = own.encode(f'{_FIRST_EXAMPLE}\n\n{_INPUT}')
  end = len(both) - len(second)
  if both[: len(first)] != first or both[end:] != second:
    return []
  return both[len(first) : end]


def _token_names(path: pathlib.Path) -> dict[int, str]:
  """The name of each id of a `tokenizer.json`, by the file's own ids."""
  try:
    ids = tokenizers.Tokenizer.from_file(str(path)).get_vocab()
  except Exception as error:  # the library raises nothing more special
    raise UserError(
      f'{path}: not a tokenizer.json, or a damaged one ({one_line(error)}).'
    ) from error
  return {i: name for name, i in ids.items()}


def _ids(fields: Fields, name: str) -> tuple[int, ...]:
  """A field that holds an id or a list of ids."""
  value = fields.get(name, [])
  ids = value if isinstance(value, list) else [value]
  if not all(isinstance(i, int) and i >= 0 for i in ids):
    raise fields.refuse(name, 'must be an id, or a list of ids')
  return tuple(ids)


def _format(**parts: object) -> list[tuple[str, str]]:
  """Bindings of a text format."""
  return [(f'text_format.custom_format.{k}', repr(v)) for k, v in parts.items()]
