"""What an evaluation compares: targets and texts, metrics, and their table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data import fewshot, lookup
from hypertuning.engine import summaries

Row = Mapping[str, Any]


def by_episode(values: np.ndarray, asked: np.ndarray) -> list[np.ndarray]:
  """What belongs to the queries of every episode."""
  return [row[:count] for row, count in zip(values, asked, strict=True)]


class Asked(NamedTuple):
  """What is asked, by episode.

  Attributes:
    targets: postprocessed.
    draws: numbers of the draws of shots.
    sources: what phi is of: the name of the task, or what the hypermodel reads
      where there are no names.
  """

  targets: list[Any]
  draws: list[int]
  sources: list[bytes]


def asked_of(
  task: seqio.Task, episodes: tf.data.Dataset, asked: np.ndarray
) -> Asked:
  """What so many queries of each episode ask."""
  found = Asked([], [], [])
  for whole, count in zip(episodes.as_numpy_iterator(), asked, strict=True):
    # What an episode asks beyond TASK_FEATURE_LENGTHS was cut.
    episode = {
      name: value[:count] if name in fewshot.OF_QUERIES else value
      for name, value in whole.items()
    }
    said = episode.get('targets_pretokenized')
    if said is None:
      said = _decode(task, episode['targets'])
    target = task.postprocess_fn(said, example=episode, is_target=True)
    found.targets.append(target)
    found.draws.append(int(episode.get('draw', 0)))
    read = episode['hyper_inputs'].tobytes()
    found.sources.append(episode.get('task', read))
  return found


def texts_of(task: seqio.Task, tokens: Sequence[np.ndarray]) -> list[Any]:
  """Postprocessed texts of every episode's `[queries, length]` tokens."""
  return [
    task.postprocess_fn(_decode(task, rows), example=None, is_target=False)
    for rows in tokens
  ]


def _decode(task: seqio.Task, tokens: np.ndarray) -> list[str]:
  text_format = lookup.format_of(task)
  return [text_format.answer(row) for row in tokens]


def measure(
  metric_fns: Sequence[Callable[..., Mapping[str, Any]]],
  targets: Sequence[Any],
  outputs: Sequence[Any],
  draws: Sequence[int],
  together: int = 1,
) -> dict[str, float]:
  """Metrics over all episodes, with standard errors over episodes.

  So many episodes in a row are taken `together`: they ask the same, and are not
  independent. Where several episodes share a draw of shots, and there are
  several draws, the standard deviation over draws as well.
  """
  kinds = sorted(set(draws))
  values: dict[str, float] = {}
  for metric_fn in metric_fns:
    single = [
      metric_fn(targets[i : i + together], outputs[i : i + together])
      for i in range(0, len(targets), together)
    ]
    for name, value in metric_fn(targets, outputs).items():
      values[name] = float(value)
      if len(single) > 1:
        spread = np.std([episode[name] for episode in single], ddof=1)
        values[f'{name}_stderr'] = float(spread / np.sqrt(len(single)))
    if 1 < len(kinds) < len(draws):
      by_draw = []
      for kind in kinds:
        of = [i for i, draw in enumerate(draws) if draw == kind]
        by_draw.append(
          metric_fn([targets[i] for i in of], [outputs[i] for i in of])
        )
      for name in by_draw[0]:
        spread = np.std([one[name] for one in by_draw], ddof=1)
        values[f'{name}_std'] = float(spread)
  return values


def table(results: Sequence[Row], columns: Sequence[str] | None = None) -> str:
  """Results as a Markdown table, each number with its standard error.

  Args:
    results: rows of numbers.
    columns: fields of the rows; task, phi, episodes and all numbers if None.
  """
  if columns is None:
    numbers = dict.fromkeys(
      name
      for row in results
      for name, value in row.items()
      if isinstance(value, float) and not name.endswith(summaries.ERRORS)
    )
    columns = ['task', 'phi', 'episodes', *numbers]
  rows = [[_cell(row, name) for name in columns] for row in results]
  return summaries.markdown([columns, *rows])


def _cell(row: Row, name: str) -> str:
  value = row.get(name)
  if not isinstance(value, float):
    return '' if value is None else str(value)
  return summaries.shown(name, value, row.get(f'{name}_stderr'))
