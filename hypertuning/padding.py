"""Which token ids are text: id 0 is padding, as everywhere in seqio and t5x.

A vocabulary whose id 0 is an ordinary token must swap it with a reserved one.
"""

from typing import Any

PAD_ID = 0


def is_real(tokens: Any) -> Any:
  """True where there is a token, False on padding.

  Args:
    tokens: int ids of any shape, an array of jax, numpy or TensorFlow.

  Returns:
    A bool array of the same shape and kind.
  """
  return tokens > PAD_ID
