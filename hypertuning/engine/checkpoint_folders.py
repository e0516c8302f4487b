"""Finds the checkpoints of a run, and tells complete from damaged ones.

A folder gets its final name only when the checkpoint in it is complete. But an
interrupted copy, a full disk or an interrupted deletion can leave a folder of
that name in which parts are missing.
"""

import importlib.util
import re

from etils import epath
from orbax.checkpoint import path as ocp_path

from hypertuning import files, text_files
from hypertuning.engine import t5x_format
from hypertuning.errors import UserError

PREFIX = 'checkpoint'
# The item of a checkpoint without frozen variables, and Orbax's name for the
# file of a JSON item.
FROZEN = 'frozen'
FROZEN_FILE = f'{FROZEN}/metadata'
# Orbax finds its files by glob patterns, in which these have another meaning.
_PATTERN_CHARACTERS = '[]'


def folder(path: str, binding: str) -> epath.Path:
  """The folder of a run or a checkpoint.

  Args:
    path: path of the folder, see `files.folder`.
    binding: name of the gin binding that gives the path, for the error message.

  Raises:
    UserError: Orbax cannot read checkpoints in a folder of this name.
  """
  place = files.folder(path, binding)
  if set(_PATTERN_CHARACTERS) & set(str(place)):
    raise UserError(
      f'{binding} = {path!r}: checkpoints cannot be in a folder with [ or ] in '
      f'its path ({place}); rename it.'
    )
  return place


def check_saving(run: epath.Path) -> None:
  """Makes sure that checkpoints can be saved in a folder.

  Args:
    run: folder of the run.

  Raises:
    UserError: Orbax lacks a package that it needs for this bucket.
  """
  module = 'google.cloud.storage'
  if str(run).startswith('gs://') and not _is_installed(module):
    raise UserError(
      f'MODEL_DIR = {str(run)!r}: Orbax needs the package '
      "google-cloud-storage to save there: pip install '.[gcs]'."
    )


def _is_installed(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False


def steps(run: epath.Path) -> dict[int, epath.Path]:
  """Maps steps to the folders with a checkpoint's name, damaged ones included.

  In a bucket, a checkpoint already has its final name while it is being saved.
  It is left out until it is complete.
  """
  children = run.iterdir() if run.is_dir() else ()
  matches = ((re.fullmatch(rf'{PREFIX}_(\d+)', c.name), c) for c in children)
  return {
    int(match[1]): child
    for match, child in matches
    if match and (not files.is_remote(child) or _is_committed(child))
  }


def count(run: epath.Path) -> int:
  """The number of checkpoints of a run."""
  return len(steps(run))


def newest_checkpoint(run: epath.Path, name: str) -> epath.Path | None:
  """The newest checkpoint of a run; None if it has no checkpoint.

  Args:
    run: folder of the run.
    name: binding and path of the folder, which begin the error message.

  Raises:
    UserError: the newest checkpoint is damaged; names the last complete one.
  """
  folders = steps(run)
  if not folders:
    return None
  checkpoint = folders[max(folders)]
  if fault := problem(checkpoint):
    raise UserError(f'{name}: {damage_message(checkpoint, fault)}')
  return checkpoint


def latest_step(model_dir: str) -> int | None:
  """The step of the newest checkpoint of a run; None if it has no checkpoint.

  Args:
    model_dir: value of MODEL_DIR; a missing folder is not made.

  Raises:
    UserError: the folder with the newest checkpoint is damaged.
  """
  place = folder(model_dir, 'MODEL_DIR')
  checkpoint = newest_checkpoint(place, f'MODEL_DIR = {model_dir!r}')
  if checkpoint is None:
    return None
  return int(checkpoint.name.rpartition('_')[2])


def of_step(model_dir: str, step: int) -> epath.Path:
  """The folder of the checkpoint that a run saves after a step."""
  return folder(model_dir, 'MODEL_DIR') / f'{PREFIX}_{step}'


def find(path: str, binding: str = 'CHECKPOINT_PATH') -> epath.Path:
  """The folder of a checkpoint: `path` itself, or the newest one in that run.

  Args:
    path: `MODEL_DIR` or `MODEL_DIR/checkpoint_N`.
    binding: name of the gin binding that gives the path, for the error message.

  Raises:
    UserError: there is no checkpoint, the checkpoint is damaged, or the bucket
      cannot be read.
  """
  place = folder(path, binding)
  name = f'{binding} = {path!r}'
  has_step = re.fullmatch(rf'{PREFIX}_\d+', place.name) is not None
  try:
    is_checkpoint = (place / 'state').is_dir() or (place.is_dir() and has_step)
    if is_checkpoint or t5x_format.is_checkpoint(place):
      if fault := problem(place):
        raise UserError(f'{name}: {damage_message(place, fault)}')
      return place
    checkpoint = newest_checkpoint(place, name)
  except UserError:
    raise
  except Exception as error:  # the library of each kind of bucket has its own
    raise UserError(
      f'{name}: cannot be read ({type(error).__name__}: '
      f'{error}); is the bucket there, and may this machine read it?'
    ) from error
  if checkpoint is None:
    raise UserError(
      f'{name}: no checkpoint there; give a MODEL_DIR or a {PREFIX}_N folder.'
    )
  return checkpoint


def check_teacher(
  has_teacher: bool, path: str | None, initial: str | None
) -> None:
  """Refuses a teacher without weights, and weights without a teacher.

  Args:
    has_teacher: whether the model has a network `teacher`.
    path: value of TEACHER_CHECKPOINT_PATH.
    initial: value of INITIAL_CHECKPOINT_PATH.

  Raises:
    UserError: says which of the two to bind, or that there is no checkpoint.
  """
  if not has_teacher and not path:
    return
  if not (has_teacher and path and initial):
    raise UserError(
      f'TEACHER_CHECKPOINT_PATH = {path!r}: a model with a TEACHER needs it '
      'and INITIAL_CHECKPOINT_PATH; one without cannot use it.'
    )
  find(path, 'TEACHER_CHECKPOINT_PATH')


def damage_message(checkpoint: epath.Path, fault: str) -> str:
  """One line that names a damaged checkpoint and says what to do.

  Args:
    checkpoint: folder of the checkpoint.
    fault: phrase that says what is wrong with it.
  """
  complete_steps = [
    step
    for step, place in steps(checkpoint.parent).items()
    if place != checkpoint and not problem(place)
  ]
  line = f'{checkpoint} is not a complete checkpoint ({fault});'
  if not complete_steps:
    return f'{line} delete that folder; no other checkpoint there is complete.'
  return (
    f'{line} the last complete one there is {PREFIX}_{max(complete_steps)}: '
    'delete the damaged folder to go on from it.'
  )


def problem(checkpoint: epath.Path) -> str | None:
  """The part that a folder lacks to be a checkpoint; None if it is complete.

  The values of the arrays are not read.

  Args:
    checkpoint: path of the folder.
  """
  if t5x_format.is_checkpoint(checkpoint):
    return None
  if files.is_remote(checkpoint) and not _is_committed(checkpoint):
    return 'it was not saved to the end'
  handlers = _handlers(checkpoint)
  if FROZEN in handlers and not (checkpoint / FROZEN_FILE).exists():
    return f'no file {FROZEN_FILE}'
  for item in _items(handlers):
    place = checkpoint / item
    if not place.is_dir():
      return f'no folder {item!r}'
    description = place / '_METADATA'
    if not description.exists():
      return f'no file {item}/_METADATA'
    try:
      uses_ocdbt = text_files.read_json(description).get('use_ocdbt')
    except UserError:
      return f'{item}/_METADATA is damaged'
    if uses_ocdbt and not (place / 'manifest.ocdbt').exists():
      return f'no file {item}/manifest.ocdbt'
    if not files.is_remote(place) and (name := _empty_file(place)):
      return f'{item}/{name} is empty'
  return None


def _handlers(checkpoint: epath.Path) -> dict[str, str]:
  """Maps the items of a checkpoint to Orbax's names of their formats."""
  description = checkpoint / '_CHECKPOINT_METADATA'
  try:
    return dict(text_files.read_json(description)['item_handlers'])
  except (UserError, KeyError, TypeError, ValueError):
    return {}


def _items(handlers: dict[str, str]) -> list[str]:
  """The names of the items with arrays that a checkpoint must have.

  t5x saves the place in its data in another form, which is not read here.

  Args:
    handlers: see `_handlers`.
  """
  handler = str(handlers.get('dataset'))
  has_position = handler.endswith('.StandardCheckpointHandler')
  return ['state', 'dataset'] if has_position else ['state']


def _empty_file(item: epath.Path) -> str | None:
  """The name of an empty file of array values; None if no file is empty."""
  for data in (item / 'd', *(child / 'd' for child in item.iterdir())):
    for file in data.iterdir() if data.is_dir() else ():
      if not files.size(file):
        return str(file.relative_to(item))
  return None


def _is_committed(checkpoint: epath.Path) -> bool:
  return ocp_path.step.is_checkpoint_finalized(
    checkpoint
  ) or t5x_format.is_checkpoint(checkpoint)
