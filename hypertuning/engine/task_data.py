"""The episodes that a command reads, and the batches it reads them in.

Methods that need seqio and TensorFlow import them: a command that reads a file
in place of a task does without them.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

from hypertuning.engine import batching, restarts
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.errors import UserError
from hypertuning.evaluation.evaluations import Evaluation
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Lengths, Name, Natural


@dataclasses.dataclass(frozen=True)
class TaskData(EpisodeData):
  """The episodes of a seqio task or mixture, cut to lengths and batched.

  Attributes:
    name: name of a registered seqio task or mixture of episodes; None if the
      command reads something else, such as a file.
    lengths: value of TASK_FEATURE_LENGTHS, such as `{'hyper_inputs': 64,
      'inputs': (4, 8), 'targets': (4, 8)}`.
    batch_size: number of episodes per batch, over all devices and microbatches.
    module: name of a module that is imported first, so that it can register
      tasks.
    split: split that is read.
    seed: seed for drawing and shuffling.
    use_cached: whether to read the cache that `seqio_cache_tasks` wrote.
    binding: name that the user bound `name` to, for error messages.
    split_binding: name that the user bound `split` to, for error messages.
  """

  imports_tensorflow: ClassVar[bool] = True
  name: Name | None
  lengths: Lengths
  batch_size: Count
  module: Name | None = None
  split: Name = 'validation'
  seed: Natural = 0
  use_cached: bool = False
  binding: str = 'MIXTURE_OR_TASK_NAME'
  split_binding: str = 'SPLIT'

  @property
  def required_name(self) -> str:
    """The name of the seqio task or mixture.

    Raises:
      UserError: the name is None.
    """
    if self.name is None:
      raise UserError(f'{self.binding} = None: name a seqio task or mixture.')
    return self.name

  @property
  def queries(self) -> int:
    """The number of queries per episode that the lengths have room for."""
    inputs: Any = self.lengths['inputs']
    return inputs[0]

  def check(self, model: HyperTuningModel) -> None:
    """Imports the tasks, and refuses text that the model cannot read.

    Raises:
      UserError: the model has too few embeddings or positions, the module, the
        task or its split does not exist, or the task's text has another format
        than the model's.
    """
    from hypertuning.data import lookup

    batching.check_vocabulary(model)
    batching.check_positions(model, self.lengths)
    lookup.import_tasks(self.module)
    if self.name is not None:
      lookup.get_task(self.name, self.binding)
      lookup.check_split(self.name, self.split, self.split_binding)
      lookup.check_text(self.name, model.text_format)

  def held_out(self) -> EpisodeData:
    """The split `validation` of the same task."""
    return dataclasses.replace(self, split='validation')

  def check_steps(self, steps: int) -> None:
    """Refuses nothing: the episodes of a task are endless."""

  def evaluations(
    self, model: HyperTuningModel, num_batches: int | None = None
  ) -> list[Evaluation]:
    """The evaluation of each task of the mixture, see `EpisodeData`."""
    from hypertuning.engine import task_evaluations

    return task_evaluations.of_mixture(
      model,
      self.required_name,
      self.lengths,
      self.split,
      self.seed,
      self.use_cached,
      self.batch_size,
      num_batches,
    )

  def settings(self) -> dict[str, str]:
    """The task and its arguments, and digests of its rows."""
    from hypertuning.data import row_digest

    values = {
      'MIXTURE_OR_TASK_NAME': self.name,
      'TASK_FEATURE_LENGTHS': dict(self.lengths),
      'data.TaskData.split': self.split,
      'USE_CACHED_TASKS': self.use_cached,
      'data.TaskData.seed': self.seed,
    }
    return {
      **{name: restarts.text(value) for name, value in values.items()},
      **row_digest.describe(
        *(self.required_name, self.lengths, self.split, self.seed),
        self.use_cached,
      ),
    }

  def batches(
    self, model: HyperTuningModel, repeat: bool = False, first: int = 0
  ) -> Iterable[batching.Batch]:
    """A tf.data dataset of the model features, see `task_batches.to_batches`.

    Args:
      model: the model whose feature converter is used.
      repeat: whether the episodes are endless and shuffled, as for training.
        If not, each episode comes once and in order, as for evaluation.
      first: number of the episode to start with.

    Raises:
      UserError: there is no such task or split, or the lengths leave nothing of
        its texts.
    """
    from hypertuning.data import lookup
    from hypertuning.engine import task_batches

    episodes = lookup.episodes(
      self.required_name,
      self.lengths,
      self.split,
      self.seed,
      repeat,
      self.use_cached,
      first,
    )
    return task_batches.to_batches(
      model, episodes, self.lengths, self.batch_size, repeat
    )
