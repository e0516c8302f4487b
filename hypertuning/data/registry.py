"""Registers episodes of any rows as a family of seqio tasks, in one call."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio

from hypertuning.data import features, fewshot, metrics, symbols, vocabularies
from hypertuning.data.episodes import EpisodeSource
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.rows import Tasks
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Shots

# Suffixes of the names of a task's forms. In the form `IN_CONTEXT`, the
# downstream model reads the definition and the shots before each query; in
# `TAUGHT`, a teacher does. In the form without a suffix, neither does, and only
# phi shows what the task is.
IN_CONTEXT, TAUGHT = '_in_context', '_taught'
FORMS = ('', IN_CONTEXT, TAUGHT)
Splits = Mapping[str, Callable[[], Tasks]]
MetricFns = Sequence[Callable[..., Mapping[str, float]]]


@takes_text_format
def add_episodes(
  name: str,
  splits: Splits,
  shots: Shots | Mapping[str, Shots],
  queries: int = 1,
  *,
  balanced: bool = False,
  visits: int | None = None,
  draws: int | Sequence[int] = 1,
  train_episodes: int | None = None,
  at_most: bool = False,
  options: bool = False,
  symbol_labels: Sequence[str] | None = None,
  text_format: TextFormat | None = None,
  metric_fns: MetricFns = (metrics.exact_match,),
  score_metric_fns: MetricFns = (metrics.rank_accuracy, metrics.ties),
) -> str:
  """Registers episodes of rows as seqio tasks, and replaces tasks of that name.

  There is one task per form. `<name>` shows the examples to the hypermodel
  alone; `<name>_in_context` shows them to the downstream model too, and
  `<name>_taught` to a teacher. With `options`, there are also
  `<name>_score_eval` and `<name>_in_context_score_eval`, which score the
  options of a question. There, each option is a query, and all options share
  the shots and the phi of one episode.

  Args:
    name: name of the task, made of letters, digits, `_` and `.`.
    splits: maps the name of each split to a function that returns its tasks. It
      is called when the split is first used.
    shots: number of shots per episode, or a pair, or a dict of these by split,
      see `EpisodeSource`.
    queries: number of queries per episode. The forms that score options have
      one question per episode.
    balanced: whether shots have every target equally often.
    visits: number of visits to each task in splits other than `train`, see
      `EpisodeSource`. None, the default, makes every row a query once.
    draws: number of draws of shots per visit, see `EpisodeSource`.
    train_episodes: number of training episodes that `seqio_cache_tasks` writes;
      None makes them endless.
    at_most: whether a task with fewer rows than `shots` shows all of its rows;
      it is refused otherwise.
    options: whether the rows have options. An option that a row lists twice
      counts once.
    symbol_labels: symbols that replace the labels, drawn anew for every episode
      (symbol tuning); None keeps the labels.
    text_format: format of the text; T5's over bytes by default.
    metric_fns: seqio metric functions for generated text.
    score_metric_fns: seqio metric functions for the scores of options.

  Returns:
    The name of the task.

  Raises:
    UserError: seqio does not accept the name, or `text_format` is no
      `TextFormat`.
  """
  if not name.replace('.', '_').isidentifier():
    raise UserError(
      f'{name!r} cannot name a task: use letters, digits, "_" and "."'
    )
  text_format = check(text_format or vocabularies.byte_format())
  relabel = []
  if symbol_labels is not None:
    relabel = [
      functools.partial(
        symbols.relabel, labels=tuple(symbol_labels), text_format=text_format
      )
    ]

  def source(count: int, scores_options: bool = False) -> EpisodeSource:
    return EpisodeSource(
      splits,
      shots,
      count,
      balanced=balanced,
      visits=visits,
      draws=draws,
      train_episodes=train_episodes,
      at_most=at_most,
      scores_options=scores_options,
      text_format=text_format,
    )

  query_source = source(queries)
  option_source = source(1, scores_options=True) if options else None
  for form in FORMS:
    to_tokens = functools.partial(
      fewshot.episode_features,
      text_format=text_format,
      in_context=form == IN_CONTEXT,
      taught=form == TAUGHT,
    )
    _add(
      name + form,
      query_source,
      [*relabel, to_tokens],
      text_format,
      metrics.texts,
      metric_fns,
    )
    if option_source is not None and form != TAUGHT:
      _add(
        name + form + SCORE_EVAL,
        option_source,
        [*relabel, fewshot.options_as_queries, to_tokens],
        text_format,
        metrics.ranked_options,
        score_metric_fns,
      )
  return name


def form_of(name: str, in_context: bool, scores_options: bool = False) -> str:
  """The name of one form of a task that `add_episodes` registered.

  Args:
    name: name of the task.
    in_context: whether the downstream model itself reads the examples.
    scores_options: whether the form scores options.
  """
  return name + IN_CONTEXT * in_context + SCORE_EVAL * scores_options


def base_of(name: str) -> str:
  """The name of a task, without the suffixes of its forms."""
  name = name.removesuffix(SCORE_EVAL)
  return name.removesuffix(IN_CONTEXT).removesuffix(TAUGHT)


def add_copy(name: str, task: seqio.Task, source: EpisodeSource) -> str:
  """Registers a copy of a task with other episodes, and returns its name.

  Args:
    name: name of the copy.
    task: seqio task whose features, preprocessors and metrics are copied.
    source: source of the copy's episodes.
  """
  add_task(
    name,
    source=source,
    preprocessors=task.preprocessors,
    output_features=task.output_features,
    postprocess_fn=task.postprocess_fn,
    metric_fns=task.metric_fns,
    shuffle_buffer_size=None,
  )
  return name


def add_mixture(
  name: str, rates: Mapping[str, float] | Sequence[tuple[str, float]]
) -> str:
  """Registers a mixture, or replaces it, and returns its name.

  Args:
    name: name of the mixture.
    rates: maps the name of each task to its rate. Pairs of name and rate are
      for gin, where a name may be the result of a function.
  """
  rates = dict(rates)
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, list(rates.items()))
  return name


def add_task(name: str, **kwargs: Any) -> None:
  """Registers a seqio task, or replaces it.

  It may exist already, as gin calls a function that registers a task each time
  that a binding refers to it.

  Args:
    name: name of the task.
    **kwargs: arguments of seqio's `TaskRegistry.add`.
  """
  if name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(name)
  seqio.TaskRegistry.add(name, **kwargs)


def _add(
  name: str,
  source: EpisodeSource,
  preprocessors: Sequence[Callable[..., Any]],
  text_format: TextFormat,
  postprocess_fn: Callable[..., Any],
  metric_fns: MetricFns,
) -> None:
  add_task(
    name,
    source=source,
    # Episodes are cached before they are tokenised, because the lengths of a
    # run decide which tokens and examples fit.
    preprocessors=[seqio.CacheDatasetPlaceholder(), *preprocessors],
    output_features=features.output_features(
      text_format, taught=name.endswith(TAUGHT)
    ),
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
    shuffle_buffer_size=None,  # episodes are drawn at random
  )
