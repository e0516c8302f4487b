"""Which weights of another run a new run starts from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning.engine import checkpoints


@dataclasses.dataclass(frozen=True)
class WarmStart:
  """The checkpoints that fill a run's first state.

  Which name of the checkpoint becomes which name of the model is the model
  family's to say: its gin file binds `rules` and `fresh`.

  Attributes:
    path: INITIAL_CHECKPOINT_PATH: another run, whose weights are taken over;
      None starts at random.
    teacher: TEACHER_CHECKPOINT_PATH: a run whose downstream model is the
      teacher; what it has learned of `downstream/` becomes `teacher/`.
    rules: pairs (regex, replacement) from a name in the model to a name in the
      checkpoint; the first pair that matches and is found there wins.
    fresh: regex of the names that may be missing there: they start at random.
    unused: regex of the names there that the model may leave out.
  """

  path: str | None = None
  teacher: str | None = None
  rules: Sequence[tuple[str, str]] = checkpoints.SAME
  fresh: str = ''
  unused: str = ''

  def check(self, needs_teacher: bool) -> None:
    """Refuses checkpoints that are not there, before anything is computed.

    Args:
      needs_teacher: whether the model has a network `teacher`.

    Raises:
      UserError: names the binding of the checkpoint.
    """
    if self.path:
      checkpoints.find(self.path, 'INITIAL_CHECKPOINT_PATH')
    checkpoints.check_teacher(needs_teacher, self.teacher, self.path)

  def fill(self, target: Mapping[str, Any]) -> dict:
    """Variables as in `target`, their values from the checkpoints.

    Args:
      target: a tree of (abstract) arrays.

    Returns:
      The same tree; what is fresh is still as it was in `target`.

    Raises:
      UserError: lists what does not fit.
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
