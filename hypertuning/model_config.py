"""The part of a gin configuration that builds the model, as a file of its own.

`model.gin` of a run names no task, no folder and no optimizer: with it, another
command builds the same model without what the run was trained on:

    python -m hypertuning.eval --gin_file=run/model.gin \\
      --gin_file=gin/local/eval.gin --gin.CHECKPOINT_PATH="'run'" ...
"""

import re

from gin import config as gin_config

from hypertuning import files

_MACRO = 'gin.macro'
# No part of what a checkpoint is decoded or scored with.
_LEFT_OUT = 'OPTIMIZER'


def save(folder: str) -> None:
  """Writes `model.gin`; nothing where gin did not build the model."""
  config = _reachable('MODEL')
  if config:
    files.write_text(folder, 'model.gin', _text(config))


def _reachable(name: str) -> dict:
  """All bindings that a macro's value can depend on."""
  # Gin has no public way to read its configuration.
  config = gin_config._CONFIG
  found: dict = {}
  scopes, selectors = {''}, set()
  macros = {name}
  size = -1
  while size < len(found):  # a scope that is found late may open more bindings
    size = len(found)
    for (scope, selector), bound in config.items():
      if selector == _MACRO:
        applies = scope in macros
      else:
        parts = set(scope.split('/'))
        applies = selector in selectors and parts <= scopes
      if not applies or (scope, selector) in found:
        continue
      if (scope, selector) == (_LEFT_OUT, _MACRO):
        bound = {'value': None}
      found[scope, selector] = bound
      for reference in gin_config.iterate_references(bound):
        scope, _, _ = reference.scoped_selector.rpartition('/')
        if reference.configurable.selector == _MACRO:
          macros.add(scope)
        else:
          scopes.update(scope.split('/'))
          selectors.add(reference.configurable.selector)
  return found


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
