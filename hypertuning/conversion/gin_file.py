"""Writes the gin file of a converted model: its size and its vocabulary."""

import pathlib
from typing import Any

from hypertuning.conversion.family import Gin
from hypertuning.conversion.vocabulary import Vocabulary


def text(
  gin: Gin, config: Any, vocabulary: Vocabulary, folder: pathlib.Path
) -> str:
  """The text of a gin file that comes after that of the model's network.

  Args:
    gin: gin files of the model's family.
    config: our config of the model.
    vocabulary: the model's vocabulary.
    folder: folder that the vocabulary's file will stand in.
  """
  macros, bindings, imports = gin.size(config)
  if vocabulary.file:
    path = str(folder / vocabulary.file)
    bindings = [('VOCABULARY_FILE', repr(path)), *bindings]
  lines = [
    f'# The model in this folder. After {gin.network} or {gin.hypermodels}.',
    *(f'include {path!r}' for path in (gin.full_size, *vocabulary.include)),
    '',
    'from __gin__ import dynamic_registration',
    '',
    *sorted({*imports, *vocabulary.imports}),
    '',
    *(f'{name} = {value}' for name, value in macros),
    '',
    *(f'{name} = {value}' for name, value in (*bindings, *vocabulary.bindings)),
  ]
  return '\n'.join(lines) + '\n'
