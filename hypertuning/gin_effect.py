"""Finds the bindings of a gin configuration that have no effect.

There are two kinds: bindings of a function that the command never calls, and
bindings of an argument that the caller passes itself. Gin reports neither, and
`config.gin` would record both as if they had been used.
"""

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gin import config as gin_config
from gin import config_parser

from hypertuning import text_files
from hypertuning.errors import UserError

MACRO = 'gin.macro'
_Key = tuple[str, str]  # a scope, and the full name of a function


def reachable_bindings(
  macros: Collection[str] = (),
  selectors: Collection[str] = (),
  empty_macro: str = '',
) -> dict[_Key, dict[str, Any]]:
  """All bindings that macros, or calls of functions, can depend on.

  Args:
    macros: names of macros.
    selectors: full names of functions, as gin registers them.
    empty_macro: name of a macro whose value is not searched, and is None in the
      result.

  Returns:
    The part of gin's configuration that they can depend on.
  """
  # Gin has no public way to read its configuration.
  config = gin_config._CONFIG
  bindings: dict[_Key, dict[str, Any]] = {}
  scopes, functions, macros = {''}, set(selectors), set(macros)
  size = -1
  # A scope that is reached later may make bindings reachable that were skipped.
  while size < len(bindings):
    size = len(bindings)
    for (scope, selector), arguments in config.items():
      if selector == MACRO:
        is_reachable = scope in macros
      else:
        # A method belongs to its class.
        owners = {selector, selector.rpartition('.')[0]}
        is_reachable = (
          bool(owners & functions) and set(scope.split('/')) <= scopes
        )
      if not is_reachable or (scope, selector) in bindings:
        continue
      if (scope, selector) == (empty_macro, MACRO):
        arguments = {'value': None}
      bindings[scope, selector] = arguments
      for reference in gin_config.iterate_references(arguments):
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
  """Refuses flags without effect, and names bindings of files without effect.

  A file may serve several commands, so that its bindings are not refused: a
  line on stderr names them.

  Args:
    function: function of the command, which gin configures.
    bindings: bindings that were given as flags, `NAME = value`.
    files: paths of the user's own gin files.

  Raises:
    UserError: a flag binds an argument of a function that is never called.
  """
  root = gin_config._inverse_lookup(function)
  if root is None:  # the error is reported when the function is called
    return
  keys = reachable_bindings(selectors=[root.selector]).keys()
  selectors = {selector for _, selector in keys}
  for binding in bindings:
    for key, name in _written_bindings(binding):
      if (key not in keys) if key[1] == MACRO else key[1] not in selectors:
        raise UserError(
          f'--gin.{name}: has no effect, as this command does not use it; '
          'remove it.'
        )
  for file in files:
    names = [
      name
      for key, name in _written_bindings(text_files.read_text(file))
      if key[1] not in {MACRO, *selectors}
    ]
    if names:
      ending = f' and {len(names) - 3} more' if len(names) > 3 else ''
      print(
        f'{file}: this command does not use {", ".join(names[:3])}{ending}.',
        file=sys.stderr,
      )


def check_overridden() -> None:
  """Refuses bindings of arguments that the callers have passed themselves.

  Only functions that have been called by now are checked. Commands therefore
  call this once every part has been used, and before they write anything.

  Raises:
    UserError: names the binding.
  """
  # The scope of each call, and the arguments whose bindings it used.
  calls: dict[str, list[tuple[str, set[str]]]] = {}
  for (scope, selector), arguments in gin_config._OPERATIVE_CONFIG.items():
    calls.setdefault(selector, []).append((scope, set(arguments)))
  # Nothing refers to the command's own function, which Python calls.
  referenced_selectors = {
    reference.configurable.selector
    for reference in gin_config.iterate_references(gin_config._CONFIG)
  }
  for (scope, selector), bindings in gin_config._CONFIG.items():
    owners = {selector, selector.rpartition('.')[0]}
    if selector == MACRO or not owners & referenced_selectors:
      continue
    scope_calls = [
      arguments
      for call_scope, arguments in calls.get(selector, ())
      if f'{call_scope}/'.startswith(f'{scope}/' if scope else '')
    ]
    for name, value in bindings.items() if scope_calls else ():
      if not any(name in arguments for arguments in scope_calls):
        function = f'{scope}/{selector}' if scope else selector
        raise UserError(
          f'{function}.{name} = {value!r}: has no effect, as the caller of the '
          'function passes this argument itself; remove it.'
        )


class _Names(config_parser.ParserDelegate):
  """Reads gin's syntax without looking anything up."""

  def configurable_reference(self, *unused: Any) -> None:
    """A reference, whose value is not needed."""

  def macro(self, *unused: Any) -> None:
    """A macro, whose value is not needed."""


def _written_bindings(text: str) -> Iterator[tuple[_Key, str]]:
  """Yields gin's key, and the name as it is written, of each binding."""
  for statement in config_parser.ConfigParser(text, _Names()):
    if not isinstance(statement, config_parser.BindingStatement):
      continue
    short_name = statement.selector
    if not statement.arg_name:
      yield (short_name, MACRO), short_name
      continue
    # After an import, a file may write only the last parts of a full name.
    matches = {
      selector
      for _, selector in gin_config._CONFIG
      if f'.{selector}'.endswith(f'.{short_name}')
    }
    if len(matches) == 1:
      name = f'{short_name}.{statement.arg_name}'
      yield (statement.scope, matches.pop()), name
