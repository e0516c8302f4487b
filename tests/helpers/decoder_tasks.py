"""The embedded tasks in the format of a decoder-only model over bytes."""

from hypertuning.data import text_format, vocabularies
from hypertuning.tasks import toy  # type: ignore[attr-defined]  # by __path__

TASK = toy.symbols(
  'toy_symbols_of_decoder',
  text_format=text_format.decoder_format(vocabularies.byte_vocabulary()),
)
