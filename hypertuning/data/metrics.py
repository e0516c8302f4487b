"""Metrics of decoded text, in the form of seqio metric functions."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


def exact_match(
  targets: Sequence[Any], predictions: Sequence[Any]
) -> dict[str, float]:
  """Percentage of queries whose text equals the target.

  Args:
    targets: a text a query, or a list of texts an episode; `bytes` or `str`.
    predictions: the same nesting. Predictions of an episode's padded queries,
      behind its last target, do not count.

  Returns:
    `{'accuracy': percent}`.

  Raises:
    ValueError: fewer predictions than targets.
  """
  correct = exact_matches(targets, predictions)
  return {'accuracy': 100.0 * sum(correct) / max(len(correct), 1)}


def exact_matches(
  targets: Iterable[Any], predictions: Iterable[Any]
) -> list[bool]:
  """Which queries are answered right, surrounding white space aside."""
  correct = []
  for target, prediction in zip(targets, predictions, strict=True):
    if _is_text(target):
      correct.append(text(target) == text(prediction))
    else:
      given = list(prediction)[: len(target)]
      correct += exact_matches(target, given)
  return correct


def text(value: str | bytes) -> str:
  """A text as it is compared."""
  decoded = value.decode() if isinstance(value, bytes) else value
  return decoded.strip()


def as_text(decoded_model_output: Any, **unused: Any) -> Any:
  """Postprocessor: arrays of bytes to lists of `str`, which JSON can hold."""
  if _is_text(decoded_model_output):
    return text(decoded_model_output)
  return [as_text(value) for value in decoded_model_output]


def _is_text(value: Any) -> bool:
  return isinstance(value, (str, bytes, np.str_, np.bytes_))
