"""The part of a gin configuration that builds the model, as a file of its own.

`model.gin` of a run names no task, no folder and no optimizer: with it, another
command builds the same model without what the run was trained on:

    python -m hypertuning.eval --gin_file=run/model.gin \\
      --gin_file=gin/local/eval.gin --gin.CHECKPOINT_PATH="'run'" ...
"""

import re

from gin import config as gin_config

from hypertuning import files, gin_effect

# No part of what a checkpoint is decoded or scored with.
_LEFT_OUT = 'OPTIMIZER'


def save(folder: str) -> None:
  """Writes `model.gin`; nothing where gin did not build the model."""
  config = gin_effect.reachable(macros=['MODEL'], without=_LEFT_OUT)
  if config:
    files.write_text(folder, 'model.gin', _text(config))


def _text(config: dict) -> str:
  """The bindings as gin writes them, without imports that they do not use."""
  lines = gin_config._config_str(config).splitlines()
  is_import = re.compile(r'(?:from \S+ )?import (?:\S+ as )?(\S+)$')
  body = '\n'.join(line for line in lines if not is_import.match(line))
  kept = []
  for line in lines:
    imported = is_import.match(line)
    if imported and 'dynamic_registration' not in line:
      name = imported[1].split('.')[0]
      if not re.search(rf'(?<![\w.]){name}\.', body):
        continue
    kept.append(line)
  return '\n'.join(kept) + '\n'
