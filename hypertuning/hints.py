"""Checks values against type hints, and says in a user's words what is wrong.

pydantic does the checking. Numbers, texts and the containers that gin can write
are checked inside as well; of any other object only the class is checked.
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
_LITERAL_TYPES = (int, float, str, Mapping, Sequence)  # gin can write these
_CLASS_ERROR = 'class_error'  # pydantic type of the errors of `_is_a`
# The message for each of pydantic's types of errors.
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
class FutureValue:
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
    path: keys and indices that lead to the part of the value that is wrong.
    text: phrase that says what is wrong, such as 'must be 1 or more'.
  """

  path: tuple[Any, ...]
  text: str


def problem(hint: Any, value: Any) -> Problem | None:
  """Finds what makes a value unfit for a type hint.

  Args:
    hint: a type hint, which may have metadata of `annotated_types` or pydantic.
    value: the value; a `FutureValue` stands for each part that does not exist
      yet.

  Returns:
    The problem, or None if the hint allows the value.
  """
  try:
    _adapter(hint).validate_python(value)
  except pydantic.ValidationError as error:
    errors = error.errors()
  else:
    return None
  if any(_is_unknown(x) for x in errors):
    return None
  # pydantic reports an error for every member of a union. That the value has
  # the wrong type for a member says less than any other error, and an error of
  # the whole value says less than one of a part.
  specific_errors = [x for x in errors if 'type' not in x['type']] or errors
  path = max((_steps(value, x['loc']) for x in specific_errors), key=len)
  path_errors = [x for x in specific_errors if _steps(value, x['loc']) == path]
  first, *alternatives = dict.fromkeys(_phrase(x) for x in path_errors)
  alternatives = [x.removeprefix('must be ') for x in alternatives]
  return Problem(path, ' or '.join([first, *alternatives]) + _hint(path_errors))


def _is_unknown(error: Any) -> bool:
  """Whether an error is about a value that only the command will make.

  The function that makes it may return a number or a text that is fine.
  """
  value = error['input']
  if not isinstance(value, FutureValue) or error['type'] == _CLASS_ERROR:
    return False
  if value.is_function or value.kind is None:
    return not value.is_function
  # A named tuple is an object, such as a transformation of optax.
  is_object = hasattr(value.kind, '_fields')
  return issubclass(value.kind, _LITERAL_TYPES) and not is_object


def _steps(value: Any, path: Sequence[Any]) -> tuple[Any, ...]:
  """The keys and indices of one of pydantic's paths.

  pydantic's own path also has the names of the union members that it tried.
  """
  steps = []
  for step in path:
    if isinstance(value, Mapping):
      is_part = step in value
    else:
      is_part = isinstance(value, (list, tuple)) and step in range(len(value))
    if is_part:
      steps.append(step)
      value = value[step]
  return tuple(steps)


def _phrase(error: Any) -> str:
  template = _WORDS.get(error['type'])
  if template is None:
    return error['msg'].replace('Input should be', 'must be')
  fields = {
    name: int(x) if isinstance(x, float) and x in (0, 1) else x
    for name, x in error.get('ctx', {}).items()
  }
  return template.format(**fields)


def _hint(errors: Sequence[Any]) -> str:
  """A question after the name that a misspelt one may stand for, or ''."""
  for error in errors:
    if error['type'] == 'literal_error' and isinstance(error['input'], str):
      names = error['ctx']['expected'].replace(' or ', ', ').split(', ')
      matches = difflib.get_close_matches(repr(error['input']), names, n=1)
      return f'; did you mean {matches[0]}' if matches else ''
  return ''


@functools.cache
def _adapter(hint: Any) -> pydantic.TypeAdapter:
  return pydantic.TypeAdapter(_pydantic_hint(hint), config=_STRICT)


def _pydantic_hint(hint: Any) -> Any:
  """A hint that pydantic can read, in which `_is_a` checks the classes."""
  origin, arguments = typing.get_origin(hint), typing.get_args(hint)
  if origin is Annotated:
    return Annotated[(_pydantic_hint(arguments[0]), *hint.__metadata__)]
  if hint in _PLAIN or origin is typing.Literal:
    return hint
  if origin in (typing.Union, types.UnionType):
    return typing.Union[tuple(_pydantic_hint(x) for x in arguments)]  # noqa: UP007
  if origin is tuple:
    members = tuple(x if x is ... else _pydantic_hint(x) for x in arguments)
    return Annotated[tuple[members], pydantic.BeforeValidator(_as_tuple)]  # type: ignore[valid-type]
  if origin in (collections.abc.Mapping, collections.abc.Sequence, dict, list):
    return origin[tuple(_pydantic_hint(x) for x in arguments)]
  kind = origin or hint
  if not isinstance(kind, type):
    return Any  # a variable that stands for a type
  return Annotated[Any, pydantic.PlainValidator(functools.partial(_is_a, kind))]


def _as_tuple(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def _is_a(kind: type, value: Any) -> Any:
  """Returns a `FutureValue` that may become an object of the class.

  Raises:
    PydanticCustomError: it cannot, or the value is no `FutureValue`.
  """
  is_function = kind is collections.abc.Callable
  if isinstance(value, FutureValue):
    if value.is_function or is_function:
      makes_function = value.kind in (None, types.FunctionType)
      is_allowed = value.is_function == is_function or makes_function
    else:
      is_allowed = value.kind is None or _is_subclass(value.kind, kind)
    if is_allowed:
      return value
  noun = 'function, @name' if is_function else f'{kind.__name__}, @name()'
  raise PydanticCustomError(_CLASS_ERROR, 'must be a {noun}', {'noun': noun})


def _is_subclass(kind: type, parent: type) -> bool:
  try:
    return issubclass(kind, parent)
  except TypeError:  # a protocol that says nothing at run time
    return True
