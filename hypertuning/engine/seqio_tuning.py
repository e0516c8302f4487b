"""Tasks of seqio, as `hypertuning.adapt` tunes adapters on them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import lookup, registry, task_questions
from hypertuning.data.episodes import EpisodeSource
from hypertuning.engine import batching, task_batches
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.engine.tuning_data import Family, Group
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel


def families(
  model: HyperTuningModel,
  data: TaskData,
  max_tasks: int | None,
  tuning_rows: int | None,
  test_visits: int,
  draws: int,
) -> list[Family]:
  """The seqio tasks of a mixture, sorted by name.

  Args:
    model: the model whose adapters are tuned.
    data: the mixture, whose tasks have been imported.
    max_tasks: number of tasks per seqio task; None takes all.
    tuning_rows: number of rows that a task is tuned on, see `adapt.adapt`.
    test_visits: number of episodes that test each task.
    draws: number of draws of shots whose mean phi is the start of a task.

  Raises:
    UserError: a seqio task cannot be tuned on.
  """
  found = []
  for task in lookup.members(data.required_name):
    source = _source(task, data.split)
    opener = functools.partial(
      _open_group, model, data, task, source, tuning_rows, test_visits, draws
    )
    found.append(
      Family(
        task.name,
        source.names(data.split)[:max_tasks],
        opener,
        lookup.format_of(task),
        task.postprocessor,
        task.predict_metric_fns,
      )
    )
  return found


def _source(task: seqio.Task, split: str) -> EpisodeSource:
  """The source of the episodes; refuses a seqio task that cannot be tuned."""
  source = task.source
  if not isinstance(source, EpisodeSource) or split not in source.splits:
    raise UserError(
      f'{task.name}: no episodes drawn from rows with a split {split!r}, whose '
      'tasks could be tuned on.'
    )
  if not task.predict_metric_fns:
    raise UserError(
      f'{task.name} scores options, wrong ones too: tune on '
      f'{registry.base_of(task.name)!r}, which says the right one.'
    )
  return source


def _open_group(
  model: HyperTuningModel,
  data: TaskData,
  task: seqio.Task,
  source: EpisodeSource,
  tuning_rows: int | None,
  test_visits: int,
  draws: int,
  names: Sequence[str],
  partitioner: Partitioner,
) -> Group:
  """The data of some tasks of a seqio task, see `families`."""
  lengths: Mapping[str, Any] = data.lengths
  tasks = len(names)
  name = registry.add_copy(
    f'{task.name}_tuning',
    task,
    source.for_tuning(
      data.split, tuning_rows, data.queries, test_visits, draws, names
    ),
  )

  def batches(
    episodes: tf.data.Dataset, size: int, repeat: bool = False
  ) -> tf.data.Dataset:
    return task_batches.to_batches(model, episodes, lengths, size, repeat)

  def on_devices(episodes: tf.data.Dataset, size: int) -> list[dict]:
    return list(batching.on_devices(batches(episodes, size), partitioner.batch))

  def open_at(first: int) -> tf.data.Dataset:
    train = lookup.episodes(name, lengths, 'train', data.seed, first=first)
    return batches(train, tasks, repeat=True)

  held_out = lookup.episodes(name, lengths, 'validation')
  test_episodes = held_out.shard(draws, 0)  # the first draw of every visit
  test = on_devices(test_episodes, tasks)
  questions = task_questions.questions_of(
    lookup.get_task(name), test_episodes, lengths['targets'][0]
  )
  return Group(
    on_devices(held_out.take(tasks * draws), tasks * draws)[0],
    batching.TrainBatches(open_at, tasks, partitioner.batch),
    test,
    questions.targets,
    questions.notes(),
  )
