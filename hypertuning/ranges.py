"""Types of arguments that gin files bind, with the values that are allowed.

Functions use them as type hints, as in `rank: Count = 16`, and `bindings.check`
reads them from there. To a type checker they are ordinary types.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from annotated_types import Interval, MinLen
from pydantic import AfterValidator, PlainValidator

# The largest int32 and about the largest float32: jax computes in these.
_MOST = 2**31 - 1
_LARGEST = 3e38
_DTYPES = ('float32', 'bfloat16')
_PRECISIONS = ('float32', 'tensorfloat32', 'bfloat16')
_FROZEN_DTYPES = (*_DTYPES, 'int8', 'nf4')


def _one_of(allowed: Sequence[str]) -> Callable[[Any], Any]:
  def check(value: Any) -> Any:
    if value not in allowed:
      raise ValueError(f'must be one of {", ".join(map(repr, allowed))}')
    return value

  return check


def _object(value: Any) -> Any:
  if isinstance(value, (int, float, str, tuple, list, dict)):
    raise ValueError('must be an object, @name()')
  return value


def _path(value: str) -> str:
  if not value.strip() or '\0' in value:
    raise ValueError('must be a path')
  return value


def _regex(value: str) -> str:
  try:
    re.compile(value)
  except (re.error, OverflowError, RecursionError) as error:
    raise ValueError(f'is not a regular expression: {error}') from error
  return value


def _rule(value: tuple[str, str]) -> tuple[str, str]:
  pattern, replacement = value
  try:
    re.sub(pattern, replacement, '')
  except (re.error, IndexError) as error:
    raise ValueError(f'the replacement does not fit: {error}') from error
  return value


Natural = Annotated[int, Interval(ge=0, le=_MOST)]
Count = Annotated[int, Interval(ge=1, le=_MOST)]
Number = Annotated[float, Interval(ge=-_LARGEST, le=_LARGEST)]
NotNegative = Annotated[float, Interval(ge=0, le=_LARGEST)]
Positive = Annotated[float, Interval(gt=0, le=_LARGEST)]
Share = Annotated[float, Interval(ge=0, le=1)]
# A share that leaves something for both parts.
Part = Annotated[float, Interval(gt=0, lt=1)]
# The probability mass of the tokens that may be drawn, which must not be empty.
Mass = Annotated[float, Interval(gt=0, le=1)]
# A share that must not be everything, such as a rate of dropout.
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]

Name = Annotated[str, MinLen(1)]
Names = Annotated[Sequence[Name], MinLen(1)]
Path = Annotated[str, AfterValidator(_path)]
Regex = Annotated[str, AfterValidator(_regex)]
# A regular expression, and the replacement of its matches.
Rule = Annotated[tuple[Regex, str], AfterValidator(_rule)]

# The number that the loss of a batch is divided by.
LossFactor = Positive | Literal['NUM_REAL_TARGET_TOKENS']
Seeds = Annotated[Sequence[Natural], MinLen(1)]
# A number of draws of shots, or the seeds of the draws.
Draws = Count | Seeds


def _shots(value: tuple[int, int]) -> tuple[int, int]:
  if value[0] > value[1]:
    raise ValueError('must be (least, most)')
  return value


# A number of shots, or the least and the greatest of episodes of training.
Shots = Natural | Annotated[tuple[Natural, Natural], AfterValidator(_shots)]
# The type that a network computes in. In Python it may be a dtype of jax.
Dtype = Annotated[Any, PlainValidator(_one_of(_DTYPES))]
# The precision in which float32 is multiplied, as jax names it.
Precision = Annotated[str, PlainValidator(_one_of(_PRECISIONS))]
# The form in which frozen variables are stored.
FrozenDtype = Annotated[Any, PlainValidator(_one_of(_FROZEN_DTYPES))]
# What the forward pass saves of a layer for the gradient, see `networks.stack`.
RematPolicy = Literal['none', 'full', 'minimal', 'projections']
# An object that a function makes, or None.
Object = Annotated[Any, PlainValidator(_object)]
# Number of mesh axes that divide an array.
Dimensions = Annotated[int, Interval(ge=1, le=2)]
# TASK_FEATURE_LENGTHS; `data.lengths` checks the names.
Lengths = Mapping[str, Count | tuple[Count, Count]]
