"""Episodes of a recording; reading them needs neither TensorFlow nor seqio."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from hypertuning.data import lengths as lengths_lib
from hypertuning.data import recorded_questions, recording
from hypertuning.engine import batching
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.errors import UserError
from hypertuning.evaluation.evaluations import Evaluation
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Lengths, Name, Path


@dataclasses.dataclass(frozen=True)
class Batches:
  """Batches that can be read many times.

  Attributes:
    open: function that starts to read them.
  """

  open: Callable[[], Iterator[batching.Batch]]

  def __iter__(self) -> Iterator[batching.Batch]:
    """Starts to read."""
    return self.open()


@dataclasses.dataclass(frozen=True)
class RecordedData(EpisodeData):
  """The episodes that `hypertuning.record` has written, in batches.

  Attributes:
    path: folder of the recording.
    batch_size: number of episodes per batch, over all devices and microbatches.
    required_lengths: TASK_FEATURE_LENGTHS that the recording must have; None
      takes those that it has.
    metric_modules: modules of the user's own whose functions may be the metrics
      of an evaluation.
    binding: name that the user bound `path` to, for error messages.
  """

  path: Path
  batch_size: Count
  required_lengths: Lengths | None = None
  metric_modules: Sequence[Name] = ()
  binding: str = 'RECORDING'

  @functools.cached_property
  def _recording(self) -> recording.Recording:
    return recording.Recording(self.path, self.binding)

  @property
  def lengths(self) -> lengths_lib.Lengths:  # type: ignore[override]
    """The lengths that the episodes were recorded with."""
    return self._recording.header.lengths

  @property
  def seed(self) -> int:  # type: ignore[override]
    """The seed that the episodes were drawn with."""
    return self._recording.header.seed

  def check(self, model: HyperTuningModel) -> None:
    """Refuses a recording that the model cannot read.

    Raises:
      UserError: there is no recording, its lengths are not those that are
        required, its text has another format than the model's, it lacks a
        teacher's inputs, or the model has too few embeddings or positions.
    """
    header = self._recording.header
    recording.check_lengths(header, self.required_lengths, self._place)
    recording.check_text(header, model.text_format, self._place)
    if model.is_taught and 'teacher_tokens' not in header.shapes:
      raise UserError(
        f'{self._place}: has no inputs for a teacher; record '
        'it with the model that is taught.'
      )
    batching.check_vocabulary(model)
    batching.check_positions(model, self.lengths)

  def check_steps(self, steps: int) -> None:
    """Refuses a training that needs more episodes than were recorded.

    Raises:
      UserError: says how many were, or that the recording is for evaluation.
    """
    if not self._recording.header.endless:
      raise UserError(
        f'{self._place}: has each episode of a split once, for evaluation; '
        'record episodes of training with RECORD_STEPS.'
      )
    count = self._recording.header.episodes
    if count < steps * self.batch_size:
      raise UserError(
        f'TRAIN_STEPS = {steps} x BATCH_SIZE = {self.batch_size} are more than '
        f'the {count} episodes that are recorded: record more.'
      )

  def settings(self) -> dict[str, str]:
    """A digest of the whole recording."""
    return {'episodes of RECORDING': self._recording.header.digest}

  def held_out(self) -> EpisodeData:
    """None: a recording has one split.

    Raises:
      UserError: always; says what to bind.
    """
    raise UserError(
      'EVAL_RECORDING = None: name a recording of held-out episodes, or bind '
      'EVAL_PERIOD = 0.'
    )

  def batches(
    self, model: HyperTuningModel, repeat: bool = False, first: int = 0
  ) -> 'Batches':
    """Batches, see `EpisodeData.batches`."""
    del model  # which `check` has compared
    return Batches(functools.partial(self._batches, repeat, first))

  def evaluations(
    self, model: HyperTuningModel, num_batches: int | None = None
  ) -> list[Evaluation]:
    """The evaluation of each task of the recording, see `EpisodeData`.

    Raises:
      UserError: the episodes are those of training, or the questions are
        missing or damaged.
    """
    members = self._recording.header.members
    if not members:
      return [self._evaluation(model, num_batches)]
    return [
      dataclasses.replace(
        self, path=str(self._recording.folder / name)
      )._evaluation(model, num_batches)
      for name in members
    ]

  def _evaluation(
    self, model: HyperTuningModel, num_batches: int | None
  ) -> Evaluation:
    header = self._recording.header
    if header.measures is None:
      raise UserError(
        f'{self._place}: has episodes of training, and no questions; record a '
        'split for evaluation, without RECORD_STEPS.'
      )

    def function(name: str) -> Callable[..., Any]:
      return recorded_questions.function(
        name, self._recording, self.metric_modules
      )

    count = None if num_batches is None else num_batches * self.batch_size
    postprocess = header.measures.postprocess
    return Evaluation(
      header.task,
      functools.partial(self.batches, model),
      recorded_questions.read(self._recording).first(count),
      model.text_format,
      None if postprocess is None else function(postprocess),
      [function(name) for name in header.measures.predict_metrics],
      [function(name) for name in header.measures.score_metrics],
    )

  @property
  def _place(self) -> str:
    return f'{self.binding} = {self.path!r}'

  def _batches(self, repeat: bool, first: int) -> Iterator[batching.Batch]:
    size = self.batch_size
    opening: batching.Batch = {}
    for batch in self._recording.batches(first, size):
      count = len(batch['target_tokens'])
      if repeat:
        if count == size:
          yield batch
        continue
      # The first episodes fill up the last batch, as with a task: in the phi
      # mode 'other', the last episode may get the phi of one of them.
      opening = opening or batch
      places = np.arange(size - count) % len(opening['target_tokens'])
      rows = {
        name: np.concatenate([x, opening[name][places]])
        for name, x in batch.items()
      }
      yield {**rows, 'is_real': (np.arange(size) < count).astype(np.int32)}
