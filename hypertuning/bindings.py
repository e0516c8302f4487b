"""Checks what gin binds against the types beside the arguments.

A value that the type hint of an argument does not allow is refused when a
command starts, before anything is made of it; the message names the macro that
the user bound. `hypertuning.ranges` has the hints with ranges.
"""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gin import config as gin_config

from hypertuning import hints, ranges
from hypertuning.errors import UserError

_MACRO = 'gin.macro'
_LONGEST = 80  # characters of a value in a message
_Config = Mapping[tuple[str, str], Mapping[str, Any]]
_Path = tuple[Any, ...]

# Arguments of optax's schedules, whose own hints have no ranges.
_OPTAX = {
  'value': ranges.Positive,
  'init_value': ranges.NotNegative,
  'peak_value': ranges.Positive,
  'end_value': ranges.NotNegative,
  'alpha': ranges.Share,
  'power': ranges.Positive,
  'exponent': ranges.Positive,
  'decay_rate': ranges.Positive,
  'warmup_steps': ranges.Natural,
  'transition_steps': ranges.Count,
  'transition_begin': ranges.Natural,
  'decay_steps': ranges.Count,
}
# Two arguments of which the first must be less than the second.
_LESS = {'warmup_cosine_decay_schedule': ('warmup_steps', 'decay_steps')}


@dataclasses.dataclass(frozen=True)
class _Bound:
  """The value that is bound to an argument.

  Attributes:
    value: the value, with macros replaced by theirs and references by `Made`.
    names: how the user bound the value, by the path () , and parts of it. It is
      the name of the argument, or of the macro that the argument is bound to,
      then of the macro that this one is bound to, and so on.
  """

  value: Any
  names: Mapping[_Path, tuple[str, ...]]

  def describe(self, path: _Path = ()) -> str:
    """A part of the value as a line of gin."""
    known = self._known(path)
    first, *rest = self.names[path[:known]]
    left = first + ''.join(f' = %{name}' for name in rest)
    left += ''.join(f'[{step!r}]' for step in path[known:])
    return f'{left} = {_short(functools.reduce(_item, path, self.value))}'

  def distance(self, path: _Path) -> int:
    """The number of macros that a part was bound through."""
    return len(self.names[path[: self._known(path)]])

  def _known(self, path: _Path) -> int:
    """The length of the longest start of a path that has a name."""
    return max(n for n in range(len(path) + 1) if path[:n] in self.names)


def check(config: _Config | None = None) -> None:
  """Refuses values that the arguments they are bound to do not allow.

  Args:
    config: gin's configuration, None for the one in force. `gin.finalize` gives
      it to the functions that are registered as its hooks.

  Raises:
    UserError: names the macro or the argument, its value and what is allowed.
  """
  config = gin_config._CONFIG if config is None else config
  problems: list[tuple[int, str]] = []
  called = {
    reference.configurable.selector
    for reference in gin_config.iterate_references(config)
  }
  for (scope, selector), arguments in config.items():
    if selector == _MACRO:
      _resolve(arguments['value'], config, (scope,))  # refuses circles
      continue
    function = gin_config._REGISTRY[selector].wrapped
    declared = _declared(function)
    bound = {
      name: _bound(scope, selector, name, config)
      for name in (*config.get(('', selector), ()), *arguments)
    }
    wrong = []
    for name in arguments.keys() & declared.keys():
      problem = hints.problem(declared[name], bound[name].value)
      if problem:
        line = f'{bound[name].describe(problem.path)}: {problem.text}.'
        wrong.append((bound[name].distance(problem.path), line))
    if not wrong and selector in called:
      wrong = list(_unordered(function, bound))
    problems += wrong
  if problems:
    # The macro that is wrong itself, rather than one that is bound to it.
    raise UserError(min(problems)[1])


def _bound(scope: str, selector: str, argument: str, config: _Config) -> _Bound:
  if argument not in config.get((scope, selector), ()):
    scope = ''
  found = _resolve(config[scope, selector][argument], config)
  name = '.'.join([*selector.split('.')[-2:], argument])
  own = {(): (f'{scope}/{name}' if scope else name,)}
  return _Bound(found.value, {**own, **found.names})


def _resolve(
  value: Any, config: _Config, macros: tuple[str, ...] = ()
) -> _Bound:
  """Replaces macros and references in a value.

  Args:
    value: the value.
    config: gin's configuration.
    macros: names of the macros that led to the value.

  Raises:
    UserError: a macro is bound to itself.
  """
  names: dict[_Path, tuple[str, ...]] = {(): macros} if macros else {}
  if isinstance(value, gin_config.ConfigurableReference):
    if value.configurable.selector != _MACRO:
      return _Bound(_made(value), names)
    macro = value.scoped_selector.rpartition('/')[0]
    if macro in macros:
      raise UserError(f'{macro} = %{macros[-1]}: it is its own value.')
    macros = (*macros, macro)
    if (macro, _MACRO) not in config:  # it is refused elsewhere
      return _Bound(hints.Made(f'%{macro}', None, False), {(): macros})
    return _resolve(config[macro, _MACRO]['value'], config, macros)
  items = {}
  if isinstance(value, Mapping):
    items = dict(value)
  elif isinstance(value, (list, tuple)):
    items = dict(enumerate(value))
  found = {key: _resolve(x, config) for key, x in items.items()}
  for key, part in found.items():
    names |= {(key, *path): name for path, name in part.names.items()}
  if isinstance(value, Mapping):
    value = {key: part.value for key, part in found.items()}
  elif items:
    value = type(value)(part.value for part in found.values())
  return _Bound(value, names)


def _made(reference: Any) -> hints.Made:
  kind = reference.configurable.wrapped
  if not isinstance(kind, type):
    made = _hints(kind).get('return')
    if isinstance(made, types.UnionType):  # that it may be None is no matter
      made, *others = set(typing.get_args(made)) - {type(None)}
      made = None if others else made
    kind = made
  return hints.Made(
    repr(reference),
    kind if isinstance(kind, type) else None,
    not reference.evaluate,
  )


def _declared(function: Callable[..., Any]) -> Mapping[str, Any]:
  """The hints of the arguments that are checked."""
  package = function.__module__.partition('.')[0]
  if package == 'optax':
    return _OPTAX
  return _hints(function) if package == 'hypertuning' else {}


@functools.cache
def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
  if isinstance(function, type) and not dataclasses.is_dataclass(function):
    function = inspect.getattr_static(function, '__init__')
  try:
    return typing.get_type_hints(inspect.unwrap(function), include_extras=True)
  except (NameError, TypeError):  # some are for type checkers alone
    return {}


def _unordered(
  function: Callable[..., Any], bound: Mapping[str, _Bound]
) -> Iterator[tuple[int, str]]:
  low, high = _LESS.get(function.__name__, ('', ''))
  if {low, high} <= bound.keys():
    less, more = bound[low], bound[high]
    numbers = (int, float)
    if not isinstance(less.value, numbers) or not isinstance(more.value, int):
      return
    if less.value >= more.value:
      yield (0, f'{less.describe()}: must be less than {more.describe()}.')


def _item(value: Any, step: Any) -> Any:
  return value[step]


def _short(value: Any) -> str:
  try:
    text = repr(value)
  except ValueError:  # Python does not print numbers of so many digits
    text = 'a number of thousands of digits'
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'
