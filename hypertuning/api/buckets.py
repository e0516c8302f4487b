"""Sizes that arrays are padded to, so that few programs are compiled."""

_SMALLEST = 16
MOST_ROWS = 32


def length(tokens: int, most: int | None = None) -> int:
  """The length that a text is padded to: 16, 24, 32, 48, 64, 96 and so on.

  Args:
    tokens: number of tokens of the longest text.
    most: number of tokens that no bucket exceeds, if it has room for the text.
  """
  size = _SMALLEST
  while size < tokens:
    # The numbers between two powers of two.
    size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
  return size if most is None or most < tokens else min(size, most)


def rows(count: int) -> int:
  """The number of rows that a batch is padded to: a power of two."""
  return 1 << (count - 1).bit_length()
