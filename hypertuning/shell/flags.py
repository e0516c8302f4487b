"""What the commands without gin files have in common."""

import contextlib
import os
import typing
from collections.abc import Iterator

from hypertuning import files
from hypertuning.command_line import Parser
from hypertuning.data import row_files
from hypertuning.errors import UserError

if typing.TYPE_CHECKING:
  from hypertuning.api.model import Model
  from hypertuning.api.phi import Base

DEFAULT_MODEL = 'smollm2-135m'


def add_model(parser: Parser, default: str | None = DEFAULT_MODEL) -> None:
  """Adds the flags that name a model."""
  parser.add_argument(
    '--model',
    default=default,
    metavar='MODEL',
    help='a public model, a run, a folder of hypertuning.convert or a file of '
    f'hypertuning.convert --trained ({default or "by default that of phi"})',
  )
  parser.add_argument(
    '--base',
    metavar='FOLDER',
    help='folder of the frozen model, where it has been moved',
  )


def load_model(name: str, base: str | None) -> 'Model':
  """The model that the flags name.

  Raises:
    UserError: there is none; the message names the flag.
  """
  # jax takes a second to import: wrong flags and files are refused before.
  from hypertuning.api import loading

  with _named():
    return loading.load(name, base=base)


def describe(name: str, base: str | None) -> 'Base':
  """What the model that the flags name is, without its weights.

  Raises:
    UserError: there is none; the message names the flag.
  """
  from hypertuning.api import loading

  with _named():
    return loading.describe(name, base)


@contextlib.contextmanager
def _named() -> Iterator[None]:
  """Lets errors name the flag in place of the function."""
  try:
    yield
  except UserError as error:
    message = str(error)
    if not message.startswith('load: '):
      raise
    raise UserError(f'--model: {message.removeprefix("load: ")}') from error


def new_file(path: str, flag: str) -> str:
  """Path of a file that a command writes; refuses one that is there.

  Raises:
    UserError: the file is there, or its folder cannot be written.
  """
  check_new(path, flag)
  files.check_file(path, flag)
  return path


def check_new(path: str, flag: str) -> None:
  """Refuses a path that is there, unless it is an empty folder.

  Raises:
    UserError: the path is there.
  """
  if os.path.exists(path) and not (
    os.path.isdir(path) and not os.listdir(path)
  ):
    raise UserError(f'{flag} = {path!r}: is there already; give a new name.')


def examples(path: str) -> tuple[list[tuple[str, str]], str]:
  """The examples of a file with one task, and its definition.

  Args:
    path: file of rows, see `data.row_files`.

  Raises:
    UserError: the file is missing, is no such file, or has several tasks.
  """
  tasks = row_files.read(path)
  if len(tasks) != 1:
    raise UserError(
      f'{path}: has {len(tasks)} tasks ({", ".join(list(tasks)[:3])}); give '
      'the examples of one task, or --tasks to hypertuning.infer.'
    )
  (task,) = tasks.values()
  return [(row.inputs, row.targets) for row in task.rows], task.definition
