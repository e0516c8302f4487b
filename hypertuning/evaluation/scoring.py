"""Compares targets with the model's texts: metrics, and a table of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hypertuning import spread, tables
from hypertuning.data.questions import number_of
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.evaluation import statistics

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


def check_scores(
  name: str, scores: np.ndarray, counts: Sequence[int]
) -> list[np.ndarray]:
  """Divides scores by episode, and refuses scores that are not finite.

  Args:
    name: name of the task and the phi mode, for the error message.
    scores: log-likelihoods, float `[episodes, queries]`.
    counts: number of queries that each episode asks.

  Returns:
    One float array `[queries]` per episode, without padding.

  Raises:
    UserError: names the first query whose score is not finite.
  """
  episode_scores = by_episode(scores, np.asarray(counts))
  for episode, row in enumerate(episode_scores):
    for query in np.flatnonzero(~np.isfinite(row))[:1]:
      raise UserError(
        f'{name}: the log-likelihood of query {query} of episode {episode} is '
        f'{row[query]}: the checkpoint gives no number; use another one.'
      )
  return episode_scores


def check_loss(name: str, step: int, loss: float) -> None:
  """Refuses a loss that is not finite.

  Args:
    name: name of the task that is tuned.
    step: number of finished tuning steps.
    loss: loss of the task.

  Raises:
    UserError: names the task and the step.
  """
  if not math.isfinite(loss):
    raise UserError(
      f'{name}: the loss is {loss} at step {step}: lower LEARNING_RATE.'
    )


def texts_of(
  text_format: TextFormat,
  postprocess: Callable[..., Any] | None,
  tokens: Sequence[np.ndarray],
) -> list[Any]:
  """The postprocessed texts of each episode.

  Args:
    text_format: format that the answers are read in.
    postprocess: seqio's postprocessor; None leaves the texts as they are.
    tokens: decoded tokens of each episode, int `[queries, length]`.
  """
  episodes = [[text_format.answer(row) for row in rows] for rows in tokens]
  if postprocess is None:
    return episodes
  return [
    postprocess(texts, example=None, is_target=False) for texts in episodes
  ]


def measure(
  metric_fns: Sequence[Callable[..., Mapping[str, Any]]],
  targets: Sequence[Any],
  outputs: Sequence[Any],
  draws: Sequence[int],
  group_size: int = 1,
) -> dict[str, float]:
  """Metrics over all episodes, with standard errors over episodes.

  A standard error weights each group of episodes by its number of questions.

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
  groups = range(0, len(targets), group_size)
  sizes = [number_of(targets[i : i + group_size]) for i in groups]
  values: dict[str, float] = {}
  for metric_fn in metric_fns:
    single = [
      metric_fn(targets[i : i + group_size], outputs[i : i + group_size])
      for i in groups
    ]
    for name, value in metric_fn(targets, outputs).items():
      values[name] = float(value)
      if not math.isfinite(value):
        raise UserError(f'The metric {name!r} is {value}.')
      if len(single) > 1:
        weights = np.array(sizes, float)
        sums = weights * [group[name] for group in single]
        values[f'{name}_stderr'] = statistics.ratio(sums, weights)[1]
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
      mode, the numbers of episodes and questions, and all numbers.
  """
  if columns is None:
    numbers = dict.fromkeys(
      name
      for row in results
      for name, value in row.items()
      if isinstance(value, float) and not name.endswith(tables.ERRORS)
    )
    columns = ['task', 'phi', 'episodes', 'questions', *numbers]
  rows = [[_cell(row, name) for name in columns] for row in results]
  return tables.markdown([columns, *rows])


def _cell(row: Row, name: str) -> str:
  value = row.get(name)
  if not isinstance(value, float):
    return '' if value is None else str(value)
  return tables.number(name, value, row.get(f'{name}_stderr'))
