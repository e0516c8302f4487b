"""Registered seqio tasks and mixtures by their names."""

import importlib
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import places, vocabularies
from hypertuning.errors import UserError

Lengths = Mapping[str, Any]


def import_tasks(module: str | None) -> None:
  """Imports the module that registers the user's tasks.

  Raises:
    UserError: there is no such module.
  """
  if not module:
    return
  try:
    importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise UserError(
      f'MIXTURE_OR_TASK_MODULE = {module!r}: {error}; it must be importable '
      'from the working directory or installed.'
    ) from error


def get_task(
  name: str, binding: str = 'MIXTURE_OR_TASK_NAME'
) -> seqio.Task | seqio.Mixture:
  """A registered task or mixture.

  Args:
    name: of it.
    binding: that gives the name.

  Raises:
    UserError: lists near names, or says how to register one.
  """
  try:
    return seqio.get_mixture_or_task(name)
  except ValueError as error:
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    raise UserError(
      f'{binding} = {name!r} is not registered (known: '
      f'{", ".join(sorted(known))}). Name its module in MIXTURE_OR_TASK_MODULE.'
    ) from error


def members(name: str) -> list[seqio.Task]:
  """A task, or those of a mixture by name.

  Raises:
    UserError: see `get_task`.
  """
  task = get_task(name)
  if isinstance(task, seqio.Mixture):
    return sorted(task.tasks, key=lambda member: member.name)
  return [task]


def episodes(
  name: str,
  lengths: Lengths | None,
  split: str,
  seed: int = 0,
  repeat: bool = False,
  use_cached: bool = False,
  first: int = 0,
) -> tf.data.Dataset:
  """Episodes of a task, with all that its preprocessors give.

  Args:
    name: a registered task or mixture.
    lengths: TASK_FEATURE_LENGTHS; None cuts nothing.
    split: a split of the task.
    seed: seed for drawing and shuffling.
    repeat: endless (training), or once in order (evaluation).
    use_cached: read what `seqio_cache_tasks` wrote.
    first: number of the episode to start with; see `places` for what it costs.

  Raises:
    UserError: the split does not exist.
  """
  task = get_task(name)
  if split not in task.splits:
    raise UserError(
      f'{name} has no split {split!r}; it has {", ".join(task.splits)}.'
    )
  arguments = {
    'sequence_length': lengths,
    'split': split,
    'shuffle': repeat,
    'num_epochs': None if repeat else 1,
    'seed': seed,
    'use_cached': use_cached,
  }
  if not first:
    return task.get_dataset(**arguments)
  return places.starting_at(task, first, **arguments)


def check_text(name: str, vocabulary: seqio.Vocabulary) -> None:
  """Refuses a task whose ids mean something else to the model.

  Args:
    name: of the task or mixture.
    vocabulary: of the model.

  Raises:
    UserError: names the task or mixture and both vocabularies.
  """

  for task in members(name):
    for feature in task.output_features.values():
      if not vocabularies.are_same(feature.vocabulary, vocabulary):
        its, models = map(vocabularies.told, (feature.vocabulary, vocabulary))
        raise UserError(
          f'{task.name}: its text is in {its}, but VOCABULARY of the model is '
          f'{models}: bind `vocabulary` of the task too.'
        )
