"""Reads the questions of a seqio task from its episodes."""

import hashlib
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data import fewshot, lookup, metrics
from hypertuning.data.questions import Questions
from hypertuning.errors import UserError
from hypertuning.padding import is_real


def questions_of(
  task: seqio.Task, episodes: tf.data.Dataset, room: int
) -> Questions:
  """The questions of episodes.

  Args:
    task: the seqio task of the episodes.
    episodes: the episodes, before they are converted to model features.
    room: number of queries per episode that TASK_FEATURE_LENGTHS has room for;
      further queries are not asked.

  Raises:
    UserError: there is no episode, or a query has no target tokens.
  """
  questions = Questions(task.name, [], [], [], [], [], [])
  for number, full_episode in enumerate(episodes.as_numpy_iterator()):
    mask = is_real(full_episode['targets']).any(axis=1)
    # seqio has cut the targets, but not the other features of the queries.
    sizes = full_episode.get('target_sizes')
    questions.queries.append(int(mask.sum()) if sizes is None else len(sizes))
    mask = mask[:room]
    count = int(mask.sum())
    if not count or not mask[:count].all():
      raise UserError(
        f'{task.name}, episode {number}: query {int(np.argmin(mask))} has no '
        'target tokens.'
      )
    episode = {
      name: value[:count] if name in fewshot.OF_QUERIES else value
      for name, value in full_episode.items()
    }
    lengths = is_real(episode['targets']).sum(axis=1)
    cut = episode.get('target_sizes', lengths) > lengths
    texts = episode.get('targets_pretokenized')
    if texts is None:
      texts = [lookup.format_of(task).answer(x) for x in episode['targets']]
    try:
      target = task.postprocess_fn(texts, example=episode, is_target=True)
    except UserError as error:
      raise UserError(f'{task.name}: {error}') from error
    questions.targets.append(target)
    questions.counts.append(count)
    questions.draws.append(int(episode.get('draw', 0)))
    questions.sources.append(_source(episode))
    questions.cut.append(int(cut.sum()))
  if not questions.counts:
    raise UserError(f'{task.name}: the split to evaluate has no episodes.')
  return questions


def _source(episode: dict[str, Any]) -> str:
  """What tells apart the row tasks of two episodes, see `Questions`."""
  if 'task' in episode:
    return metrics.text(episode['task'])
  return hashlib.sha256(episode['hyper_inputs'].tobytes()).hexdigest()
