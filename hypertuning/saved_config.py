"""The gin files that a command leaves beside its results.

`config.gin` is the whole configuration. `model.gin`, beside the checkpoints of
a run, is the part of it that builds the model. It names no task, no folder and
no optimizer: with it, another command builds the same model without what the
run was trained on:

    python -m hypertuning.eval --gin_file=run/model.gin \\
      --gin_file=gin/local/eval.gin --gin.CHECKPOINT_PATH="'run'" ...
"""

import re

import gin
from gin import config as gin_config

from hypertuning import files, gin_effect

# The macro that is bound to None in `model.gin`: neither decoding nor scoring
# needs an optimizer.
_LEFT_OUT = 'OPTIMIZER'


def save(folder: str, command: str) -> None:
  """Writes the resolved configuration into a folder, beside its results.

  Args:
    folder: folder that has the results of a command.
    command: name of that command, see `text`.
  """
  files.write_text(folder, 'config.gin', text(command))


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


def save_model(folder: str) -> None:
  """Writes `model.gin`, unless the model was built without gin.

  Args:
    folder: folder of the run.
  """
  config = gin_effect.reachable_bindings(
    macros=['MODEL'], empty_macro=_LEFT_OUT
  )
  if config:
    files.write_text(folder, 'model.gin', _model_text(config))


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
