"""Finds registered seqio tasks and mixtures by name, and opens their data."""

import importlib
import traceback
from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from hypertuning.data import places, seqio_vocabularies
from hypertuning.data import text_format as text_format_lib
from hypertuning.data.episodes import EpisodeSource
from hypertuning.data.features import TextFeature
from hypertuning.data.text_format import TextFormat, Vocabulary
from hypertuning.errors import UserError, one_line

Lengths = Mapping[str, Any]


def import_tasks(
  module: str | None, binding: str = 'MIXTURE_OR_TASK_MODULE'
) -> None:
  """Imports the module that registers the user's tasks.

  Args:
    module: full name of the module; None imports nothing.
    binding: gin binding or flag that gives the name, for the error message.

  Raises:
    UserError: there is no such module, or it raises an error.
  """
  if not module:
    return
  if not all(part.isidentifier() for part in module.split('.')):
    raise UserError(f'{binding} = {module!r}: must be the name of a module.')
  try:
    importlib.import_module(module)
  except ModuleNotFoundError as error:
    raise UserError(
      f'{binding} = {module!r}: {error}; it must be importable '
      'from the working directory or installed.'
    ) from error
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # a user's module may raise any
    raise UserError(
      f'{binding} = {module!r}: cannot be imported ({_where(error)}: '
      f'{type(error).__name__}: {one_line(error)}).'
    ) from error


def _where(error: BaseException) -> str:
  """The `file:line` of an error in a module that is imported."""
  if isinstance(error, SyntaxError):
    return f'{error.filename}:{error.lineno}'
  frame = traceback.extract_tb(error.__traceback__)[-1]
  return f'{frame.filename}:{frame.lineno}'


def get_task(
  name: str, binding: str = 'MIXTURE_OR_TASK_NAME'
) -> seqio.Task | seqio.Mixture:
  """A registered task or mixture.

  Args:
    name: name of the task or mixture.
    binding: name of the gin binding that has the name, for the error message.

  Raises:
    UserError: there is no such task; the message lists the names that exist.
  """
  try:
    return seqio.get_mixture_or_task(name)
  except ValueError as error:
    known_names = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    raise UserError(
      f'{binding} = {name!r} is not registered (known: '
      f'{", ".join(sorted(known_names))}). Name its module in '
      'MIXTURE_OR_TASK_MODULE.'
    ) from error


def check_split(name: str, split: str, binding: str = '') -> None:
  """Refuses a split that a task does not have.

  Args:
    name: name of a registered task or mixture.
    split: name of the split.
    binding: name of the gin binding that has the split, for the error message.

  Raises:
    UserError: the task has no such split; the message lists those it has.
  """
  splits = get_task(name).splits
  if split not in splits:
    place = f'{binding} = {split!r}: ' if binding else ''
    raise UserError(
      f'{place}{name} has no split {split!r}; it has {", ".join(splits)}.'
    )


def members(name: str) -> list[seqio.Task]:
  """The tasks of a mixture, sorted by name, or the one task of that name.

  Args:
    name: name of a registered task or mixture.

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
  """Episodes of a task, with all features that its preprocessors add.

  Args:
    name: name of a registered task or mixture.
    lengths: value of TASK_FEATURE_LENGTHS; None cuts nothing.
    split: name of a split of the task.
    seed: seed for drawing and shuffling.
    repeat: whether the episodes are endless and shuffled, as for training. If
      not, each episode comes once and in order, as for evaluation.
    use_cached: whether to read the cache that `seqio_cache_tasks` wrote.
    first: number of the episode to start with; `places` says what the episodes
      before it cost.

  Returns:
    A dataset of episodes, whose features are those of
    `fewshot.episode_features`.

  Raises:
    UserError: there is no such task or split.
  """
  task = get_task(name)
  check_split(name, split)
  arguments = {
    'sequence_length': lengths,
    'split': split,
    'shuffle': repeat,
    'num_epochs': None if repeat else 1,
    'seed': seed,
    'use_cached': use_cached,
  }
  if not use_cached:
    for member in members(name):
      # Before seqio asks for the rows, as it would log an error in them.
      if isinstance(member.source, EpisodeSource) and split in member.splits:
        member.source.check(split)
  if not first:
    return task.get_dataset(**arguments)
  return places.starting_at(task, first, **arguments)


def format_of(task: seqio.Task | seqio.Mixture) -> TextFormat:
  """The format of a task's text.

  If a user registered the task with features of seqio's own, only its
  vocabulary is known, and the format is guessed.
  """
  feature = task.output_features['targets']
  if isinstance(feature, TextFeature):
    return feature.text_format
  vocabulary = seqio_vocabularies.from_seqio(feature.vocabulary)
  return text_format_lib.guessed_format(vocabulary)


def check_text(name: str, text_format: TextFormat) -> None:
  """Refuses a task whose text is laid out in another way than the model's.

  If a task has features of seqio's own, only vocabularies are compared.

  Args:
    name: name of the task or mixture.
    text_format: format of the model's text.

  Raises:
    UserError: the formats differ; the message names the task, its format and
      the model's.
  """
  for task in members(name):
    for feature in task.output_features.values():
      own: TextFormat | Vocabulary = seqio_vocabularies.from_seqio(
        feature.vocabulary
      )
      models: TextFormat | Vocabulary = text_format.vocabulary
      if isinstance(feature, TextFeature):
        own, models = feature.text_format, text_format
      if own != models:
        raise UserError(
          f'{task.name}: its text is in {own}, but TEXT_FORMAT of the model is '
          f'{text_format}: bind `text_format` of the task too.'
        )
