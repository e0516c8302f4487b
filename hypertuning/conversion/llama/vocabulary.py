"""The vocabulary of a Llama: SentencePiece, or a byte-level BPE."""

import pathlib
from collections.abc import Mapping

import tokenizers

from hypertuning.conversion.fields import Fields
from hypertuning.conversion.pieces import Pieces
from hypertuning.conversion.vocabulary import BYTE_LEVEL, Vocabulary
from hypertuning.data.tokenizer_json import TokenizerJson
from hypertuning.errors import UserError, one_line
from hypertuning.padding import PAD_ID

PIECES = 'tokenizer.model'
_FIRST_EXAMPLE, _INPUT, _OUTPUT = 'a', 'Input:', 'Output:'


def read(
  files: Mapping[str, bytes], folder: pathlib.Path, fields: Fields, place: str
) -> Vocabulary:
  """Reads a vocabulary, see `Family.vocabulary`."""
  if PIECES in files:
    return _sentencepiece(files[PIECES], fields, place)
  if BYTE_LEVEL in files:
    return _byte_level(folder / BYTE_LEVEL, fields, place)
  raise UserError(f'{place}: has no {BYTE_LEVEL} and no {PIECES}.')


def _sentencepiece(model: bytes, fields: Fields, place: str) -> Vocabulary:
  """Llama 2's format, in the ids of a SentencePiece model."""
  pieces = Pieces(model, f'{place}: {PIECES}')
  newline = (pieces.id('<0x0A>'),)
  starts, ends = _ids(fields, 'bos_token_id'), _ids(fields, 'eos_token_id')
  return Vocabulary(
    PIECES,
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
