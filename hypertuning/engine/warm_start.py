"""The checkpoints that the first weights of a run come from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning.engine import checkpoint_folders, checkpoints
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
  """

  path: Path | None = None
  teacher: Path | None = None
  rules: Sequence[Rule] = checkpoints.SAME
  fresh: Regex = ''
  unused: Regex = ''

  def check(self, needs_teacher: bool) -> None:
    """Refuses missing checkpoints, before anything is computed.

    Args:
      needs_teacher: whether the model has a network `teacher`.

    Raises:
      UserError: names the binding of the checkpoint.
    """
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
    )
