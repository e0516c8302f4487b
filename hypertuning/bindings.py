"""Checks the values that gin binds against the arguments' type hints.

A value that the hint does not allow is refused when a command starts, before
any function is called with it. The message names the macro that the user bound.
`hypertuning.ranges` has hints that also limit numbers to a range.
"""

import collections.abc
import dataclasses
import functools
import graphlib
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
    value: the value. Macros in it are replaced by their values, and references
      to functions by `FutureValue`.
    names: maps the paths of parts of the value to names; the path () is that of
      the value itself. The names are that of the argument, then that of the
      macro that it is bound to, then that of the macro which that one is bound
      to, and so on.
  """

  value: Any
  names: Mapping[_Path, tuple[str, ...]]

  def describe(self, path: _Path = ()) -> str:
    """A part of the value as a line of gin."""
    depth = self._named_depth(path)
    name, *macros = self.names[path[:depth]]
    subject = name + ''.join(f' = %{macro}' for macro in macros)
    subject += ''.join(f'[{step!r}]' for step in path[depth:])
    return f'{subject} = {_short(functools.reduce(_item, path, self.value))}'

  def distance(self, path: _Path) -> int:
    """The number of names between a part and the value that is written."""
    return len(self.names[path[: self._named_depth(path)]])

  def _named_depth(self, path: _Path) -> int:
    """The length of the longest beginning of a path that has a name."""
    return max(n for n in range(len(path) + 1) if path[:n] in self.names)


def check(config: _Config | None = None) -> None:
  """Refuses values that the type hints of their arguments do not allow.

  Args:
    config: gin's configuration, as `gin.finalize` passes it to its hooks; None
      takes the current one.

  Raises:
    UserError: a value is not allowed, or a macro is its own value; the message
      names the macro or the argument, its value and what is allowed.
  """
  config = gin_config._CONFIG if config is None else config
  problems: list[tuple[int, str]] = []
  referenced_selectors = {
    reference.configurable.selector
    for reference in gin_config.iterate_references(config)
  }
  for (scope, selector), arguments in config.items():
    if selector == _MACRO:
      _resolve(arguments['value'], config, (scope,))  # refuses cycles
      continue
    function = gin_config._REGISTRY[selector].wrapped
    declared_hints = _checked_hints(function)
    bound_values = {
      name: _bound(scope, selector, name, config)
      for name in (*config.get(('', selector), ()), *arguments)
    }
    own_problems = []
    for name in arguments.keys() & declared_hints.keys():
      bound = bound_values[name]
      problem = hints.problem(declared_hints[name], bound.value)
      if problem:
        line = f'{bound.describe(problem.path)}: {problem.text}.'
        own_problems.append((bound.distance(problem.path), line))
    if not own_problems and selector in referenced_selectors:
      own_problems = list(_order_problems(function, bound_values))
    problems += own_problems
  _check_cycles(config)
  if problems:
    # The message names the macro with the value at fault, rather than another
    # macro that is bound to it.
    raise UserError(min(problems)[1])


def _check_cycles(config: _Config) -> None:
  """Refuses a value that is made from itself: `A = @f()` with `f.x = %A`.

  Raises:
    UserError: lists the macros and functions of the cycle.
  """
  graph: dict[str, set[str]] = {}
  for (scope, selector), arguments in config.items():
    values = {**config.get(('', selector), {}), **arguments}
    references = [
      reference
      for reference in gin_config.iterate_references(values)
      if reference.evaluate
    ]
    graph[f'{scope}/{selector}' if scope else selector] = {
      reference.scoped_selector for reference in references
    }
    for reference in references:
      # Without bindings for the scope, those without a scope apply.
      selector = reference.configurable.selector
      if reference.scoped_selector != selector:
        graph.setdefault(reference.scoped_selector, {selector})
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    names = [name.removesuffix(f'/{_MACRO}') for name in error.args[1]]
    raise UserError(
      f'{" < ".join(names)}: each is part of the next one, in a circle; give '
      'one of them another value.'
    ) from error


def _bound(scope: str, selector: str, argument: str, config: _Config) -> _Bound:
  if argument not in config.get((scope, selector), ()):
    scope = ''
  resolved = _resolve(config[scope, selector][argument], config)
  name = '.'.join([*selector.split('.')[-2:], argument])
  names = {(): (f'{scope}/{name}' if scope else name,)}
  return _Bound(resolved.value, {**names, **resolved.names})


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
      return _Bound(_future_value(value), names)
    macro = value.scoped_selector.rpartition('/')[0]
    if macro in macros:
      raise UserError(f'{macro} = %{macros[-1]}: it is its own value.')
    macros = (*macros, macro)
    if (macro, _MACRO) not in config:  # it is refused elsewhere
      return _Bound(hints.FutureValue(f'%{macro}', None, False), {(): macros})
    return _resolve(config[macro, _MACRO]['value'], config, macros)
  items = {}
  if isinstance(value, Mapping):
    items = dict(value)
  elif isinstance(value, (list, tuple)):
    items = dict(enumerate(value))
  parts = {key: _resolve(x, config) for key, x in items.items()}
  for key, part in parts.items():
    names |= {(key, *path): name for path, name in part.names.items()}
  if isinstance(value, Mapping):
    value = {key: part.value for key, part in parts.items()}
  elif items:
    value = type(value)(part.value for part in parts.values())
  return _Bound(value, names)


def _future_value(reference: Any) -> hints.FutureValue:
  """What is known about the result of a function that gin refers to."""
  kind = reference.configurable.wrapped
  if not isinstance(kind, type):
    kind = _hints(kind).get('return')
    if isinstance(kind, types.UnionType):
      # Whether a function returns None is only known when it is called.
      members = set(typing.get_args(kind)) - {type(None)}
      kind = members.pop() if len(members) == 1 else None
    if typing.get_origin(kind) is collections.abc.Callable:
      kind = types.FunctionType
  return hints.FutureValue(
    repr(reference),
    kind if isinstance(kind, type) else None,
    not reference.evaluate,
  )


def _checked_hints(function: Callable[..., Any]) -> Mapping[str, Any]:
  """Maps the arguments of a function that are checked to their hints."""
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
  except (NameError, TypeError):  # hints that only type checkers can read
    return {}


def _order_problems(
  function: Callable[..., Any], bound_values: Mapping[str, _Bound]
) -> Iterator[tuple[int, str]]:
  """Yields a problem if an argument is not less than the one it must be."""
  low_name, high_name = _LESS.get(function.__name__, ('', ''))
  if {low_name, high_name} <= bound_values.keys():
    low, high = bound_values[low_name], bound_values[high_name]
    numbers = (int, float)
    if not isinstance(low.value, numbers) or not isinstance(high.value, int):
      return
    if low.value >= high.value:
      yield (0, f'{low.describe()}: must be less than {high.describe()}.')


def _item(value: Any, step: Any) -> Any:
  return value[step]


def _short(value: Any) -> str:
  try:
    text = repr(value)
  except ValueError:  # Python does not print numbers of so many digits
    text = 'a number of thousands of digits'
  return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'
