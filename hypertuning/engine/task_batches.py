"""Makes batches of model features from datasets of episodes."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from hypertuning.models import HyperTuningModel

Lengths = Mapping[str, Any]


def to_batches(
  model: HyperTuningModel,
  episodes: tf.data.Dataset,
  lengths: Lengths,
  batch_size: int,
  repeat: bool = False,
) -> tf.data.Dataset:
  """Converts episodes to model features, and batches them.

  Args:
    model: the model whose feature converter is used.
    episodes: dataset of episodes, from `lookup.episodes`.
    lengths: TASK_FEATURE_LENGTHS.
    batch_size: number of episodes per batch.
    repeat: whether the episodes are endless. If they are not, each batch has
      one more feature, `is_real`, int32 `[batch_size]`. It is 1 on real rows,
      and 0 on the rows that fill up the last batch with the first episodes.

  Returns:
    A dataset of batches, whose features are `[batch_size, ...]`.
  """
  # Autotuning has a thread that does not notice when its iterator is gone. With
  # it, the end of a run can take up to a minute.
  options = tf.data.Options()
  options.autotune.enabled = False
  examples = model.FEATURE_CONVERTER_CLS(pack=False)(episodes, lengths)
  examples = examples.with_options(options)
  if repeat:
    batches = examples.batch(batch_size, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE)
  filler = examples.repeat().take(batch_size - 1)
  real_and_filler = examples.map(_mark(1)).concatenate(filler.map(_mark(0)))
  return real_and_filler.batch(batch_size, drop_remainder=True).prefetch(1)


def _mark(is_real: int) -> Callable[[dict], dict]:
  """A function that adds the feature `is_real` to an episode."""
  return lambda episode: {**episode, 'is_real': tf.constant(is_real)}
