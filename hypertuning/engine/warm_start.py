"""The checkpoints that the first weights of a run come from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning.engine import (
  checkpoint_folders,
  checkpoints,
  frozen_parts,
)
from hypertuning.engine.frozen_parts import FrozenPart, Place
from hypertuning.errors import UserError
from hypertuning.ranges import Path, Regex, Rule


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """The checkpoints that fill a run's first state.

  How names in the checkpoint become names in the model depends on the family of
  the model, whose gin file binds `rules` and `fresh`.

  Attributes:
    path: value of INITIAL_CHECKPOINT_PATH: another run, whose weights the new
      run starts from; None starts from random weights.
    teacher: value of TEACHER_CHECKPOINT_PATH: a run whose downstream model is
      the teacher; its variables `downstream/...` become `teacher/...`.
    rules: pairs (regex, replacement), which turn a name in the model into a
      name in the checkpoint. The first pair wins that matches and gives a name
      that the checkpoint has.
    fresh: regex of the names in the model that the checkpoint may lack; these
      variables start at random.
    unused: regex of the names in the checkpoint that the model may lack.
    moved: value of MOVED_CHECKPOINTS: maps folders of checkpoints that others
      take their frozen parts from to the folders in which they are now.
  """

  path: Path | None = None
  teacher: Path | None = None
  rules: Sequence[Rule] = checkpoints.SAME
  fresh: Regex = ''
  unused: Regex = ''
  moved: Mapping[Path, Path] | None = None

  def check(self, needs_teacher: bool, save_frozen: bool = True) -> None:
    """Refuses missing checkpoints, before anything is computed.

    Args:
      needs_teacher: whether the model has a network `teacher`.
      save_frozen: value of SAVE_FROZEN.

    Raises:
      UserError: names the binding of the checkpoint.
    """
    if not self.path and not save_frozen:
      raise UserError(
        'SAVE_FROZEN = False: the frozen part starts at random, so no other '
        'checkpoint holds it; bind INITIAL_CHECKPOINT_PATH, or SAVE_FROZEN = '
        'True.'
      )
    if self.path:
      checkpoint_folders.find(self.path, 'INITIAL_CHECKPOINT_PATH')
    checkpoint_folders.check_teacher(needs_teacher, self.teacher, self.path)

  def fill(self, target: Mapping[str, Any]) -> dict:
    """Fills the variables of a model with the values of the checkpoints.

    Args:
      target: the variables of the model, a tree of arrays or abstract arrays.

    Returns:
      A tree like `target`. Leaves that the checkpoint may lack, and does, are
      still those of `target`.

    Raises:
      UserError: lists the variables that do not fit.
    """
    assert self.path is not None
    return checkpoints.fill(
      target,
      self.path,
      'INITIAL_CHECKPOINT_PATH',
      self.rules,
      self.fresh,
      self.unused,
      self.teacher,
      self.moved,
    )

  def frozen_part(
    self, frozen: Mapping[str, Any], model_dir: str
  ) -> FrozenPart:
    """What stands for the frozen variables in checkpoints without them.

    Args:
      frozen: the frozen variables, a tree of arrays.
      model_dir: folder of the run.

    Raises:
      UserError: there is no such checkpoint any more.
    """
    assert self.path is not None
    teacher = self.teacher and Place.at(
      self.teacher, 'TEACHER_CHECKPOINT_PATH', model_dir
    )
    initial = Place.at(self.path, 'INITIAL_CHECKPOINT_PATH', model_dir)
    part = FrozenPart(
      initial, teacher or None, self.rules, frozen_parts.describe(frozen)
    )
    return part.from_oldest(model_dir, self.moved or {})

  def part_to_save(
    self, frozen: Mapping[str, Any], model_dir: str, step: int
  ) -> FrozenPart:
    """Like `frozen_part`, for a run that goes on from a checkpoint.

    Args:
      frozen: the frozen variables of the checkpoint, a tree of arrays.
      model_dir: folder of the run.
      step: step of the checkpoint.

    Raises:
      UserError: the variables are not those of INITIAL_CHECKPOINT_PATH.
    """
    checkpoint = checkpoint_folders.of_step(model_dir, step)
    part = FrozenPart.read(checkpoint)
    if part is not None:
      moved, current = self.moved or {}, (self.path, self.teacher)
      return part.located(checkpoint, model_dir, moved, current)
    part = self.frozen_part(frozen, model_dir)
    checkpoints.read_frozen(checkpoint, part, self.moved)
    return part

  def saved_frozen(self, model_dir: str, step: int) -> dict | None:
    """The frozen variables of a checkpoint of the run that lacks them.

    Args:
      model_dir: folder of the run.
      step: step of the checkpoint.

    Returns:
      A tree of numpy arrays; None if the checkpoint holds the variables.

    Raises:
      UserError: the checkpoint that holds them is missing or has changed.
    """
    checkpoint = checkpoint_folders.of_step(model_dir, step)
    part = FrozenPart.read(checkpoint)
    if part is None:
      return None
    return checkpoints.read_frozen(
      checkpoint, part, self.moved, (self.path, self.teacher)
    )

  def pinned(self) -> 'WarmStart':
    """The same start, from the checkpoints that are the newest ones now.

    Raises:
      UserError: there is no checkpoint.
    """

    def newest(path: str | None, binding: str) -> str | None:
      return path and str(checkpoint_folders.find(path, binding))

    return dataclasses.replace(
      self,
      path=newest(self.path, 'INITIAL_CHECKPOINT_PATH'),
      teacher=newest(self.teacher, 'TEACHER_CHECKPOINT_PATH'),
    )
