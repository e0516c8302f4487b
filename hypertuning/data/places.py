"""Opens the data of a task at any episode.

The place in the data of a training run is nothing but the number of its next
episode. The cost of going there depends on the task:

* Some tasks start there at once: each of their episodes is a function of its
  number. Such a task has an `EpisodeSource`, no shuffle buffer, and only
  preprocessors that draw no random numbers.
* A mixture of such tasks draws the sequence of tasks again, but no episodes.
* All others draw every episode before it, and drop them. These are texts,
  cached tasks, and symbol tuning, which draws its symbols with seqio's seeds.

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

# Preprocessors that turn each element into one, and draw no random numbers.
_WITHOUT_SEEDS = (fewshot.episode_features, fewshot.options_as_queries)


def starting_at(
  task: seqio.Task | seqio.Mixture, first: int, **arguments: Any
) -> tf.data.Dataset:
  """The dataset of a task or mixture without its first elements.

  Args:
    task: a registered task or mixture.
    first: number of the first element in the result.
    **arguments: arguments of `task.get_dataset`, with `num_epochs=None`.

  Returns:
    The elements of `task.get_dataset(**arguments).skip(first)`.
  """
  members = task.tasks if isinstance(task, seqio.Mixture) else [task]
  if arguments.get('use_cached') or not all(map(_is_numbered, members)):
    return task.get_dataset(**arguments).skip(first)
  if isinstance(task, seqio.Mixture):
    return _mixture_from(task, first, **arguments)
  return _task_from(task, first).get_dataset(**arguments)


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


def _task_from(task: seqio.Task, first: int) -> seqio.Task:
  return seqio.Task(
    task.name,
    source=task.source.starting_at(first),
    output_features=task.output_features,
    preprocessors=task.preprocessors,
    shuffle_buffer_size=None,
  )


def _mixture_from(
  mixture: seqio.Mixture, first: int, split: str, seed: int, **arguments: Any
) -> tf.data.Dataset:
  """A mixture that starts at a number; each task starts at its own number."""
  # seqio leaves out the tasks that do not have the split.
  tasks = [task for task in mixture.tasks if split in task.splits]
  numbers = [
    tf.data.Dataset.from_tensors(tf.constant(i, tf.int64)).repeat()
    for i in range(len(tasks))
  ]
  # The mixture draws from endless repetitions of the tasks' numbers, with the
  # same seed as from the tasks: this gives the task of every episode.
  rates = [mixture.get_rate(task) for task in tasks]
  task_numbers = mixture._sample_fn(numbers, rates, seed)
  counts = _counts(task_numbers.take(first), len(tasks))
  features = set(mixture.output_features)
  datasets = [
    mixture.get_task_dataset(
      _task_from(task, int(count)),
      features,
      split=split,
      seed=seed,
      **arguments,
    )
    for task, count in zip(tasks, counts, strict=True)
  ]
  return tf.data.Dataset.choose_from_datasets(
    datasets, task_numbers.skip(first)
  )


def _counts(numbers: tf.data.Dataset, size: int) -> np.ndarray:
  """Counts each number less than `size` in a dataset, int64 `[size]`."""
  counts = np.zeros(size, np.int64)
  for some in numbers.batch(4096):
    counts += np.bincount(some.numpy(), minlength=size)
  return counts
