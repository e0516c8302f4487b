"""Commands with flags of their own, in place of gin files."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hypertuning import garbage, interrupts, quiet
from hypertuning.errors import UserError, mendable


class Parser(argparse.ArgumentParser):
  """Reads flags; a wrong one is a `UserError`, and no flag is shortened."""

  def __init__(self, command: str, description: str | None) -> None:
    """Makes a parser without flags.

    Args:
      command: name of the command's module, such as `hypertuning.convert`.
      description: what the command does; paragraphs are kept as they are.
    """
    super().__init__(
      f'python -m {command}',
      description=description,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message: str) -> NoReturn:
    """Raises what argparse would print with its usage."""
    raise UserError(f'{message}. --help lists the flags.')


def run(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
  """Runs a command, and returns its exit code.

  Args:
    main: function of the command, which is given the arguments.
    arguments: arguments of the command line, without the program's name.

  Returns:
    0; 2 after a user's error, which is one line on stderr; or 130, as a shell
    does after an interrupt.
  """
  quiet.hush_logs()
  try:
    main(arguments)
  except KeyboardInterrupt:
    return 130
  except Exception as error:
    if interrupts.is_interrupt(error):
      return 130
    line = mendable(error)
    if line is None:
      raise
    print(f'error: {line}', file=sys.stderr)
    return 2
  return 0


def run_without_gin(module: str) -> None:
  """Runs a command without gin files, if its flags are those of this form.

  Such a command ends the process. `--help` shows the flags of this form first,
  and goes on to those of the form with gin files.

  Args:
    module: name of the module with the command's `main` and `parser`.
  """
  arguments = sys.argv[1:]
  is_help = any(text in ('--help', '-h') for text in arguments)
  if is_help and not any(map(_is_gin, arguments)):
    with quiet.closed_pipes():
      importlib.import_module(module).parser().print_help()
      print('\nThe form with gin files:')
  elif arguments and not any(map(_is_gin, arguments)):
    run_process(importlib.import_module(module).main)


def _is_gin(argument: str) -> bool:
  return argument.lstrip('-').startswith(('gin_', 'gin.', 'helpfull'))


def run_process(main: Callable[[Sequence[str]], None]) -> NoReturn:
  """Runs a command with the arguments of this process, and ends it."""
  garbage.collect_rarely()
  interrupts.allow()
  with quiet.closed_pipes():
    sys.exit(run(main, sys.argv[1:]))
