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
from hypertuning.renamed import takes_text_format

# Suffix of a task's name, by what the downstream model reads before a query:
# nothing (phi tells), or definition and shots; or nothing, but a teacher does.
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
  score_metric_fns: MetricFns = (metrics.rank_accuracy,),
) -> str:
  """Registers episodes of rows in every form, in place of older ones.

  Forms: `<name>` shows the examples to the hypermodel alone,
  `<name>_in_context` to the downstream model as well, `<name>_taught` to a
  teacher. With `options` the first two are there once more with `_score_eval`
  behind: the options of a question are the queries of an episode, and share its
  shots and phi.

  Args:
    name: letters, digits, `_` and `.`.
    splits: split to a function that gives its tasks, called at first use.
    shots: examples an episode shows, in all splits or in each.
    queries: examples an episode asks (`_score_eval`: one question).
    balanced: show every target equally often.
    visits: see `EpisodeSource`; by default a split that is not `train` asks
      every row.
    draws: see `EpisodeSource`.
    train_episodes: how many `seqio_cache_tasks` writes; endless if None.
    at_most: a task with fewer rows to show than `shots` shows them all.
    options: the rows have options.
    symbol_labels: labels are replaced by some of these, drawn anew for every
      episode (symbol tuning).
    text_format: layout of the text, T5's over bytes by default.
    metric_fns: of what is said, as seqio has them.
    score_metric_fns: of the options' scores.

  Returns:
    The name.

  Raises:
    UserError: a name that seqio does not take.
  """
  if not name.replace('.', '_').isidentifier():
    raise UserError(
      f'{name!r} cannot name a task: use letters, digits, "_" and "."'
    )
  text_format = check(text_format or vocabularies.byte_format())
  relabel = []
  if symbol_labels is not None:
    relabel = [functools.partial(symbols.relabel, labels=tuple(symbol_labels))]

  def source(asked: int) -> EpisodeSource:
    return EpisodeSource(
      splits,
      shots,
      asked,
      balanced=balanced,
      visits=visits,
      draws=draws,
      train_episodes=train_episodes,
      at_most=at_most,
    )

  asked = source(queries)
  ranked = source(1) if options else None
  for form in FORMS:
    to_tokens = functools.partial(
      fewshot.episode_features,
      text_format=text_format,
      in_context=form == IN_CONTEXT,
      taught=form == TAUGHT,
    )
    _add(
      name + form,
      asked,
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
  """The name of a form of the task that `add_episodes` has called `name`."""
  return name + IN_CONTEXT * in_context + SCORE_EVAL * scored


def base_of(name: str) -> str:
  """What `add_episodes` has called the task whose form `name` is."""
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
    name: of the mixture.
    rates: names of tasks and their rates; in gin, where a name is what another
      function returns, as pairs.
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
    # What is drawn can be cached; what is shown of it depends on the lengths.
    preprocessors=[seqio.CacheDatasetPlaceholder(), *preprocessors],
    output_features=features.output_features(
      text_format, taught=name.endswith(TAUGHT)
    ),
    postprocess_fn=postprocess_fn,
    metric_fns=list(metric_fns),
    shuffle_buffer_size=None,  # episodes are drawn at random
  )
