"""Refuses to restart a run with settings that must not change.

A run that is started again takes the weights, the optimizer state and the place
in the data from its last checkpoint. If a setting that determined one of these
changed, the change would be ignored, or would mix two runs. Such settings are
recorded when a run starts, and compared at every later start. docs/restarts.md
lists them.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

from hypertuning import files, saved_config, text_files
from hypertuning.engine import checkpoint_folders
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.engine.warm_start import WarmStart
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

FILE = 'settings.json'
# Settings whose values are digests, which are not shown: they mean nothing to a
# reader.
_DIGESTS = ('rows of ', 'settings of ', 'episodes of ')
# Recorded names of classes that have been renamed: one class once stood for all
# vocabularies of seqio, and a run that recorded it may go on.
_CLASS_NAMES = {
  'ByteVocabulary': 'SeqioVocabulary',
  'SentencePieceVocabulary': 'SeqioVocabulary',
}
# Fields of a model that change neither its parameters nor its results, but for
# rounding.
_FREE_FIELDS = {
  *('attention', 'remat_policy', 'matmul_precision', 'parent', 'name'),
}
_MODEL_FIELDS = {
  'TRAINABLE_REGEX': 'trainable_regex',
  'FROZEN_DTYPE': '_frozen_dtype',
  'DISTILLATION_WEIGHT': '_distillation_weight',
  'models.HyperTuningModel.label_smoothing': '_label_smoothing',
  'models.HyperTuningModel.z_loss': '_z_loss',
  'models.HyperTuningModel.loss_normalizing_factor': '_loss_normalizing_factor',
}


def settings(
  model: HyperTuningModel, data: EpisodeData, start: WarmStart, seed: int
) -> dict[str, str]:
  """The settings of a run that must not change, by name.

  Args:
    model: the model that is trained.
    data: the episodes that it is trained on, whose tasks have been imported.
    start: the checkpoints that the first weights come from.
    seed: seed of the initial weights and of dropout.

  Returns:
    Maps the name of each setting, which is its macro if it has one, to its
    value as text, or to a digest.
  """
  values = {
    'RANDOM_SEED': seed,
    'INITIAL_CHECKPOINT_PATH': start.path,
    'TEACHER_CHECKPOINT_PATH': start.teacher,
    **{name: getattr(model, field) for name, field in _MODEL_FIELDS.items()},
  }
  return {
    **{name: text(value) for name, value in values.items()},
    **data.settings(),
    **dict(_fields(model.module, 'model')),
    **dict(_fields(model.text_format, 'TEXT_FORMAT')),
  }


def check(model_dir: str, values: Mapping[str, str]) -> None:
  """Refuses to go on with a run whose recorded settings differ.

  A run without a record, which an earlier version has started, may go on.

  Args:
    model_dir: folder of the run.
    values: the settings of this start, see `settings`.

  Raises:
    UserError: names the setting, its value and its recorded value.
  """
  path = files.folder(model_dir) / FILE
  if not path.exists():
    return
  try:
    record_values = text_files.parse_object(text_files.read_text(path))
  except text_files.MalformedError as error:
    raise UserError(f'{path}: is damaged ({error}); delete it.') from error
  # Another version may have recorded other settings: these are not compared.
  differences = [
    name
    for name, value in record_values.items()
    if name in values and value != values[name]
    if not _has_moved(name, value, values[name])
  ]
  if not differences:
    return
  name = differences[0]
  subject = f'{name} = {values[name]}: '
  start = f'with {record_values[name]}'
  if name.startswith(_DIGESTS):
    subject, start = f'The {name} have changed: ', 'with others'
  if len(differences) > 1:
    start += f' ({len(differences)} settings differ in all)'
  raise UserError(
    f'{subject}the run in MODEL_DIR = {model_dir!r} was started {start}, and '
    'cannot go on like this (docs/restarts.md). Use another MODEL_DIR, or the '
    'config.gin that stands in this one.'
  )


def record(model_dir: str, values: Mapping[str, str]) -> None:
  """Writes the settings of a run into its folder.

  Args:
    model_dir: folder of the run.
    values: the settings of this start, see `settings`.
  """
  files.write_text(model_dir, FILE, json.dumps(dict(values), indent=1) + '\n')


def keep_config(model_dir: str, step: int, text: str) -> None:
  """Keeps the `config.gin` of the previous start, if this start has another.

  Args:
    model_dir: folder of the run.
    step: number of steps that have been done so far; the file is kept as
      `config_until_STEP.gin`.
    text: text of the configuration of this start.
  """
  path = files.folder(model_dir) / 'config.gin'
  name = f'config_until_{step}.gin'
  # If the file exists, the start that wrote `config.gin` saved no checkpoint:
  # no step of the run was done with that configuration.
  if (path.parent / name).exists() or not path.exists():
    return
  before = text_files.read_text(path)
  if before != text:
    files.write_text(model_dir, name, before)


def refuse_other_commands(folder: str, binding: str, command: str) -> None:
  """Refuses a folder that has the results of another command.

  The `config.gin` of that command would be replaced, so that nothing would say
  any more how its results were made.

  Args:
    folder: path of the folder that gets the results.
    binding: name of the gin binding that gives the folder.
    command: name of the command that writes the results.

  Raises:
    UserError: the folder has checkpoints, or the `config.gin` of another
      command or one that cannot be read. The `config.gin` of an earlier version
      does not say whose it is, and is replaced.
  """
  path = files.folder(folder, binding) / 'config.gin'
  text = text_files.read_text(path) if path.exists() else ''
  other = saved_config.command_of(text)
  if command != 'train' and checkpoint_folders.latest_step(folder) is not None:
    other = 'train'
  if other not in (command, None):
    raise UserError(
      f'{binding} = {folder!r}: has the output of hypertuning.{other}, '
      'whose config.gin would be overwritten; give another folder.'
    )


def _has_moved(name: str, old_value: str, new_value: str) -> bool:
  """Whether a setting is a checkpoint that was moved since the run started.

  If the old path still has a checkpoint, the new path is another checkpoint.
  """
  if not name.endswith('_CHECKPOINT_PATH') or 'None' in (old_value, new_value):
    return False
  try:
    checkpoint_folders.find(old_value, name)
  except UserError:
    return True
  return False


def _fields(value: Any, path: str) -> Iterator[tuple[str, str]]:
  """Yields the settings of a module, and of the configurations in it."""
  if not dataclasses.is_dataclass(value) or isinstance(value, type):
    yield path, text(value)
    return
  yield path, type(value).__name__
  for field in dataclasses.fields(value):
    if field.name not in _FREE_FIELDS:
      yield from _fields(getattr(value, field.name), f'{path}.{field.name}')


def text(value: Any) -> str:
  """Text for a value, which is the same in every process."""
  if isinstance(value, Mapping):
    items = (f'{text(k)}: {text(value[k])}' for k in sorted(value))
    return f'{{{", ".join(items)}}}'
  if isinstance(value, (list, tuple)):
    return f'({", ".join(map(text, value))})'
  if value is None or isinstance(value, (bool, int, float)):
    return repr(value)
  if isinstance(value, str):
    return value
  name = getattr(value, '__qualname__', type(value).__name__)
  return _CLASS_NAMES.get(name, name)
