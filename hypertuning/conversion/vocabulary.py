"""What the gin file of a converted model says of its vocabulary."""

import dataclasses
from collections.abc import Sequence

BYTE_LEVEL = 'tokenizer.json'  # the same name in every family


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
