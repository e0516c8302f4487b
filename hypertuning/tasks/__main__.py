"""Lists tasks, shows a task as models read it, or checks a file of rows.

python -m hypertuning.tasks list
python -m hypertuning.tasks show toy --n 3
python -m hypertuning.tasks validate mine.jsonl --shots 4
"""

import argparse
import ast
import importlib
import pkgutil
import re
import sys
import types
from collections.abc import Callable
from typing import NoReturn

from hypertuning import quiet
from hypertuning.errors import UserError

_RAW = argparse.RawDescriptionHelpFormatter


def main(arguments: list[str] | None = None) -> int:
  """Runs a command, and returns its exit code.

  Args:
    arguments: arguments of the command line; None takes those of the process.
  """
  options = _parser().parse_args(arguments)
  quiet.hush_logs()
  try:
    # This imports TensorFlow, which takes seconds: bad arguments are refused
    # before.
    from hypertuning.tasks import show

    return {'list': _list, 'show': _show, 'validate': _validate}[
      options.command
    ](options, show)
  except UserError as error:
    print(f'hypertuning.tasks: error: {error}', file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
  """A parser whose errors are one line."""

  def error(self, message: str) -> NoReturn:
    self.exit(2, f'hypertuning.tasks: error: {message}\n')


def _number(least: int) -> Callable[[str], int]:
  """A function that reads a whole number of at least `least`."""

  def read(text: str) -> int:
    if not re.fullmatch(r'-?\d{1,9}', text):
      raise argparse.ArgumentTypeError(f'{text}: give a whole number')
    if int(text) < least:
      raise argparse.ArgumentTypeError(f'{text}: give {least} or more')
    return int(text)

  return read


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    'python -m hypertuning.tasks', description=__doc__, formatter_class=_RAW
  )
  commands = parser.add_subparsers(dest='command', required=True)
  module = _Parser(add_help=False)
  module.add_argument(
    '--module',
    action='append',
    default=[],
    help='a module that registers tasks, beside those of tasks/',
  )
  commands.add_parser(
    'list', parents=[module], help='the registered tasks and mixtures'
  )
  show = commands.add_parser(
    'show',
    parents=[module],
    help='episodes of a task as the models see them, and their lengths',
  )
  show.add_argument('task')
  show.add_argument('--n', type=_number(0), default=3, help='episodes (3)')
  show.add_argument('--split', default='train', help='of the task (train)')
  show.add_argument(
    '--lengths',
    help="TASK_FEATURE_LENGTHS, such as \"{'hyper_inputs': 1024, 'inputs': "
    "(1, 384), 'targets': (1, 128)}\"; nothing is cut without",
  )
  show.add_argument(
    '--sample',
    type=_number(0),
    default=200,
    help='episodes for statistics (200)',
  )
  validate = commands.add_parser(
    'validate', help='whether a JSONL or TSV file of rows can be used'
  )
  validate.add_argument('file')
  validate.add_argument('--shots', type=_number(0), default=16, help='(16)')
  validate.add_argument('--queries', type=_number(1), default=1, help='(1)')
  validate.add_argument(
    '--field',
    action='append',
    default=[],
    metavar='FIELD=NAME',
    help='the name of a field in the file, such as inputs=question',
  )
  validate.add_argument(
    '--vocabulary', help='a SentencePiece model to count tokens with (bytes)'
  )
  return parser


def _import_all(modules: list[str]) -> None:
  """Imports all modules in tasks/, and further ones by their names."""
  from hypertuning import tasks
  from hypertuning.data import lookup

  for module_info in pkgutil.iter_modules(tasks.__path__):
    if not module_info.name.startswith('_'):
      importlib.import_module(f'hypertuning.tasks.{module_info.name}')
  for module in modules:
    lookup.import_tasks(module, '--module')


def _list(options: argparse.Namespace, show: types.ModuleType) -> int:
  _import_all(options.module)
  print('\n'.join(show.registered()))
  return 0


def _show(options: argparse.Namespace, show: types.ModuleType) -> int:
  _import_all(options.module)
  lengths = None
  if options.lengths is not None:
    try:
      lengths = ast.literal_eval(options.lengths)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
      raise UserError(f'--lengths {options.lengths!r}: not a dict.') from error
  for line in show.describe(
    options.task, options.split, options.n, lengths, options.sample
  ):
    print(line)
  return 0


def _validate(options: argparse.Namespace, show: types.ModuleType) -> int:
  from hypertuning.data import text_format, vocabularies

  vocabulary: text_format.Vocabulary = vocabularies.byte_vocabulary()
  if options.vocabulary:
    vocabulary = vocabularies.sentencepiece(options.vocabulary)
  lines, usable = show.describe_file(
    options.file,
    show.parse_fields(options.field),
    options.shots,
    options.queries,
    text_format.as_vocabulary(vocabulary),
  )
  print('\n'.join(lines))
  return 0 if usable else 1


if __name__ == '__main__':
  with quiet.closed_pipes():
    sys.exit(main())
