"""The episodes of a task from any number on.

The place in the data of a training run is the number of its next episode, and
nothing else. What it costs to go there depends on the task:

* Tasks whose episodes are functions of their number start there at once: an
  `EpisodeSource`, no shuffle buffer, preprocessors that draw nothing.
* Mixtures of such tasks draw the sequence of tasks again, but no episodes.
* All others (texts, cached tasks, symbol tuning, whose symbols come from
  seqio's random numbers) draw every episode and drop it.

The episodes that follow are the same in all cases.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data import fewshot
from hypertuning.data.episodes import EpisodeSource

# Preprocessors that make one element of one, and draw no random numbers.
_WITHOUT_SEEDS = (fewshot.episode_features, fewshot.options_as_queries)


def starting_at(
  task: seqio.Task | seqio.Mixture, first: int, **arguments: Any
) -> tf.data.Dataset:
  """The dataset of a task or mixture without its first elements.

  Args:
    task: a registered task or mixture.
    first: number of the first element that is wanted.
    **arguments: for `task.get_dataset`, `num_epochs=None` among them.

  Returns:
    The elements of `task.get_dataset(**arguments).skip(first)`.
  """
  members = task.tasks if isinstance(task, seqio.Mixture) else [task]
  if arguments.get('use_cached') or not all(map(_is_numbered, members)):
    return task.get_dataset(**arguments).skip(first)
  if isinstance(task, seqio.Mixture):
    return _mixed(task, first, **arguments)
  return _moved(task, first).get_dataset(**arguments)


def _is_numbered(task: seqio.Task) -> bool:
  """Whether an episode depends on its number alone."""
  return (
    isinstance(task.source, EpisodeSource)
    and task.shuffle_buffer_size is None
    and all(map(_draws_nothing, task.preprocessors))
  )


def _draws_nothing(preprocessor: Callable[..., Any]) -> bool:
  if isinstance(preprocessor, functools.partial):
    preprocessor = preprocessor.func
  return preprocessor in _WITHOUT_SEEDS or isinstance(
    preprocessor, seqio.CacheDatasetPlaceholder
  )


def _moved(task: seqio.Task, first: int) -> seqio.Task:
  return seqio.Task(
    task.name,
    source=task.source.starting_at(first),
    output_features=task.output_features,
    preprocessors=task.preprocessors,
    shuffle_buffer_size=None,
  )


def _mixed(
  mixture: seqio.Mixture, first: int, split: str, seed: int, **arguments: Any
) -> tf.data.Dataset:
  """A mixture from an element on, each task from its own number on."""
  # As in seqio: tasks without the split have no part.
  tasks = [task for task in mixture.tasks if split in task.splits]
  numbers = [
    tf.data.Dataset.from_tensors(tf.constant(i, tf.int64)).repeat()
    for i in range(len(tasks))
  ]
  # The mixture's own draws, of tasks in place of episodes.
  rates = [mixture.get_rate(task) for task in tasks]
  drawn = mixture._sample_fn(numbers, rates, seed)
  counts = _counts(drawn.take(first), len(tasks))
  features = set(mixture.output_features)
  datasets = [
    mixture.get_task_dataset(
      _moved(task, int(count)), features, split=split, seed=seed, **arguments
    )
    for task, count in zip(tasks, counts, strict=True)
  ]
  return tf.data.Dataset.choose_from_datasets(datasets, drawn.skip(first))


def _counts(numbers: tf.data.Dataset, size: int) -> np.ndarray:
  """How often each number below `size` is in a dataset, int64 `[size]`."""
  counts = np.zeros(size, np.int64)
  for some in numbers.batch(4096):
    counts += np.bincount(some.numpy(), minlength=size)
  return counts
