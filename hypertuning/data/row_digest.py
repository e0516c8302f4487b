"""Digests of the rows and settings that a task's episodes are drawn from."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio

from hypertuning.data import lookup
from hypertuning.data.episodes import EpisodeSource

# Number of first episodes that stand for the rows of a task whose rows are not
# in memory.
_NUM_EPISODES = 4


def describe(
  name: str, lengths: Mapping[str, Any], split: str, seed: int, use_cached: bool
) -> dict[str, str]:
  """Digests of the rows and of the settings of a task or mixture.

  Args:
    name: name of the registered task or mixture.
    lengths: TASK_FEATURE_LENGTHS.
    split: split that is read.
    seed: seed for drawing.
    use_cached: whether the tasks are read from a cache.

  Returns:
    Maps `rows of TASK` and `settings of TASK` to digests, for each task. If a
    task has no rows in memory, like a text corpus, its first episodes stand for
    the rows.
  """
  digests = {}
  task_or_mixture = lookup.get_task(name)
  for task in lookup.members(name):
    if split not in task.splits:
      continue
    settings: list[Any] = [_preprocessors(task)]
    if isinstance(task_or_mixture, seqio.Mixture):
      settings.append(task_or_mixture.get_rate(task))
    if isinstance(task.source, EpisodeSource) and not use_cached:
      rows, source = task.source.describe(split)
      settings.append(source)
    else:
      episodes = lookup.episodes(
        task.name, lengths, split, seed, repeat=True, use_cached=use_cached
      )
      rows = _tensors(episodes.take(_NUM_EPISODES).as_numpy_iterator())
    digests[f'rows of {task.name}'] = _digest(rows)
    digests[f'settings of {task.name}'] = _digest([repr(settings).encode()])
  return digests


def _digest(parts: Iterator[bytes] | list[bytes]) -> str:
  digest = hashlib.sha256()
  for part in parts:
    digest.update(len(part).to_bytes(8, 'little') + part)
  return digest.hexdigest()[:16]


def _tensors(episodes: Iterator[Mapping[str, Any]]) -> Iterator[bytes]:
  for episode in episodes:
    for name in sorted(episode):
      value = np.asarray(episode[name])
      yield f'{name} {value.dtype} {value.tolist()!r}'.encode()


def _preprocessors(task: seqio.Task) -> list[str]:
  """The names of a task's preprocessors, with their plain arguments."""
  return [_description(x) for x in task.preprocessors]


def _description(preprocessor: Callable[..., Any]) -> str:
  if isinstance(preprocessor, functools.partial):
    plain = {
      name: value
      for name, value in preprocessor.keywords.items()
      if isinstance(value, (str, int, float, bool, tuple, list, type(None)))
    }
    return f'{_description(preprocessor.func)} {sorted(plain.items())!r}'
  return getattr(preprocessor, '__qualname__', type(preprocessor).__name__)
