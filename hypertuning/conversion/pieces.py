"""SentencePiece models of public models."""

from hypertuning.errors import UserError, one_line


class Pieces:
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
