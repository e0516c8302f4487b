"""T5's vocabulary: SentencePiece and sentinels, or ByT5's bytes."""

import pathlib
from collections.abc import Mapping

from hypertuning.conversion.fields import Fields
from hypertuning.conversion.pieces import Pieces
from hypertuning.conversion.vocabulary import Vocabulary
from hypertuning.errors import UserError

PIECES = 'spiece.model'
_SENTINELS, _BYT5_SENTINELS = 100, 125
_BYTES = 259  # and three special ids
_BYT5 = 'ByT5Tokenizer'


def read(
  files: Mapping[str, bytes],
  unused_folder: pathlib.Path,
  fields: Fields,
  place: str,
) -> Vocabulary:
  """Reads a vocabulary, see `Family.vocabulary`."""
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
  if PIECES not in files:
    raise UserError(
      f'{place}: has no {PIECES}, which transformers 5 no longer writes; copy '
      "the file of the tokenizer's own model there."
    )
  pieces = Pieces(files[PIECES], f'{place}: {PIECES}')
  return Vocabulary(
    PIECES,
    pieces.size + _SENTINELS,
    imports=['from hypertuning.data import vocabularies'],
    bindings=[
      ('VOCABULARY', '@vocabularies.sentencepiece()'),
      ('vocabularies.sentencepiece.path', '%VOCABULARY_FILE'),
    ],
  )
