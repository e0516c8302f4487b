"""What must not change while a run is stopped and started again.

A run goes on from its last checkpoint with the weights, the optimizer state and
the place in the data of the starts before. A setting that made one of these
would be ignored, or would mix two runs, if it changed. It is recorded when the
run starts, and compared at every later start. docs/restarts.md has the table.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hypertuning import files, text_files
from hypertuning.data import row_digest
from hypertuning.engine import checkpoint_folders
from hypertuning.engine.task_data import TaskData
from hypertuning.engine.warm_start import WarmStart
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

FILE = 'settings.json'
# Digests say nothing to a reader; whether they differ is all that counts.
_DIGESTS = ('rows of ', 'settings of ')
# The section of a command's own arguments in `config.gin`.
_COMMAND = re.compile(
  r'^# Parameters for (?:\w+\.)*(train|eval|infer|adapt)\.\w+:$', re.M
)
# A field of a model that changes neither its numbers nor its parameters.
_FREE_FIELDS = {'remat_policy', 'parent', 'name'}
_MODEL_FIELDS = {
  'TRAINABLE_REGEX': 'trainable_regex',
  'FROZEN_DTYPE': '_frozen_dtype',
  'DISTILLATION_WEIGHT': '_distillation_weight',
  'models.HyperTuningModel.label_smoothing': '_label_smoothing',
  'models.HyperTuningModel.z_loss': '_z_loss',
  'models.HyperTuningModel.loss_normalizing_factor': '_loss_normalizing_factor',
}


def settings(
  model: HyperTuningModel, data: TaskData, start: WarmStart, seed: int
) -> dict[str, str]:
  """The settings of a run that must not change, by name.

  Args:
    model: the model that is trained.
    data: the episodes that it is trained on; their tasks have been imported.
    start: the checkpoints that the first weights come from.
    seed: seed of the initial weights and of dropout.

  Returns:
    Maps the name of each setting, a macro where there is one, to its value as
    text or to a digest.
  """
  values = {
    'MIXTURE_OR_TASK_NAME': data.name,
    'TASK_FEATURE_LENGTHS': dict(data.lengths),
    'data.TaskData.split': data.split,
    'USE_CACHED_TASKS': data.use_cached,
    'RANDOM_SEED': seed,
    'data.TaskData.seed': data.seed,
    'INITIAL_CHECKPOINT_PATH': start.path,
    'TEACHER_CHECKPOINT_PATH': start.teacher,
    **{name: getattr(model, field) for name, field in _MODEL_FIELDS.items()},
  }
  return {
    **{name: _text(value) for name, value in values.items()},
    **dict(_fields(model.module, 'model')),
    **dict(_fields(model.text_format, 'TEXT_FORMAT')),
    **row_digest.describe(
      data.required_name, data.lengths, data.split, data.seed, data.use_cached
    ),
  }


def check(model_dir: str, now: Mapping[str, str]) -> None:
  """Refuses to go on with a run under other settings than its own.

  A run without a record, of an earlier version, goes on.

  Args:
    model_dir: folder of the run.
    now: the settings of this start, see `settings`.

  Raises:
    UserError: names the setting, its value and that of the run.
  """
  path = files.folder(model_dir) / FILE
  if not path.exists():
    return
  try:
    before = text_files.parse_object(text_files.read_text(path))
  except text_files.MalformedError as error:
    raise UserError(f'{path}: is damaged ({error}); delete it.') from error
  # A later version may know more settings, and know others no more.
  changed = [
    name
    for name in before
    if name in now and before[name] != now[name]
    if not _has_moved(name, before[name], now[name])
  ]
  if not changed:
    return
  name = changed[0]
  what = f'{name} = {now[name]}: '
  was = f'with {before[name]}'
  if name.startswith(_DIGESTS):
    what, was = f'The {name} have changed: ', 'with others'
  more = f' ({len(changed)} settings differ in all)' if changed[1:] else ''
  raise UserError(
    f'{what}the run in MODEL_DIR = {model_dir!r} was started {was}{more}, and '
    'cannot go on like this (docs/restarts.md). Use another MODEL_DIR, or the '
    'config.gin that stands in this one.'
  )


def record(model_dir: str, now: Mapping[str, str]) -> None:
  """Writes the settings of a run into its folder."""
  files.write_text(model_dir, FILE, json.dumps(dict(now), indent=1) + '\n')


def keep_config(model_dir: str, step: int, text: str) -> None:
  """Keeps the `config.gin` of earlier starts, if this one has another.

  Args:
    model_dir: folder of the run.
    step: number of steps that the earlier starts have done; their file becomes
      `config_until_STEP.gin`.
    text: the configuration of this start.
  """
  path = files.folder(model_dir) / 'config.gin'
  name = f'config_until_{step}.gin'
  # If the file is there, the start that wrote `config.gin` did not get as far
  # as its first checkpoint.
  if (path.parent / name).exists() or not path.exists():
    return
  before = text_files.read_text(path)
  if before != text:
    files.write_text(model_dir, name, before)


def refuse_others(folder: str, binding: str, command: str) -> None:
  """Refuses a folder that has the results of another command.

  The `config.gin` there would be replaced, and would no longer say what made
  the other files.

  Args:
    folder: folder that gets the results.
    binding: name that the user bound it to.
    command: name of the command that writes them.

  Raises:
    UserError: the folder has checkpoints, or the `config.gin` of another
      command or one that cannot be read.
  """
  path = files.folder(folder, binding) / 'config.gin'
  text = text_files.read_text(path) if path.exists() else ''
  others = set(_COMMAND.findall(text)) - {command}
  if command != 'train' and checkpoint_folders.latest_step(folder) is not None:
    others = {'train'}
  if others:
    raise UserError(
      f'{binding} = {folder!r}: has the output of hypertuning.{min(others)}, '
      'whose config.gin would be overwritten; give another folder.'
    )


def _has_moved(name: str, before: str, now: str) -> bool:
  """Whether a setting is a checkpoint that was moved since the run started.

  That another checkpoint is given shows by the first one still being there.
  """
  if not name.endswith('_CHECKPOINT_PATH') or 'None' in (before, now):
    return False
  try:
    checkpoint_folders.find(before, name)
  except UserError:
    return True
  return False


def _fields(value: Any, path: str) -> Iterator[tuple[str, str]]:
  """The settings of a module, and of the configurations that it holds."""
  if not dataclasses.is_dataclass(value) or isinstance(value, type):
    yield path, _text(value)
    return
  yield path, type(value).__name__
  for field in dataclasses.fields(value):
    if field.name not in _FREE_FIELDS:
      yield from _fields(getattr(value, field.name), f'{path}.{field.name}')


def _text(value: Any) -> str:
  """A value as text that is the same in every process."""
  if isinstance(value, Mapping):
    items = (f'{_text(k)}: {_text(value[k])}' for k in sorted(value))
    return f'{{{", ".join(items)}}}'
  if isinstance(value, (list, tuple)):
    return f'({", ".join(map(_text, value))})'
  if value is None or isinstance(value, (bool, int, float)):
    return repr(value)
  if isinstance(value, str):
    return value
  return getattr(value, '__qualname__', type(value).__name__)
