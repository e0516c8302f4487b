"""Registers recordings as a seqio task, for programs that read seqio's tasks.

    recorded_tasks.add('recorded', {'train': 'recordings/train'}, text_format)

An episode is that of the recording, without shuffling and in its order. No
Python runs while episodes are read, so that t5x can save its place in them.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data import features, recording, registry
from hypertuning.data.recording import Recording
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError

# The model's features and the task's.
_TASK_NAMES = {
  'hyper_tokens': 'hyper_inputs',
  'input_tokens': 'inputs',
  'target_tokens': 'targets',
  'teacher_tokens': 'teacher_inputs',
}


def add(
  name: str,
  folders: Mapping[str, str],
  text_format: TextFormat,
  binding: str = 'folders',
) -> str:
  """Registers recordings as one seqio task, or replaces it.

  The task has no metrics. Training on it under t5x begins again with the first
  episode after the last.

  Args:
    name: name of the task.
    folders: maps the name of each split to the folder of its recording.
    text_format: format of the model's text, which the recordings must be in.
    binding: what the user bound the folders to, for error messages; the split
      is added to it.

  Returns:
    The name.

  Raises:
    UserError: there is no recording, its text has another format, or some have
      inputs for a teacher and others do not.
  """
  form = check(text_format)
  recordings = {
    split: Recording(folder, f'{binding}.{split}')
    for split, folder in folders.items()
  }
  taught = set()
  for split, recorded in recordings.items():
    header = recorded.header
    place = f'{binding}.{split} = {folders[split]!r}'
    recording.check_text(header, form, place)
    taught.add('teacher_tokens' in header.shapes)
  if len(taught) > 1:
    raise UserError(
      f'{binding}: of {", ".join(map(repr, folders.values()))}, some have '
      'inputs for a teacher and some do not; record all with the same model.'
    )
  registry.add_task(
    name,
    source=_Source(recordings),
    preprocessors=[functools.partial(_check_lengths, recordings=recordings)],
    output_features=features.output_features(form, taught=taught.pop()),
    metric_fns=[],
    shuffle_buffer_size=None,
  )
  return name


def _check_lengths(
  ds: tf.data.Dataset,
  sequence_length: Mapping[str, Any] | None,
  recordings: Mapping[str, Recording],
) -> tf.data.Dataset:
  """Preprocessor that refuses lengths that would cut or widen the episodes."""
  for split, recorded in recordings.items():
    recording.check_lengths(
      recorded.header, sequence_length, f'{recorded.folder} ({split})'
    )
  return ds


class _Source(seqio.DataSource):
  """The episodes of recordings, one per split.

  Training was shuffled when it was recorded, and is not shuffled again.
  """

  def __init__(self, recordings: Mapping[str, Recording]) -> None:
    """Takes the recording of each split."""
    self._recordings = recordings
    super().__init__(splits=list(recordings), performs_internal_shuffling=True)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    """True, as any number of hosts can divide the episodes among them."""
    return True

  def list_shards(self, split: str) -> list[str]:
    """The name of the only shard."""
    return [split]

  def num_input_examples(self, split: str) -> None:
    """Unknown to seqio, which would keep a small recording in its cache."""

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused: Any,
  ) -> tf.data.Dataset:
    """The episodes of a recording, with the features of a task, padded.

    Args:
      split: the split.
      shuffle: part of seqio's signature, and ignored.
      seed: part of seqio's signature, and ignored.
      shard_info: the part of the episodes to return; None returns all.
      **unused: seqio's other arguments.

    Raises:
      UserError: a part is missing or damaged.
    """
    del shuffle, seed, unused
    recorded = self._recordings[split]
    shapes = recorded.header.shapes
    texts = {
      key: _Texts(*arrays, shapes[key])
      for key, arrays in recorded.ragged().items()
    }

    # Mapped as it is: t5x cannot save the place in a pipeline that calls
    # another `tf.function`.
    @tf.autograph.experimental.do_not_convert
    def episode(number: tf.Tensor) -> dict[str, tf.Tensor]:
      return {
        _TASK_NAMES[key]: x.of_episode(number) for key, x in texts.items()
      }

    numbers = tf.data.Dataset.range(recorded.header.episodes)
    if shard_info is not None:
      numbers = numbers.shard(shard_info.num_shards, shard_info.index)
    return numbers.map(episode, num_parallel_calls=tf.data.AUTOTUNE)


class _Texts:
  """The texts of one feature, as tensors."""

  def __init__(
    self, ids: np.ndarray, sizes: np.ndarray, shape: Sequence[int]
  ) -> None:
    """Takes the arrays of a recording.

    Args:
      ids: ids of all texts one after the other.
      sizes: number of ids of each text.
      shape: shape of the feature of one episode; its last axis is the text.
    """
    self._shape = tuple(shape)
    rows = int(np.prod(self._shape[:-1]))
    self._ids = tf.constant(ids)
    self._sizes = tf.constant(sizes.reshape(-1, rows).astype(np.int32))
    ends = np.cumsum(sizes.astype(np.int64)).reshape(-1, rows)[:, -1]
    self._starts = tf.constant(np.concatenate([[0], ends]))

  def of_episode(self, number: tf.Tensor) -> tf.Tensor:
    """The feature of one episode, int32, padded."""
    ids = self._ids[self._starts[number] : self._starts[number + 1]]
    ragged = tf.RaggedTensor.from_row_lengths(
      tf.cast(ids, tf.int32), self._sizes[number], validate=False
    )
    rows = self._sizes.shape[1]
    return tf.reshape(
      ragged.to_tensor(shape=(rows, self._shape[-1])), self._shape
    )
