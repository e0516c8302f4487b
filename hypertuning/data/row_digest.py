"""What a task's episodes are drawn from, as digests that can be compared."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio

from hypertuning.data import lookup
from hypertuning.data.episodes import EpisodeSource

# As many of a task's first episodes are compared where its rows are not known.
_FIRST = 4


def describe(
  name: str, lengths: Mapping[str, Any], split: str, seed: int, use_cached: bool
) -> dict[str, str]:
  """Digests of the rows, and of the settings, of a task or mixture.

  Args:
    name: name of the registered task or mixture.
    lengths: TASK_FEATURE_LENGTHS.
    split: split that is read.
    seed: seed for drawing.
    use_cached: whether the tasks are read from a cache.

  Returns:
    Maps `rows of TASK` and `settings of TASK` to digests, for each task. Of a
    task that is not drawn from rows in memory, such as a text corpus, the first
    episodes stand for the rows.
  """
  digests = {}
  chosen = lookup.get_task(name)
  for task in lookup.members(name):
    if split not in task.splits:
      continue
    settings: list[Any] = [_preprocessors(task)]
    if isinstance(chosen, seqio.Mixture):
      settings.append(chosen.get_rate(task))
    if isinstance(task.source, EpisodeSource) and not use_cached:
      rows, source = task.source.describe(split)
      settings.append(source)
    else:
      drawn = lookup.episodes(
        task.name, lengths, split, seed, repeat=True, use_cached=use_cached
      )
      rows = _tensors(drawn.take(_FIRST).as_numpy_iterator())
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
  """The preprocessors by name, with those of their arguments that are plain."""
  return [_described(x) for x in task.preprocessors]


def _described(preprocessor: Callable[..., Any]) -> str:
  if isinstance(preprocessor, functools.partial):
    plain = {
      name: value
      for name, value in preprocessor.keywords.items()
      if isinstance(value, (str, int, float, bool, tuple, list, type(None)))
    }
    return f'{_described(preprocessor.func)} {sorted(plain.items())!r}'
  return getattr(preprocessor, '__qualname__', type(preprocessor).__name__)
