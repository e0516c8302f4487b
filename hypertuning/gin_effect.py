"""Which bindings of a gin configuration have an effect.

Gin itself keeps quiet about two kinds of bindings without one: those of a
function that the command never calls, and those of an argument that the caller
passes itself. `config.gin` would record both as if they had been used.
"""

import pathlib
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gin import config as gin_config
from gin import config_parser

from hypertuning import text_files
from hypertuning.errors import UserError

MACRO = 'gin.macro'
_Key = tuple[str, str]  # a scope, and the full name of a function


def reachable(
  macros: Collection[str] = (),
  selectors: Collection[str] = (),
  without: str = '',
) -> dict[_Key, dict[str, Any]]:
  """All bindings that macros, or calls of functions, can depend on.

  Args:
    macros: names of macros.
    selectors: full names of functions, as gin registers them.
    without: name of a macro whose value is not looked into, and is None in the
      result.

  Returns:
    The part of gin's configuration that they can depend on.
  """
  # Gin has no public way to read its configuration.
  config = gin_config._CONFIG
  bindings: dict[_Key, dict[str, Any]] = {}
  scopes, functions, macros = {''}, set(selectors), set(macros)
  size = -1
  # A scope that is reached late may make bindings reachable that were skipped.
  while size < len(bindings):
    size = len(bindings)
    for (scope, selector), bound in config.items():
      if selector == MACRO:
        applies = scope in macros
      else:
        # A method belongs to its class.
        owners = {selector, selector.rpartition('.')[0]}
        applies = bool(owners & functions) and set(scope.split('/')) <= scopes
      if not applies or (scope, selector) in bindings:
        continue
      if (scope, selector) == (without, MACRO):
        bound = {'value': None}
      bindings[scope, selector] = bound
      for reference in gin_config.iterate_references(bound):
        scope, _, _ = reference.scoped_selector.rpartition('/')
        if reference.configurable.selector == MACRO:
          macros.add(scope)
        else:
          scopes.update(scope.split('/'))
          functions.add(reference.configurable.selector)
  return bindings


def check_reached(
  function: Any, bindings: Sequence[str], files: Sequence[str]
) -> None:
  """Refuses flags that the command does not read, and names such lines.

  Files may serve several commands: their lines are only named, on stderr.

  Args:
    function: function of the command, which gin configures.
    bindings: the bindings of the flags, `NAME = value`.
    files: gin files of the user's own.

  Raises:
    UserError: a flag binds an argument of a function that is never called.
  """
  root = gin_config._inverse_lookup(function)
  if root is None:  # the error is reported when the function is called
    return
  reached = reachable(selectors=[root.selector]).keys()
  selectors = {selector for _, selector in reached}
  for binding in bindings:
    for key, name in _bound(binding):
      if (key not in reached) if key[1] == MACRO else key[1] not in selectors:
        raise UserError(
          f'--gin.{name}: has no effect, as this command does not use it; '
          'remove it.'
        )
  for file in files:
    unread = [
      name
      for key, name in _bound(text_files.read_text(pathlib.Path(file)))
      if key[1] not in {MACRO, *selectors}
    ]
    if unread:
      more = f' and {len(unread) - 3} more' if len(unread) > 3 else ''
      print(
        f'{file}: this command does not use {", ".join(unread[:3])}{more}.',
        file=sys.stderr,
      )


def check_overridden() -> None:
  """Refuses bindings of arguments that the callers have passed themselves.

  Only functions that have been called by now are judged, so that this belongs
  behind the first use of all parts, and before anything is written.

  Raises:
    UserError: names the binding.
  """
  called: dict[str, list[tuple[str, set[str]]]] = {}
  for (scope, selector), used in gin_config._OPERATIVE_CONFIG.items():
    called.setdefault(selector, []).append((scope, set(used)))
  # What nothing refers to is the command itself, called from Python.
  referred = {
    reference.configurable.selector
    for reference in gin_config.iterate_references(gin_config._CONFIG)
  }
  for (scope, selector), bound in gin_config._CONFIG.items():
    owners = {selector, selector.rpartition('.')[0]}
    if selector == MACRO or not owners & referred:
      continue
    calls = [
      used
      for call_scope, used in called.get(selector, ())
      if f'{call_scope}/'.startswith(f'{scope}/' if scope else '')
    ]
    unused = [
      name
      for name in bound
      if calls and not any(name in used for used in calls)
    ]
    if unused:
      name = f'{scope}/{selector}' if scope else selector
      raise UserError(
        f'{name}.{unused[0]} = {bound[unused[0]]!r}: has no effect, as the '
        'caller of the function passes this argument itself; remove it.'
      )


class _Names(config_parser.ParserDelegate):
  """Reads gin's syntax without looking anything up."""

  def configurable_reference(self, *unused: Any) -> None:
    """A reference, whose value is not needed."""

  def macro(self, *unused: Any) -> None:
    """A macro, whose value is not needed."""


def _bound(text: str) -> Iterator[tuple[_Key, str]]:
  """The bindings of a text: gin's key of each, and its name as written."""
  for statement in config_parser.ConfigParser(text, _Names()):
    if not isinstance(statement, config_parser.BindingStatement):
      continue
    written = statement.selector
    if not statement.arg_name:
      yield (written, MACRO), written
      continue
    # An import gives a module a short name: its last parts are the full name's.
    matches = {
      selector
      for _, selector in gin_config._CONFIG
      if f'.{selector}'.endswith(f'.{written}')
    }
    if len(matches) == 1:
      name = f'{written}.{statement.arg_name}'
      yield (statement.scope, matches.pop()), name
