"""Compares targets with the model's texts: metrics, and a table of them."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from hypertuning import spread, tables
from hypertuning.data import fewshot, lookup, metrics
from hypertuning.errors import UserError
from hypertuning.evaluation import statistics
from hypertuning.padding import is_real

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
    counts: number of queries that the episode asks.
    draws: number of the episode's draw of shots.
    sources: bytes that tell apart the tasks that phi is made for: the name of
      the task, or the hypermodel's input if tasks have no names.
    notes: lines that say how many queries are not asked, how many targets are
      cut, and how many questions have options of the same tokens.
  """

  targets: list[Any]
  counts: list[int]
  draws: list[int]
  sources: list[bytes]
  notes: list[str]

  def print_notes(self) -> None:
    """Prints the notes on stderr."""
    for line in self.notes:
      print(line, file=sys.stderr)


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
    UserError: there is no episode; a query has no target tokens; or every
      question has a right and a wrong option of the same tokens.
  """
  questions = Questions([], [], [], [], [])
  num_queries, num_cut, option_groups = 0, 0, []
  for number, full_episode in enumerate(episodes.as_numpy_iterator()):
    mask = is_real(full_episode['targets']).any(axis=1)
    # seqio has cut the targets, but not the other features of the queries.
    sizes = full_episode.get('target_sizes')
    num_queries += int(mask.sum()) if sizes is None else len(sizes)
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
    if 'target_sizes' in episode:
      lengths = is_real(episode['targets']).sum(axis=1)
      num_cut += int((episode['target_sizes'] > lengths).sum())
    texts = episode.get('targets_pretokenized')
    if texts is None:
      texts = _decode(task, episode['targets'])
    try:
      target = task.postprocess_fn(texts, example=episode, is_target=True)
    except UserError as error:
      raise UserError(f'{task.name}: {error}') from error
    if isinstance(target, Mapping):
      option_groups += [
        target['option'][queries]
        for queries in metrics.indistinct_options(target)
      ]
    questions.targets.append(target)
    questions.counts.append(count)
    questions.draws.append(int(episode.get('draw', 0)))
    hyper_text = episode['hyper_inputs'].tobytes()
    questions.sources.append(episode.get('task', hyper_text))
  if not questions.counts:
    raise UserError(f'{task.name}: the split to evaluate has no episodes.')
  questions.notes.extend(
    f'{task.name}: {note}.'
    for note in _notes(
      task.name, num_queries, questions, num_cut, option_groups
    )
  )
  return questions


def _notes(
  name: str,
  num_queries: int,
  questions: Questions,
  num_cut: int,
  option_groups: Sequence[np.ndarray],
) -> Iterator[str]:
  """Yields sentences about the queries and targets that the model cannot see.

  Args:
    name: name of the task, for the error message.
    num_queries: number of queries that the task has.
    questions: the questions that are asked.
    num_cut: number of targets that are cut.
    option_groups: texts of the options in each group with the same tokens, of
      which some are right and some wrong.

  Raises:
    UserError: every question has such a group.
  """
  count, number = sum(questions.counts), number_of(questions.targets)
  if count < num_queries:
    yield (
      f'{count} of {num_queries} queries are asked: '
      "TASK_FEATURE_LENGTHS['inputs'] and ['targets'] have no room for more "
      'per episode'
    )
  if num_cut:
    yield (
      f"{num_cut} of {count} targets are cut to TASK_FEATURE_LENGTHS['targets']"
    )
  if option_groups:
    options = ' and '.join(map(repr, option_groups[0][:2].tolist()))
    text = (
      f'{len(option_groups)} of {number} questions have a right and a wrong '
    )
    text += f'option of the same tokens ({options}), which cannot be ranked'
    if len(option_groups) >= number:
      raise UserError(f'{name}: {text}: the vocabulary does not know them.')
    yield f'{text} and count as wrong'


def number_of(targets: Sequence[Any]) -> int:
  """The number of questions in the postprocessed targets of episodes."""
  return sum(
    len(np.unique(x['question'])) if isinstance(x, Mapping) else len(x)
    for x in targets
  )


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
