"""Compares targets with the model's texts: metrics, and a table of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from hypertuning import spread, tables
from hypertuning.data import fewshot, lookup

Row = Mapping[str, Any]


def by_episode(values: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
  """The values of each episode's queries, without padded queries.

  Args:
    values: values `[episodes, queries, ...]`.
    counts: number of queries that each episode asks, int `[episodes]`.

  Returns:
    One array `[count, ...]` per episode.
  """
  return [row[:count] for row, count in zip(values, counts, strict=True)]


class Questions(NamedTuple):
  """The questions of a split, one entry per episode.

  Attributes:
    targets: postprocessed targets of the queries.
    draws: number of the episode's draw of shots.
    sources: bytes that tell apart the tasks that phi is made for: the name of
      the task, or the hypermodel's input if tasks have no names.
  """

  targets: list[Any]
  draws: list[int]
  sources: list[bytes]


def questions_of(
  task: seqio.Task, episodes: tf.data.Dataset, counts: np.ndarray
) -> Questions:
  """The questions of episodes.

  Args:
    task: the seqio task of the episodes.
    episodes: the episodes, before they are converted to model features.
    counts: number of queries that each episode asks, int `[episodes]`.
  """
  questions = Questions([], [], [])
  for full_episode, count in zip(
    episodes.as_numpy_iterator(), counts, strict=True
  ):
    # TASK_FEATURE_LENGTHS may have cut an episode's last queries, which the
    # model has then not answered.
    episode = {
      name: value[:count] if name in fewshot.OF_QUERIES else value
      for name, value in full_episode.items()
    }
    texts = episode.get('targets_pretokenized')
    if texts is None:
      texts = _decode(task, episode['targets'])
    target = task.postprocess_fn(texts, example=episode, is_target=True)
    questions.targets.append(target)
    questions.draws.append(int(episode.get('draw', 0)))
    hyper_text = episode['hyper_inputs'].tobytes()
    questions.sources.append(episode.get('task', hyper_text))
  return questions


def texts_of(task: seqio.Task, tokens: Sequence[np.ndarray]) -> list[Any]:
  """The postprocessed texts of each episode.

  Args:
    task: the seqio task of the episodes.
    tokens: decoded tokens of each episode, `[queries, length]`.
  """
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
  group_size: int = 1,
) -> dict[str, float]:
  """Metrics over all episodes, with standard errors over episodes.

  Args:
    metric_fns: functions from targets and outputs to named numbers.
    targets: postprocessed targets of each episode.
    outputs: texts or scores of each episode, in the same order.
    draws: number of each episode's draw of shots.
    group_size: number of consecutive episodes that ask the same queries. They
      are not independent, so that each group is one sample of the error.

  Returns:
    Each metric by its name, `<name>_stderr` if there are several groups, and
    `<name>_std`, the standard deviation over draws, if there are several draws
    with several episodes each.
  """
  kinds = sorted(set(draws))
  values: dict[str, float] = {}
  for metric_fn in metric_fns:
    single = [
      metric_fn(targets[i : i + group_size], outputs[i : i + group_size])
      for i in range(0, len(targets), group_size)
    ]
    for name, value in metric_fn(targets, outputs).items():
      values[name] = float(value)
      if len(single) > 1:
        values[f'{name}_stderr'] = spread.standard_error(
          [group[name] for group in single]
        )
    if 1 < len(kinds) < len(draws):
      by_draw = []
      for kind in kinds:
        mine = [i for i, draw in enumerate(draws) if draw == kind]
        by_draw.append(
          metric_fn([targets[i] for i in mine], [outputs[i] for i in mine])
        )
      for name in by_draw[0]:
        values[f'{name}_std'] = spread.standard_deviation(
          [results[name] for results in by_draw]
        )
  return values


def table(results: Sequence[Row], columns: Sequence[str] | None = None) -> str:
  """Results as a Markdown table, each number with its standard error.

  Args:
    results: rows of results.
    columns: names of the fields that are shown; None shows the task, the phi
      mode, the number of episodes and all numbers.
  """
  if columns is None:
    numbers = dict.fromkeys(
      name
      for row in results
      for name, value in row.items()
      if isinstance(value, float) and not name.endswith(tables.ERRORS)
    )
    columns = ['task', 'phi', 'episodes', *numbers]
  rows = [[_cell(row, name) for name in columns] for row in results]
  return tables.markdown([columns, *rows])


def _cell(row: Row, name: str) -> str:
  value = row.get(name)
  if not isinstance(value, float):
    return '' if value is None else str(value)
  return tables.number(name, value, row.get(f'{name}_stderr'))
