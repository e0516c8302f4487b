"""Episodes of a recording; reading them needs neither TensorFlow nor seqio."""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from hypertuning.data import lengths as lengths_lib
from hypertuning.data import recording
from hypertuning.engine import batching
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Path


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
    binding: name that the user bound `path` to, for error messages.
  """

  path: Path
  batch_size: Count
  binding: str = 'RECORDING'

  @functools.cached_property
  def _recording(self) -> recording.Recording:
    return recording.Recording(self.path, self.binding)

  @property
  def lengths(self) -> lengths_lib.Lengths:  # type: ignore[override]
    """The lengths that the episodes were recorded with."""
    return self._recording.header.lengths

  def check(self, model: HyperTuningModel) -> None:
    """Refuses a recording that the model cannot read.

    Raises:
      UserError: there is no recording, its text has another format than the
        model's, it lacks a teacher's inputs, or the model has too few
        embeddings or positions.
    """
    header = self._recording.header
    if header.fingerprint != recording.fingerprint(model.text_format):
      raise UserError(
        f'{self.binding} = {self.path!r}: its text is in {header.vocabulary}, '
        f'but TEXT_FORMAT of the model is {model.text_format}, or has other '
        'ids.'
      )
    if model.is_taught and 'teacher_tokens' not in header.shapes:
      raise UserError(
        f'{self.binding} = {self.path!r}: has no inputs for a teacher; record '
        'it with the model that is taught.'
      )
    batching.check_vocabulary(model)
    batching.check_positions(model, self.lengths)

  def check_steps(self, steps: int) -> None:
    """Refuses a training that needs more episodes than were recorded.

    Raises:
      UserError: says how many were.
    """
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

  def _batches(self, repeat: bool, first: int) -> Iterator[batching.Batch]:
    size = self.batch_size
    for batch in self._recording.batches(first, size):
      count = len(batch['target_tokens'])
      if repeat:
        if count == size:
          yield batch
        continue
      places = np.arange(size - count) % count
      rows = {name: np.concatenate([x, x[places]]) for name, x in batch.items()}
      yield {**rows, 'is_real': (np.arange(size) < count).astype(np.int32)}
