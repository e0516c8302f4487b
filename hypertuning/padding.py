"""Padding: id 0, as everywhere in seqio and t5x.

A vocabulary whose id 0 is an ordinary token must swap it with a reserved one.
"""

from typing import Any

PAD_ID = 0


def is_real(tokens: Any) -> Any:
  """Whether each id is a token, and not padding.

  Args:
    tokens: token ids, an int array of jax, numpy or TensorFlow in any shape.

  Returns:
    A bool array of the same kind and shape, False on padding.
  """
  return tokens > PAD_ID
