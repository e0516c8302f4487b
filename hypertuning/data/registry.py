"""One call that makes episodes of any rows a family of seqio tasks."""

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

# Suffixes of a task's name. The downstream model reads definition and shots
# before a query (`IN_CONTEXT`), or a teacher does (`TAUGHT`); without a suffix
# neither does, and phi alone tells what the task is.
IN_CONTEXT, TAUGHT = '_in_context', '_taught'
FORMS = ('', IN_CONTEXT, TAUGHT)
Splits = Mapping[str, Callable[[], Tasks]]
MetricFns = Sequence[Callable[..., Mapping[str, float]]]


@takes_text_format
def add_episodes(
  name: str,
  splits: Splits,
  shots: int | Mapping[str, int],
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
  """Registers episodes of rows as seqio tasks, in place of older ones.

  There is one task per form: `<name>` shows the examples to the hypermodel
  alone, `<name>_in_context` to the downstream model as well, `<name>_taught` to
  a teacher as well. With `options` there are also `<name>_score_eval` and
  `<name>_in_context_score_eval`, which score the options of a question: each
  option is a query, and all share the shots and phi of one episode.

  Args:
    name: name of the task: letters, digits, `_` and `.`.
    splits: for each split a function that returns its tasks, called at the
      first use of the split.
    shots: number of shots per episode, for all splits or by split.
    queries: number of queries per episode; with `_score_eval` one question.
    balanced: whether shots have every target equally often.
    visits: see `EpisodeSource`; by default every row of a split other than
      `train` is a query.
    draws: see `EpisodeSource`.
    train_episodes: number of episodes that `seqio_cache_tasks` writes; None for
      no end.
    at_most: whether a task with fewer rows than `shots` shows them all.
    options: whether the rows have options. An option that a row lists twice
      counts once.
    symbol_labels: symbols that replace the labels, drawn anew for every episode
      (symbol tuning).
    text_format: layout of the text, T5's over bytes by default.
    metric_fns: seqio metric functions for answered text.
    score_metric_fns: seqio metric functions for the scores of options.

  Returns:
    The name.

  Raises:
    UserError: seqio does not take the name, or `text_format` is something else.
  """
  if not name.replace('.', '_').isidentifier():
    raise UserError(
      f'{name!r} cannot name a task: use letters, digits, "_" and "."'
    )
  text_format = check(text_format or vocabularies.byte_format())
  relabel = []
  if symbol_labels is not None:
    relabel = [functools.partial(symbols.relabel, labels=tuple(symbol_labels))]

  def source(count: int, ranked: bool = False) -> EpisodeSource:
    return EpisodeSource(
      splits,
      shots,
      count,
      balanced=balanced,
      visits=visits,
      draws=draws,
      train_episodes=train_episodes,
      at_most=at_most,
      ranked=ranked,
    )

  answered = source(queries)
  ranked = source(1, ranked=True) if options else None
  for form in FORMS:
    to_tokens = functools.partial(
      fewshot.episode_features,
      text_format=text_format,
      in_context=form == IN_CONTEXT,
      taught=form == TAUGHT,
    )
    _add(
      name + form,
      answered,
      [*relabel, to_tokens],
      text_format,
      metrics.texts,
      metric_fns,
    )
    if ranked is not None and form != TAUGHT:
      _add(
        name + form + SCORE_EVAL,
        ranked,
        [*relabel, fewshot.options_as_queries, to_tokens],
        text_format,
        metrics.ranked_options,
        score_metric_fns,
      )
  return name


def form_of(name: str, in_context: bool, scored: bool = False) -> str:
  """The name of one form of the task `name` that `add_episodes` registered."""
  return name + IN_CONTEXT * in_context + SCORE_EVAL * scored


def base_of(name: str) -> str:
  """The name that `add_episodes` was given for the task of a form `name`."""
  name = name.removesuffix(SCORE_EVAL)
  return name.removesuffix(IN_CONTEXT).removesuffix(TAUGHT)


def add_copy(name: str, task: seqio.Task, source: EpisodeSource) -> str:
  """Registers a task like another, with other episodes; returns the name."""
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
  """Registers a mixture, in place of an older one; returns the name.

  Args:
    name: name of the mixture.
    rates: rates by the names of tasks; or pairs of name and rate, for gin,
      where a name may be what a function returns.
  """
  rates = dict(rates)
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, list(rates.items()))
  return name


def add_task(name: str, **kwargs: Any) -> None:
  """Registers a seqio task, in place of an older one: gin may ask again."""
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
    # Drawn episodes can be cached, their tokens cannot: what fits depends on
    # the lengths.
    preprocessors=[seqio.CacheDatasetPlaceholder(), *preprocessors],
    output_features=features.output_features(
      text_format, taught=name.endswith(TAUGHT)
    ),
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
    shuffle_buffer_size=None,  # episodes are drawn at random
  )
