"""The part of a gin configuration that builds the model, as a file of its own.

`model.gin` of a run names no task, no folder and no optimizer: with it, another
command builds the same model without what the run was trained on:

    python -m hypertuning.eval --gin_file=run/model.gin \\
      --gin_file=gin/local/eval.gin --gin.CHECKPOINT_PATH="'run'" ...
"""

import re

from gin import config as gin_config

from hypertuning import files, gin_effect

# The macro that is bound to None in `model.gin`: neither decoding nor scoring
# needs an optimizer.
_LEFT_OUT = 'OPTIMIZER'


def save(folder: str) -> None:
  """Writes `model.gin`, unless the model was built without gin.

  Args:
    folder: folder of the run.
  """
  config = gin_effect.reachable_bindings(
    macros=['MODEL'], empty_macro=_LEFT_OUT
  )
  if config:
    files.write_text(folder, 'model.gin', _text(config))


def _text(config: dict) -> str:
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
