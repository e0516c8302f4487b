"""Whether a value is one that a type hint allows, in words for a user.

pydantic decides. What gin writes itself, numbers, texts and what holds them, is
looked into; for an object only its class counts.
"""

import collections.abc
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
from pydantic_core import PydanticCustomError

_STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
_PLAIN = (Any, object, int, float, str, bool, None, types.NoneType)
_WRITTEN = (int, float, str, Mapping, Sequence)  # what gin itself can write
_LATE = 'made_later'  # type of the errors of values that do not exist yet
# pydantic's types of errors, as a user understands them.
_WORDS = {
  'int_type': 'must be a whole number',
  'float_type': 'must be a number',
  'finite_number': 'must be a finite number',
  'bool_type': 'must be True or False',
  'string_type': 'must be a text in quotes',
  'greater_than_equal': 'must be {ge} or more',
  'greater_than': 'must be more than {gt}',
  'less_than_equal': 'must be {le} or less',
  'less_than': 'must be less than {lt}',
  'literal_error': 'must be {expected}',
  'string_too_short': 'must not be empty',
  'too_short': 'must not be empty',
  'too_long': 'must have {max_length} values',
  'is_instance_of': 'must be a tuple (..., ...)',  # for a `Sequence`
  'missing': 'has too few values',
  'none_required': 'must be None',
  'tuple_type': 'must be a tuple (..., ...)',
  'sequence_str': 'must be a tuple (..., ...)',
  'list_type': 'must be a tuple (..., ...)',
  'dict_type': 'must be a dict {{...: ...}}',
  'mapping_type': 'must be a dict {{...: ...}}',
  'value_error': '{error}',
}


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
  """Stands for `@function()`, whose value does not exist yet.

  Attributes:
    text: the reference as gin writes it.
    kind: class of the value, or None if that is not known.
    is_function: whether the value is the function itself, `@function`.
  """

  text: str
  kind: type | None
  is_function: bool

  def __repr__(self) -> str:
    return self.text


@dataclasses.dataclass(frozen=True)
class Problem:
  """What is wrong with a value.

  Attributes:
    path: keys and numbers that lead to the part of the value that is wrong.
    text: what is wrong, as in 'must be 1 or more'.
  """

  path: tuple[Any, ...]
  text: str


def problem(hint: Any, value: Any) -> Problem | None:
  """What a type hint does not allow about a value; None if it allows it.

  Args:
    hint: a type hint, with the metadata of `annotated_types` or of pydantic.
    value: the value, with `Made` in the place of what does not exist yet.
  """
  try:
    _adapter(hint).validate_python(value)
  except pydantic.ValidationError as error:
    found = error.errors()
  else:
    return None
  if any(_is_late(x) for x in found):
    return None
  # Of a union's errors, those of another type say less than the others, and
  # those of a whole less than those of a part.
  telling = [x for x in found if 'type' not in x['type']] or found
  path = max((_steps(value, x['loc']) for x in telling), key=len)
  best = [x for x in telling if _steps(value, x['loc']) == path]
  phrases = list(dict.fromkeys(_phrase(x) for x in best))
  rest = [x.removeprefix('must be ') for x in phrases[1:]]
  return Problem(path, ' or '.join([*phrases[:1], *rest]) + _meant(best))


def _is_late(error: Any) -> bool:
  made = error['input']
  if not isinstance(made, Made) or error['type'] == _LATE:
    return False
  return not made.is_function and (
    made.kind is None or issubclass(made.kind, _WRITTEN)
  )


def _steps(value: Any, path: Sequence[Any]) -> tuple[Any, ...]:
  """One of pydantic's paths without the names of members of unions."""
  steps = []
  for step in path:
    if isinstance(value, Mapping):
      inside = step in value
    else:
      inside = isinstance(value, (list, tuple)) and step in range(len(value))
    if inside:
      steps.append(step)
      value = value[step]
  return tuple(steps)


def _phrase(error: Any) -> str:
  words = _WORDS.get(error['type'])
  if words is None:
    return error['msg'].replace('Input should be', 'must be')
  fields = {
    name: int(x) if isinstance(x, float) and x in (0, 1) else x
    for name, x in error.get('ctx', {}).items()
  }
  return words.format(**fields)


def _meant(errors: Sequence[Any]) -> str:
  """A guess at the name that a misspelt one stands for."""
  for error in errors:
    if error['type'] == 'literal_error' and isinstance(error['input'], str):
      allowed = error['ctx']['expected'].replace(' or ', ', ').split(', ')
      close = difflib.get_close_matches(repr(error['input']), allowed, n=1)
      return f'; did you mean {close[0]}' if close else ''
  return ''


@functools.cache
def _adapter(hint: Any) -> pydantic.TypeAdapter:
  return pydantic.TypeAdapter(_checked(hint), config=_STRICT)


def _checked(hint: Any) -> Any:
  """A hint that pydantic can read, in which classes are those of objects."""
  origin, inner = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return Annotated[(_checked(inner[0]), *hint.__metadata__)]
  if hint in _PLAIN or origin is typing.Literal:
    return hint
  if origin in (typing.Union, types.UnionType):
    return typing.Union[tuple(_checked(x) for x in inner)]  # noqa: UP007
  if origin is tuple:
    members = tuple(x if x is ... else _checked(x) for x in inner)
    return Annotated[tuple[members], pydantic.BeforeValidator(_as_tuple)]  # type: ignore[valid-type]
  if origin in (collections.abc.Mapping, collections.abc.Sequence, dict, list):
    return origin[tuple(_checked(x) for x in inner)]
  kind = origin or hint
  if not isinstance(kind, type):
    return Any  # a variable that stands for a type
  return Annotated[Any, pydantic.PlainValidator(functools.partial(_is_a, kind))]


def _as_tuple(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def _is_a(kind: type, value: Any) -> Any:
  """Takes what will be an object of the class, as far as that is known."""
  is_function = kind is collections.abc.Callable
  if isinstance(value, Made):
    if value.is_function or is_function:
      fits = value.is_function == is_function or value.kind is None
    else:
      fits = value.kind is None or _is_subclass(value.kind, kind)
    if fits:
      return value
  what = 'function, @name' if is_function else f'{kind.__name__}, @name()'
  raise PydanticCustomError(_LATE, 'must be a {what}', {'what': what})


def _is_subclass(one: type, other: type) -> bool:
  try:
    return issubclass(one, other)
  except TypeError:  # a protocol that says nothing at run time
    return True
