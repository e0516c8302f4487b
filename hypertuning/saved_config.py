"""The gin files that a command leaves beside its results.

`config.gin` is the whole configuration. `model.gin`, beside the checkpoints of
a run, is the part of it that builds the model. It names no task, no folder and
no optimizer: with it, another command builds the same model without what the
run was trained on:

    python -m hypertuning.eval --gin_file=run/model.gin \\
      --gin_file=gin/local/eval.gin --gin.CHECKPOINT_PATH="'run'" ...
"""

import re
from typing import Any

import gin
from gin import config as gin_config
from gin import config_parser

from hypertuning import files, gin_effect

MODEL_FILE, _CONFIG_FILE = 'model.gin', 'config.gin'
# The macro that is bound to None in `model.gin`: neither decoding nor scoring
# needs an optimizer.
_LEFT_OUT = 'OPTIMIZER'
_DOWNSTREAM_ALONE = """
# The downstream model alone:
# ==============================================================================
models.HyperTuningModel.distillation_weight = 0.0
models.HyperTuningModel.hypermodel = None
models.HyperTuningModel.teacher = None
models.HyperTuningModel.trainable_regex = 'downstream/.*'
"""


def save(folder: str, command: str) -> None:
  """Writes the resolved configuration into a folder, beside its results.

  Args:
    folder: folder that has the results of a command.
    command: name of that command, see `text`.
  """
  files.write_text(folder, _CONFIG_FILE, text(command))


def text(command: str) -> str:
  """The resolved configuration, as `save` writes it.

  Args:
    command: name of the module below `hypertuning` that is run. The first line
      of the text names it, see `command_of`.
  """
  return f'# Configuration of hypertuning.{command}\n{gin.config_str()}'


def command_of(config: str) -> str | None:
  """The command that a configuration was saved by.

  Args:
    config: text of a `config.gin`.

  Returns:
    The name that `text` got, or None for the file of another program or
    of an earlier version.
  """
  heading = re.match(r'# Configuration of hypertuning\.(\S+)\n', config)
  return heading[1] if heading else None


def model_of(path: str) -> tuple[str, Any] | None:
  """How the model of a run is built.

  Args:
    path: folder of a run, or of one of its checkpoints.

  Returns:
    The text of `model.gin`, and TASK_FEATURE_LENGTHS of the run, which is None
    if the run has recorded none. None for a run whose model was built without
    gin, and for any other folder.
  """
  place = files.folder(path)
  for folder in (place, place.parent):
    if (folder / MODEL_FILE).is_file():
      config, lengths = folder / _CONFIG_FILE, None
      if config.is_file():
        lengths = macro(config.read_text(), 'TASK_FEATURE_LENGTHS')
      return (folder / MODEL_FILE).read_text(), lengths
  return None


def without_hypermodel(model: str) -> str:
  """The text of a `model.gin` that builds the downstream model alone.

  Args:
    model: the text that a run has saved.
  """
  return model + _DOWNSTREAM_ALONE


def macro(config: str, name: str) -> Any:
  """The value of a macro in a saved configuration.

  Args:
    config: text of a `config.gin`.
    name: name of the macro; its value may contain other macros.

  Returns:
    The value, or None if there is no such macro.
  """
  reader = _Values()
  reader.values = {
    statement.selector: statement.value
    for statement in config_parser.ConfigParser(config, reader)
    if isinstance(statement, config_parser.BindingStatement)
    and not statement.arg_name
  }
  return reader.resolve(name)


class _Macro(str):
  """The name of a macro, in the place of its value."""


class _Values(config_parser.ParserDelegate):
  """Reads the values of macros without looking anything else up."""

  values: dict[str, Any]

  def configurable_reference(self, *unused: Any) -> None:
    """A reference, whose value is not needed."""

  def macro(self, name: str) -> _Macro:
    """A macro within a value."""
    return _Macro(name)

  def resolve(self, name: str) -> Any:
    """The value of a macro, in which no macros are left."""
    return self._filled(self.values.get(name))

  def _filled(self, value: Any) -> Any:
    if isinstance(value, _Macro):
      return self.resolve(value)
    if isinstance(value, dict):
      return {key: self._filled(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
      return type(value)(self._filled(x) for x in value)
    return value


def save_model(folder: str) -> None:
  """Writes `model.gin`, unless the model was built without gin.

  Args:
    folder: folder of the run.
  """
  config = gin_effect.reachable_bindings(
    macros=['MODEL'], empty_macro=_LEFT_OUT
  )
  if config:
    files.write_text(folder, MODEL_FILE, _model_text(config))


def _model_text(config: dict) -> str:
  """The bindings as gin writes them, without unused imports."""
  lines = gin_config._config_str(config).splitlines()
  is_import = re.compile(r'(?:from \S+ )?import (?:\S+ as )?(\S+)$')
  body = '\n'.join(line for line in lines if not is_import.match(line))
  own_lines = []
  for line in lines:
    import_match = is_import.match(line)
    if import_match and 'dynamic_registration' not in line:
      name = import_match[1].split('.')[0]
      if not re.search(rf'(?<![\w.]){name}\.', body):
        continue
    own_lines.append(line)
  return '\n'.join(own_lines) + '\n'
