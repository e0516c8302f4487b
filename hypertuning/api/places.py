"""What `hypertuning.load` is given, as gin files and a checkpoint."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypertuning import saved_config
from hypertuning.conversion import families, sources
from hypertuning.engine import checkpoint_folders, trained_file
from hypertuning.engine.frozen_parts import FrozenPart
from hypertuning.errors import UserError

_LENGTHS = {'hyper_inputs': 384, 'inputs': (1, 64), 'targets': (1, 32)}


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a model is.

  Attributes:
    name: the name that the user gave.
    files: gin files that build it.
    bindings: further bindings, `NAME = value`.
    checkpoint: path of its checkpoint, or of the file of its trained part.
    hugging_face: name of its frozen model for `transformers`; '' for none.
    folder: folder of `hypertuning.convert`, or of a run, with its frozen model.
    moved: new folders of the checkpoints that hold its frozen part.
    lengths: TASK_FEATURE_LENGTHS that it was trained with.
    missing: why it has no hypermodel, as a sentence; '' if it has one.
    text: text of a gin file that comes first, and has no file of its own.
  """

  name: str
  files: Sequence[str]
  bindings: Sequence[str]
  checkpoint: str
  hugging_face: str
  moved: Mapping[str, str]
  lengths: Mapping[str, Any]
  folder: str
  missing: str = ''
  text: str = ''

  def without_hypermodel(self, reason: str) -> 'Place':
    """The same place, with another reason why it has no hypermodel."""
    return dataclasses.replace(self, missing=reason)


def converted(folder: pathlib.Path, name: str, hugging_face: str) -> Place:
  """A folder that `hypertuning.convert` made: a frozen model alone.

  Args:
    folder: the folder.
    name: the name that the user gave.
    hugging_face: see `Place`.

  Raises:
    UserError: the folder lacks a file, or has a damaged one.
  """
  family = families.find(sources.read_config(folder))
  return Place(
    name,
    [family.gin.network, str(folder / saved_config.MODEL_FILE)],
    _vocabulary(folder, (folder / saved_config.MODEL_FILE).read_text('utf-8')),
    str(folder),
    hugging_face,
    {},
    _LENGTHS,
    str(folder),
    f'{name} is a frozen model without a hypermodel: load a run that trained '
    'one, or a file that `python -m hypertuning.convert --trained` wrote.',
  )


def run(folder: pathlib.Path, base: str | None) -> Place:
  """A run of `hypertuning.train`, or one of its checkpoints.

  Args:
    folder: the folder.
    base: folder of the frozen model, where it has been moved.

  Raises:
    UserError: the folder is none of these.
  """
  found = saved_config.model_of(str(folder))
  if found is None:
    raise UserError(
      f'load: {str(folder)!r} has no {saved_config.MODEL_FILE}; give the '
      'folder of a run, a folder that hypertuning.convert made, a file of '
      'hypertuning.convert --trained, or the name of a public model.'
    )
  text, lengths = found
  bindings: list[str] = []
  moved = {}
  if base:
    moved = _moved(checkpoint_folders.find(str(folder), 'load'), base)
    bindings = _vocabulary(pathlib.Path(base), text)
  return Place(
    *(str(folder), [], bindings, str(folder), '', moved),
    lengths or _LENGTHS,
    base or str(folder),
    text=text,
  )


def trained(
  path: pathlib.Path,
  name: str,
  base_of: Callable[[str], tuple[pathlib.Path, str]],
) -> Place:
  """The trained part of a run in one file, and the frozen model in a folder.

  Args:
    path: file that `hypertuning.convert --trained` wrote.
    name: the name that the user gave.
    base_of: function from the name of the frozen model in the file to its
      folder, and to its name for `transformers`.

  Raises:
    UserError: there is no such file, it is damaged, or an earlier version wrote
      it.
  """
  part, model = trained_file.read_header(str(path), 'load')
  base, hugging_face = base_of(part.initial.path)
  return Place(
    name,
    [],
    _vocabulary(base, model.gin),
    str(path),
    hugging_face,
    {part.initial.path: str(base)},
    model.lengths or _LENGTHS,
    str(base),
    text=model.gin,
  )


def _moved(checkpoint: Any, base: str) -> dict[str, str]:
  """The new folder of the checkpoint that has a checkpoint's frozen part."""
  part = FrozenPart.read(checkpoint)
  return {part.initial.path: base} if part else {}


def _vocabulary(folder: pathlib.Path, text: str) -> list[str]:
  """The binding of the vocabulary's file, where a folder has that file."""
  path = saved_config.macro(_without_includes(text), 'VOCABULARY_FILE')
  if not isinstance(path, str):
    return []
  file = folder / pathlib.PurePath(path).name
  return [f'VOCABULARY_FILE = {str(file)!r}'] if file.is_file() else []


def _without_includes(text: str) -> str:
  lines = text.splitlines()
  return '\n'.join(x for x in lines if not x.startswith('include '))
