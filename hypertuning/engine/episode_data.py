"""The episodes that a command reads, wherever they come from."""

import abc
from collections.abc import Iterable
from typing import ClassVar

from hypertuning.data import lengths as lengths_lib
from hypertuning.engine import batching
from hypertuning.engine.partitioning import Partitioner
from hypertuning.evaluation.evaluations import Evaluation
from hypertuning.models import HyperTuningModel


class EpisodeData(abc.ABC):
  """Episodes with texts of certain lengths, in batches.

  Attributes:
    lengths: room for the texts of an episode, in the form of
      TASK_FEATURE_LENGTHS.
    batch_size: number of episodes per batch, over all devices and microbatches.
    seed: seed that the episodes are drawn with, and that of an evaluation.
    imports_tensorflow: whether TensorFlow reads them, which takes seconds to
      import.
  """

  imports_tensorflow: ClassVar[bool] = False
  lengths: lengths_lib.Lengths
  batch_size: int
  seed: int

  @abc.abstractmethod
  def held_out(self) -> 'EpisodeData':
    """The episodes that a model is evaluated on where none are named.

    Raises:
      UserError: there are none; says what to bind.
    """

  @abc.abstractmethod
  def check(self, model: HyperTuningModel) -> None:
    """Refuses text that the model cannot read.

    Raises:
      UserError: the model has too few embeddings or positions, there are no
        such episodes, or their text has another format than the model's.
    """

  @abc.abstractmethod
  def settings(self) -> dict[str, str]:
    """What must not change while a run is trained on this, see `restarts`."""

  @abc.abstractmethod
  def batches(
    self, model: HyperTuningModel, repeat: bool = False, first: int = 0
  ) -> Iterable[batching.Batch]:
    """Batches of the model's features, which can be read many times.

    Args:
      model: the model that reads them.
      repeat: whether the episodes are those of training. If not, each episode
        comes once and in order, as for evaluation, and batches have the feature
        `is_real`, int32 `[batch_size]`: 0 on the rows that fill up the last
        batch.
      first: number of the episode to start with.

    Raises:
      UserError: there are no such episodes.
    """

  @abc.abstractmethod
  def evaluations(
    self, model: HyperTuningModel, num_batches: int | None = None
  ) -> list[Evaluation]:
    """The evaluation of each task, sorted by name.

    Args:
      model: the model that is evaluated.
      num_batches: number of batches per task whose questions are read; None
        reads all.

    Raises:
      UserError: there are no such episodes, or they cannot be evaluated.
    """

  @abc.abstractmethod
  def check_steps(self, steps: int) -> None:
    """Refuses a training that needs more episodes than there are.

    Args:
      steps: value of TRAIN_STEPS.

    Raises:
      UserError: says how many there are.
    """

  def shapes(self, model: HyperTuningModel) -> dict[str, tuple[int, ...]]:
    """Shapes of the model features of one batch."""
    return batching.input_shapes(self.lengths, model, self.batch_size)

  def train_batches(
    self, model: HyperTuningModel, partitioner: Partitioner
  ) -> batching.TrainBatches:
    """Batches of training on the devices, which can start at any episode."""
    return batching.TrainBatches(
      lambda first: self.batches(model, repeat=True, first=first),
      self.batch_size,
      partitioner.batch,
    )
