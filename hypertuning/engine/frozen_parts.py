"""Checkpoints without their frozen part, which is that of another checkpoint.

With `SAVE_FROZEN = False`, a checkpoint has the item `frozen` in place of the
frozen variables: a JSON file that names the checkpoint that they come from, and
has a SHA-256 digest of every frozen variable. A digest covers the values as the
run used them, so it does not change if the other checkpoint is copied, moved or
converted to another format, and any other value changes it.
"""

import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from hypertuning import files, text_files, trees
from hypertuning.engine import checkpoint_folders
from hypertuning.errors import UserError

# Arrays that are fetched from the devices, and read by SHA-256, at a time.
_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a checkpoint lies.

  Attributes:
    path: absolute path or address of the checkpoint's folder.
    relative: path from the folder of the run to that folder, so that both can
      be moved together; None where one of them is in a bucket.
  """

  path: str
  relative: str | None = None

  @classmethod
  def at(cls, path: str, binding: str, model_dir: str) -> 'Place':
    """The place of an existing checkpoint.

    Args:
      path: folder of a run or of a checkpoint.
      binding: name of the gin binding that gives the path.
      model_dir: folder of the run that refers to the checkpoint.

    Raises:
      UserError: there is no checkpoint.
    """
    found = checkpoint_folders.find(path, binding)
    run = files.folder(model_dir)
    if files.is_remote(found) or files.is_remote(run):
      return cls(str(found))
    return cls(str(found), os.path.relpath(found, run))

  def locate(
    self,
    checkpoint: epath.Path,
    moved: Mapping[str, str],
    current: str | None = None,
  ) -> str:
    """The folder in which the checkpoint is now.

    Args:
      checkpoint: folder of the checkpoint that refers to this place.
      moved: value of MOVED_CHECKPOINTS: maps recorded to new folders.
      current: another path that is tried where the recorded one is gone.

    Raises:
      UserError: it is nowhere; says how to name its new folder.
    """
    if self.path in moved:
      new_path = moved[self.path]
      return str(checkpoint_folders.find(new_path, 'MOVED_CHECKPOINTS'))
    candidates = [self.path, current]
    if self.relative and not files.is_remote(checkpoint):
      candidates.insert(1, os.path.join(checkpoint.parent, self.relative))
    for path in filter(None, candidates):
      try:
        return str(checkpoint_folders.find(path))
      except UserError:
        continue
    raise UserError(
      f'The frozen part of {checkpoint} is in {self.path}, where there is no '
      f'complete checkpoint any more; {self._hint}'
    )

  @property
  def _hint(self) -> str:
    return (
      'put it back, or name its new folder: MOVED_CHECKPOINTS = '
      f'{{{self.path!r}: FOLDER}}.'
    )

  def refuse(self, checkpoint: epath.Path, problem: str) -> UserError:
    """The error for a checkpoint that is no longer the one that was used.

    Args:
      checkpoint: folder of the checkpoint that refers to this place.
      problem: the fault, in a few words.
    """
    return UserError(
      f'The frozen part that {checkpoint} was trained with is not in '
      f'{self.path} any more ({problem}); {self._hint}'
    )


@dataclasses.dataclass(frozen=True)
class FrozenPart:
  """What a checkpoint has in place of its frozen variables.

  Attributes:
    initial: the checkpoint that the variables come from.
    teacher: the checkpoint whose downstream model is the teacher; None for
      none.
    rules: pairs (regex, replacement), which turn the name of a variable into a
      name in these checkpoints, see `matching.match`.
    variables: maps the name of each variable to its `dtype`, `shape` and
      `sha256`.
  """

  initial: Place
  teacher: Place | None
  rules: Sequence[tuple[str, str]]
  variables: Mapping[str, Mapping[str, Any]]

  def to_json(self) -> dict[str, Any]:
    """The content of the item `frozen`."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, contents: Mapping[str, Any]) -> 'FrozenPart':
    """The part that `to_json` has described.

    Raises:
      KeyError, TypeError: a field is missing, or of another kind.
    """
    teacher = contents['teacher']
    return cls(
      Place(**contents['initial']),
      teacher and Place(**teacher),
      contents['rules'],
      contents['variables'],
    )

  @classmethod
  def read(cls, checkpoint: epath.Path) -> 'FrozenPart | None':
    """Reads the item of a checkpoint; None if it holds its frozen variables.

    Args:
      checkpoint: folder of the checkpoint.

    Raises:
      UserError: the item is damaged.
    """
    path = checkpoint / checkpoint_folders.FROZEN_FILE
    if not path.exists():
      return None
    contents = text_files.read_json(path)
    try:
      return cls.from_json(contents)
    except (KeyError, TypeError) as error:
      raise UserError(
        f'{path}: does not name a frozen part ({error}); the checkpoint is '
        'damaged.'
      ) from error

  def abstract(self) -> dict[str, Any]:
    """The variables as a tree of abstract arrays."""
    return trees.unflatten_paths(
      {
        name: jax.ShapeDtypeStruct(tuple(x['shape']), x['dtype'])
        for name, x in self.variables.items()
      }
    )

  def saved_shapes(self) -> dict[str, tuple[int, ...]]:
    """The variables' shapes, by their names in a saved state."""
    return {
      f'flax_mutables/frozen/{name}': tuple(x['shape'])
      for name, x in self.variables.items()
    }

  def check(self, checkpoint: epath.Path, frozen: Mapping[str, Any]) -> None:
    """Makes sure that these are the values that the checkpoint belongs to.

    Args:
      checkpoint: folder of the checkpoint that refers to them.
      frozen: the variables, a tree of arrays like that of `abstract`.

    Raises:
      UserError: names the first variable that differs.
    """
    for name, found in describe(frozen).items():
      if found != dict(self.variables[name]):
        from_teacher = self.teacher and name.startswith('teacher/')
        place = self.teacher if from_teacher else self.initial
        assert place is not None
        raise place.refuse(checkpoint, f'{name} has other values')

  def located(
    self,
    checkpoint: epath.Path,
    model_dir: str,
    moved: Mapping[str, str],
    current: Sequence[str | None] = (None, None),
  ) -> 'FrozenPart':
    """The same part, with the places in which its checkpoints are now.

    Args:
      checkpoint: folder of the checkpoint that has this part.
      model_dir: folder of the run whose checkpoints will have the result.
      moved: see `Place.locate`.
      current: for the initial checkpoint and the teacher's, see `Place.locate`.

    Raises:
      UserError: a checkpoint is nowhere.
    """

    def new_place(place: Place | None, other: str | None) -> Place | None:
      path = place and place.locate(checkpoint, moved, other)
      return Place.at(path, 'MOVED_CHECKPOINTS', model_dir) if path else None

    initial = new_place(self.initial, current[0])
    assert initial is not None
    return dataclasses.replace(
      self, initial=initial, teacher=new_place(self.teacher, current[1])
    )

  def from_oldest(
    self, model_dir: str, moved: Mapping[str, str]
  ) -> 'FrozenPart':
    """The same variables, from the checkpoint that really holds them.

    The initial checkpoint may itself have no frozen part. If all variables here
    are variables of the part that it refers to, it is passed over, so that it
    may be deleted.

    Args:
      model_dir: see `located`.
      moved: see `Place.locate`.

    Raises:
      UserError: the older checkpoint is nowhere.
    """
    folder = epath.Path(self.initial.path)
    before = FrozenPart.read(folder)
    if before is None or not (
      self.variables.items() <= before.variables.items()
    ):
      return self
    before = dataclasses.replace(
      before,
      # If there is a teacher, its names are here: `self` has one as well.
      teacher=before.teacher if self.teacher else None,
      variables=self.variables,
    )
    return before.located(folder, model_dir, moved)


def describe(frozen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The dtype, shape and digest of every variable.

  Args:
    frozen: a tree of arrays.

  Returns:
    `{name: {'dtype': ..., 'shape': [...], 'sha256': ...}}`.
  """
  flat = trees.flatten_paths(frozen)
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return dict(
      zip(flat, pool.map(_describe_array, flat.values()), strict=True)
    )


def _describe_array(array: Any) -> dict[str, Any]:
  value = np.ascontiguousarray(array)
  return {
    'dtype': value.dtype.name,
    'shape': list(np.shape(array)),
    'sha256': hashlib.sha256(value.reshape(-1).view(np.uint8).data).hexdigest(),
  }


def without_frozen(state: Mapping[str, Any]) -> dict[str, Any]:
  """A state in the layout of a checkpoint, without its frozen variables."""
  return {**state, 'flax_mutables': {'frozen': {}}}
