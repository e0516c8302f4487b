"""seqio datasets as batches on the devices."""

import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax.sharding import NamedSharding

from hypertuning.data import lookup
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Lengths = Mapping[str, Any]
# TensorFlow only reads data; it must not reserve an accelerator's memory.
tf.config.set_visible_devices([], 'GPU')


def to_batches(
  model: HyperTuningModel,
  drawn: tf.data.Dataset,
  lengths: Lengths,
  batch_size: int,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Batches `[batch_size, ...]` of the model features of episodes.

  Args:
    model: whose feature converter is used.
    drawn: of `lookup.episodes`.
    lengths: TASK_FEATURE_LENGTHS.
    batch_size: episodes a batch.
    repeat: as of `lookup.episodes`. If not, each batch has the further feature
      `is_real` `[batch_size]`, 0 on the rows that fill up the last batch; those
      repeat the first episodes.
  """
  # The thread that tunes tf.data's parallelism does not hear that its iterator
  # has gone: a run would wait for it at its end, for up to a minute.
  options = tf.data.Options()
  options.autotune.enabled = False
  converted = model.FEATURE_CONVERTER_CLS(pack=False)(drawn, lengths)
  converted = converted.with_options(options)
  if repeat:
    batched = converted.batch(batch_size, drop_remainder=True)
    return batched.prefetch(tf.data.AUTOTUNE)
  filler = converted.repeat().take(batch_size - 1)
  marked = converted.map(_mark(1)).concatenate(filler.map(_mark(0)))
  return marked.batch(batch_size, drop_remainder=True).prefetch(1)


def batches(
  model: HyperTuningModel,
  name: str,
  lengths: Lengths,
  split: str,
  batch_size: int,
  seed: int = 0,
  repeat: bool = False,
  use_cached: bool = False,
) -> tf.data.Dataset:
  """Batches of a task: see `lookup` and `to_batches`."""
  lookup.check_text(name, model.text_format)
  drawn = lookup.episodes(name, lengths, split, seed, repeat, use_cached)
  return to_batches(model, drawn, lengths, batch_size, repeat)


class TrainBatches:
  """Training batches on the devices, whose position can be saved."""

  def __init__(self, dataset: tf.data.Dataset, sharding: NamedSharding) -> None:
    """Starts at the beginning of an endless dataset."""
    self._iterator = iter(dataset)
    self._sharding = sharding
    self._drawn = 0

  def __next__(self) -> dict[str, jax.Array]:
    batch = next(self._iterator)
    if not self._drawn and not tf.reduce_any(batch['target_weights'] > 0):
      raise UserError(
        'The first batch has no target tokens: TASK_FEATURE_LENGTHS truncates '
        'every target away, or the task has none.'
      )
    self._drawn += 1
    return put(batch, self._sharding)

  def position(self) -> dict[str, np.ndarray]:
    """Where the next batch comes from.

    Returns:
      `batches`, how many were drawn, and where the pipeline can be saved (it
      cannot if its source runs Python) the files of its state as bytes.
    """
    position = {'batches': np.asarray(self._drawn, np.int64)}
    with tempfile.TemporaryDirectory() as folder:
      try:
        checkpoint = tf.train.Checkpoint(iterator=self._iterator)
        checkpoint.write(f'{folder}/position')
      except tf.errors.FailedPreconditionError:
        return position
      for path in sorted(pathlib.Path(folder).iterdir()):
        position[path.name] = np.frombuffer(path.read_bytes(), np.uint8)
    return position

  def move(self, position: Mapping[str, np.ndarray]) -> None:
    """Goes to a saved position.

    Without a saved state the batches before it are drawn again and dropped:
    slower, but the data that follows is the same.

    Raises:
      UserError: the position is of another pipeline.
    """
    position = dict(position)
    drawn = int(position.pop('batches'))
    if position:
      with tempfile.TemporaryDirectory() as folder:
        for name, data in position.items():
          pathlib.Path(folder, name).write_bytes(data.tobytes())
        checkpoint = tf.train.Checkpoint(iterator=self._iterator)
        try:
          checkpoint.read(f'{folder}/position').assert_consumed()
        except (tf.errors.OpError, AssertionError) as error:
          raise UserError(
            'The saved position in the data is of another MIXTURE_OR_TASK_NAME '
            'or version of it; use another MODEL_DIR.'
          ) from error
    else:
      for _ in range(drawn - self._drawn):
        next(self._iterator)
    self._drawn = drawn


def on_devices(
  dataset: tf.data.Dataset, sharding: NamedSharding, count: int | None = None
) -> Iterator[dict[str, jax.Array]]:
  """The first `count` batches (all for None), divided over the devices."""
  for batch in dataset.take(-1 if count is None else count):
    yield put(batch, sharding)


def put(batch: Mapping[str, tf.Tensor], sharding: NamedSharding) -> dict:
  """One batch as arrays, the episodes divided over the devices."""
  return {
    name: jax.device_put(value.numpy(), sharding)
    for name, value in batch.items()
  }


def check_vocabulary(model: HyperTuningModel) -> None:
  """Refuses a model with fewer embeddings than its vocabulary has ids.

  Raises:
    UserError: names VOCAB_SIZE and the size that is needed.
  """
  needed = model.text_format.vocabulary.size
  networks = {
    'downstream': model.module.downstream,
    'hypermodel': model.module.hypermodel,
  }
  for part, network in networks.items():
    config = getattr(network, 'config', None)  # learned adapters have none
    if config is not None and config.vocab_size < needed:
      raise UserError(
        f'VOCAB_SIZE: the {part} has {config.vocab_size} embeddings, '
        f'but the vocabulary uses {needed} ids: set VOCAB_SIZE to at least '
        f'{needed} (a multiple of 128 divides over devices).'
      )


def input_shapes(
  lengths: Lengths, model: HyperTuningModel, batch_size: int
) -> dict[str, tuple[int, ...]]:
  """Shapes of the model features of one batch."""
  converter = model.FEATURE_CONVERTER_CLS(pack=False)
  sizes = converter.get_model_feature_lengths(lengths)
  return {
    name: (batch_size, *(size if isinstance(size, (tuple, list)) else (size,)))
    for name, size in sizes.items()
  }


def _mark(is_real: int) -> Callable[[dict], dict]:
  return lambda episode: {**episode, 'is_real': tf.constant(is_real)}
