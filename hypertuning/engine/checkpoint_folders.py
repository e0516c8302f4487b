"""Which folders of a run are whole checkpoints.

A folder gets its final name only when the checkpoint in it is complete. But a
copy that was cut short, a full disk or a deletion that was killed can leave a
folder of that name in which parts are missing.
"""

import importlib.util
import re

from etils import epath
from orbax.checkpoint import path as ocp_path

from hypertuning import files, text_files
from hypertuning.engine import t5x_format
from hypertuning.errors import UserError

PREFIX = 'checkpoint'
# Orbax finds its files by patterns in which these do not stand for themselves.
_PATTERN = '[]'


def folder(path: str, binding: str) -> epath.Path:
  """The folder of a run or a checkpoint.

  Args:
    path: see `files.folder`.
    binding: name that the user bound the path to, for the error message.

  Raises:
    UserError: Orbax cannot read checkpoints there.
  """
  place = files.folder(path, binding)
  if set(_PATTERN) & set(str(place)):
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
  needed = 'google.cloud.storage'
  if str(run).startswith('gs://') and not _is_installed(needed):
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
  """Maps steps to the folders with a checkpoint's name, whole or not.

  In a bucket, a checkpoint that is still being saved has its final name. It is
  left out.
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


def newest(run: epath.Path, name: str) -> epath.Path | None:
  """The newest checkpoint of a run; None without one.

  Args:
    run: folder of the run.
    name: what the user bound the folder to, for the error message.

  Raises:
    UserError: the newest one is damaged; names the last that is whole.
  """
  found = steps(run)
  if not found:
    return None
  last = found[max(found)]
  if what := problem(last):
    raise UserError(f'{name}: {damaged(last, what)}')
  return last


def latest_step(model_dir: str) -> int | None:
  """Step of the newest finished checkpoint, without making the folder.

  Raises:
    UserError: the folder with the newest checkpoint is damaged.
  """
  place = folder(model_dir, 'MODEL_DIR')
  last = newest(place, f'MODEL_DIR = {model_dir!r}')
  return None if last is None else int(last.name.rpartition('_')[2])


def find(path: str, binding: str = 'CHECKPOINT_PATH') -> epath.Path:
  """The folder of a checkpoint: `path` itself, or the newest one in that run.

  Args:
    path: `MODEL_DIR` or `MODEL_DIR/checkpoint_N`.
    binding: name that the user bound the path to, for the error message.

  Raises:
    UserError: there is no checkpoint, the checkpoint is damaged, or the bucket
      cannot be read.
  """
  place = folder(path, binding)
  name = f'{binding} = {path!r}'
  named = re.fullmatch(rf'{PREFIX}_\d+', place.name)
  try:
    is_checkpoint = (place / 'state').is_dir() or (place.is_dir() and named)
    if is_checkpoint or t5x_format.is_checkpoint(place):
      if what := problem(place):
        raise UserError(f'{name}: {damaged(place, what)}')
      return place
    last = newest(place, name)
  except UserError:
    raise
  except Exception as error:  # the library of each kind of bucket has its own
    raise UserError(
      f'{name}: cannot be read ({type(error).__name__}: '
      f'{error}); is the bucket there, and may this machine read it?'
    ) from error
  if last is None:
    raise UserError(
      f'{name}: no checkpoint there; give a MODEL_DIR or a {PREFIX}_N folder.'
    )
  return last


def check_teacher(needed: bool, path: str | None, initial: str | None) -> None:
  """Refuses a teacher without weights, and weights without a teacher.

  Args:
    needed: whether the model has a network `teacher`.
    path: value of TEACHER_CHECKPOINT_PATH.
    initial: value of INITIAL_CHECKPOINT_PATH.

  Raises:
    UserError: says which of the two to bind, or that there is no checkpoint.
  """
  if not needed and not path:
    return
  if not (needed and path and initial):
    raise UserError(
      f'TEACHER_CHECKPOINT_PATH = {path!r}: a model with a TEACHER needs it '
      'and INITIAL_CHECKPOINT_PATH; one without cannot use it.'
    )
  find(path, 'TEACHER_CHECKPOINT_PATH')


def damaged(checkpoint: epath.Path, what: str) -> str:
  """One line about a damaged checkpoint, with what to do.

  Args:
    checkpoint: folder of the checkpoint.
    what: what is wrong with it.
  """
  earlier = steps(checkpoint.parent)
  whole = [
    step
    for step, place in earlier.items()
    if place != checkpoint and not problem(place)
  ]
  line = f'{checkpoint} is no whole checkpoint ({what});'
  if not whole:
    return f'{line} delete that folder; no other checkpoint is whole there.'
  return (
    f'{line} the last whole one there is {PREFIX}_{max(whole)}: delete the '
    'damaged folder to go on from it.'
  )


def problem(checkpoint: epath.Path) -> str | None:
  """What a folder lacks to be a checkpoint; None if it lacks nothing.

  The values of the arrays are not read.
  """
  if t5x_format.is_checkpoint(checkpoint):
    return None
  if files.is_remote(checkpoint) and not _is_committed(checkpoint):
    return 'it was not saved to the end'
  for item in _items(checkpoint):
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


def _items(checkpoint: epath.Path) -> list[str]:
  """The items that a checkpoint must have.

  Those of t5x have another `dataset`, which is not read here.
  """
  description = checkpoint / '_CHECKPOINT_METADATA'
  try:
    handlers = text_files.read_json(description)['item_handlers']
    ours = handlers.get('dataset', '').endswith('.StandardCheckpointHandler')
  except (UserError, KeyError, AttributeError):
    ours = False
  return ['state', 'dataset'] if ours else ['state']


def _empty_file(item: epath.Path) -> str | None:
  """The name of an empty file with values of arrays; None without one."""
  for data in (item / 'd', *(child / 'd' for child in item.iterdir())):
    for file in data.iterdir() if data.is_dir() else ():
      if not files.size(file):
        return str(file.relative_to(item))
  return None


def _is_committed(checkpoint: epath.Path) -> bool:
  return ocp_path.step.is_checkpoint_finalized(
    checkpoint
  ) or t5x_format.is_checkpoint(checkpoint)
