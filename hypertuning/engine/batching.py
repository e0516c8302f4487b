"""Batches on the devices, and whether a model can read them."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from hypertuning.adapters import Prefix
from hypertuning.data import lengths as lengths_lib
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Lengths = Mapping[str, Any]
# One batch: arrays, or what numpy takes for arrays, `[batch_size, ...]`.
Batch = Mapping[str, Any]


class TrainBatches:
  """Endless training batches on the devices, which can start at any episode.

  The place in the data is the number of the next episode. Unlike the state of a
  tf.data iterator, it does not depend on the batch size, nor on how far tf.data
  has read ahead.
  """

  def __init__(
    self,
    open_at: Callable[[int], Iterable[Batch]],
    batch_size: int,
    sharding: NamedSharding,
  ) -> None:
    """Starts at episode 0, and reads nothing before the first batch.

    Args:
      open_at: function from the number of an episode to endless batches that
        start with this episode.
      batch_size: number of episodes per batch.
      sharding: sharding of the batches over the devices.
    """
    self._open_at = open_at
    self._batch_size = batch_size
    self._sharding = sharding
    self._next_episode = 0
    self._iterator: Iterator[Batch] | None = None

  def open(self) -> None:
    """Opens the data now, so that its faults are reported before any work.

    Raises:
      UserError: there is no such task or split, or it has too few rows.
    """
    self._iterator = iter(self._open_at(self._next_episode))

  def __next__(self) -> dict[str, jax.Array]:
    """The next batch.

    Raises:
      UserError: the first batch of the data has no target tokens.
    """
    if self._iterator is None:
      self.open()
    assert self._iterator is not None
    batch = next(self._iterator)
    weights = np.asarray(batch['target_weights'])
    if not self._next_episode and not weights.any():
      raise UserError(
        'The first batch has no target tokens: TASK_FEATURE_LENGTHS truncates '
        'every target away, or the task has none.'
      )
    self._next_episode += self._batch_size
    return put(batch, self._sharding)

  def position(self) -> dict[str, np.ndarray]:
    """The place in the data: `next_episode`, a number, int64 `[]`."""
    return {'next_episode': np.asarray(self._next_episode, np.int64)}

  def move(self, position: Mapping[str, np.ndarray]) -> None:
    """Goes to a saved place in the data.

    Args:
      position: the result of `position`, in a run with any batch size. Older
        checkpoints hold a number of `batches` instead; their run must have had
        the same batch size as this one.
    """
    if 'next_episode' in position:
      self._next_episode = int(position['next_episode'])
    else:  # such checkpoints also have tf.data's iterator, which is not needed
      self._next_episode = int(position['batches']) * self._batch_size
    self._iterator = None


def in_batches(
  episodes: Sequence[Mapping[str, np.ndarray]], batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of episodes that are in memory.

  Args:
    episodes: model features of each episode.
    batch_size: number of episodes per batch.

  Yields:
    Model features `[batch_size, ...]`, and `is_real`, int32 `[batch_size]`. It
    is 1 on real rows, and 0 on the rows that fill up the last batch with the
    first episodes.
  """
  count = len(episodes)
  for first in range(0, count, batch_size):
    numbers = np.arange(first, first + batch_size)
    rows = [episodes[n % count] for n in numbers.tolist()]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    yield batch | {'is_real': (numbers < count).astype(np.int32)}


def on_devices(
  batches: Iterable[Batch], sharding: NamedSharding, count: int | None = None
) -> Iterator[dict[str, jax.Array]]:
  """Yields batches on the devices.

  Args:
    batches: batches of model features.
    sharding: sharding of the batches over the devices.
    count: number of batches; None yields all.
  """
  for batch in itertools.islice(batches, count):
    yield put(batch, sharding)


def put(batch: Batch, sharding: NamedSharding) -> dict[str, jax.Array]:
  """One batch as jax arrays with this sharding."""
  return {
    name: jax.device_put(np.asarray(value), sharding)
    for name, value in batch.items()
  }


def check_vocabulary(model: HyperTuningModel) -> None:
  """Refuses a model with fewer embeddings than its vocabulary has ids.

  Raises:
    UserError: names VOCAB_SIZE and the smallest size that will do.
  """
  num_ids = model.text_format.vocabulary.size
  networks = {
    'downstream': model.module.downstream,
    'hypermodel': model.module.hypermodel,
  }
  for part, network in networks.items():
    config = getattr(network, 'config', None)  # learned adapters have none
    if config is not None and config.vocab_size < num_ids:
      raise UserError(
        f'VOCAB_SIZE: the {part} has {config.vocab_size} embeddings, '
        f'but the vocabulary uses {num_ids} ids: set VOCAB_SIZE to at least '
        f'{num_ids} (a multiple of 128 divides over devices).'
      )


def check_positions(model: HyperTuningModel, lengths: Lengths) -> None:
  """Refuses texts with more tokens than the networks have positions for.

  Args:
    model: the model.
    lengths: TASK_FEATURE_LENGTHS.

  Raises:
    UserError: names the texts and the number of positions.
  """
  module = model.module
  check = getattr(module.downstream.config, 'check_positions', None)
  if check is None:  # relative positions have no end
    return
  shapes = input_shapes(lengths, model, 1)
  _, *chunks, hyper_length = shapes['hyper_tokens']
  if check_hypermodel := getattr(module.hypermodel, 'check_lengths', None):
    check_hypermodel(*chunks or [1], hyper_length)
  prefix = _prefix_length(model, (1, *chunks, 1))
  # The last target is not read.
  targets = shapes['target_tokens'][-1] - 1
  for name in ('input_tokens', 'teacher_tokens'):
    if name in shapes:
      inputs = shapes[name][-1]
      texts = f'{inputs} inputs and {targets + 1} targets'
      if prefix and name == 'input_tokens':
        check(prefix + inputs + targets, f'a prefix of {prefix}, {texts}')
      else:
        check(inputs + targets, texts)


def _prefix_length(model: HyperTuningModel, shape: tuple[int, ...]) -> int:
  """The greatest number of keys that phi puts before a text; 0 for none.

  Args:
    model: the model.
    shape: shape of the tokens that a hypermodel reads.
  """
  phi, _ = jax.eval_shape(
    functools.partial(model.module.init_with_output, method='generate'),
    jax.random.key(0),
    jax.ShapeDtypeStruct(shape, np.int32),
  )
  if not isinstance(phi, Prefix):
    return 0
  return max(site.key.shape[1] for site in phi.sites.values())


def input_shapes(
  lengths: Lengths, model: HyperTuningModel, batch_size: int
) -> dict[str, tuple[int, ...]]:
  """Shapes of the model features of one batch."""
  return lengths_lib.shapes(lengths, batch_size, model.is_taught)
