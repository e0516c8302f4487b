"""Metrics of decoded texts and of scored options, for seqio tasks.

A metric function takes the targets of all episodes, in the form that the
postprocessor `texts` or `ranked_options` returns, and their predictions or
scores. It returns percentages.
"""

import functools
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hypertuning.errors import UserError

Targets = Sequence[Sequence[Sequence[str]]]  # [episodes][queries][references]
Predictions = Sequence[Sequence[str]]
Ranked = Mapping[str, np.ndarray]


# Postprocessors.


def texts(
  output: Any,
  example: Mapping[str, Any] | None = None,
  is_target: bool = False,
  **unused: Any,
) -> Any:
  """Postprocessor of an episode whose queries are answered by text.

  Args:
    output: one text per query, decoded or the target.
    example: features of the episode; its `query_references`, if any, are
      further right answers.
    is_target: whether `output` holds the targets, and not the predictions.
    **unused: seqio's other arguments.

  Returns:
    For predictions, one text per query. For targets, one list per query, with
    every text that counts as right.
  """
  answers = [text(value) for value in output]
  if not is_target:
    return answers
  references = (example or {}).get('query_references', [()] * len(answers))
  return [
    [answer, *(x for x in map(text, others) if x and x != answer)]
    for answer, others in zip(answers, references, strict=True)
  ]


def ranked_options(
  output: Any, example: Mapping[str, Any] | None = None, **unused: Any
) -> dict[str, np.ndarray]:
  """Postprocessor of an episode whose queries are options to be scored.

  Args:
    output: the text of each option.
    example: features of the episode, made by `fewshot.options_as_queries`.
    **unused: seqio's other arguments.

  Returns:
    Four arrays `[queries]`: `question` is the number of the question that the
    option answers (int), `is_correct` whether the option is right (bool),
    `tokens` the length of the option including its end token (int), and
    `option` the option's text (string).
  """
  assert example is not None  # seqio passes it
  return {
    'question': np.asarray(example['question']),
    'is_correct': np.asarray(example['is_correct'], bool),
    'tokens': (np.asarray(example['targets']) > 0).sum(axis=1),
    'option': np.array([text(value) for value in output]),
  }


# Generated text.


def exact_match(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """Percentage of queries whose text is one of the references.

  Predictions after an episode's last target belong to padding, and do not
  count.

  Raises:
    UserError: an episode has fewer predictions than targets.
  """
  return {'accuracy': _mean(lambda r, p: p in r, targets, predictions)}


def rouge_l(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """ROUGE-L as Super-NaturalInstructions scores it.

  `rouge_l` is the mean over queries of the F-measure on stemmed words, for the
  reference with the greatest one. `exact_match` compares texts in lower case
  and without punctuation.

  Raises:
    UserError: an episode has fewer predictions than targets.
  """
  scorer = _rouge_scorer()

  def best(references: Sequence[str], answer: str) -> float:
    return max(
      scorer.score(target=reference, prediction=answer)['rougeL'].fmeasure
      for reference in references
    )

  def same(references: Sequence[str], answer: str) -> bool:
    return _normalised(answer) in {_normalised(x) for x in references}

  return {
    'rouge_l': _mean(best, targets, predictions),
    'exact_match': _mean(same, targets, predictions),
  }


def macro_f1(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """F1 in percent, averaged over all labels that are the target of a query.

  Raises:
    UserError: an episode has fewer predictions than targets.
  """
  pairs = [(r[0], p) for r, p in _pairs(targets, predictions)]
  return {'macro_f1': _macro_f1(*zip(*pairs, strict=True)) if pairs else 0.0}


# Scored options.


def rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """Percentage of questions whose likeliest option is right, as in T0.

  Args:
    targets: one result of `ranked_options` per episode.
    scores: one float array `[queries]` per episode, the summed log-probability
      of each option; the scores of padding come last.
  """
  return _rank_accuracy(targets, scores, by_mean=False)


def mean_rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """Like `rank_accuracy`, but by mean log-probability per token (MetaICL)."""
  return _rank_accuracy(targets, scores, by_mean=True)


def mean_rank_macro_f1(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """MetaICL's F1 in percent for classification, averaged over all labels."""
  choices = _likeliest_options(targets, scores, by_mean=True)
  if not choices:
    return {'macro_f1': 0.0}
  gold, answers, _ = zip(*choices, strict=True)
  return {'macro_f1': _macro_f1(gold, answers)}


def text(value: str | bytes) -> str:
  """A text without the white space around it, which metrics ignore."""
  string_value = value.decode() if isinstance(value, bytes) else str(value)
  return string_value.strip()


def _rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool
) -> dict[str, float]:
  choices = _likeliest_options(targets, scores, by_mean)
  num_right = sum(is_right for *_, is_right in choices)
  return {'accuracy': 100.0 * num_right / max(len(choices), 1)}


def _likeliest_options(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool
) -> list[tuple[str, str, bool]]:
  """The likeliest option of every question.

  If several options are equally likely, the first one counts.

  Returns:
    One triple per question: the text of the right option, the text of the
    likeliest option, and whether the latter is right. A question may list an
    option twice, so that the texts may be equal where the option is not right.
  """
  choices = []
  for ranked, values in zip(targets, scores, strict=True):
    score = np.asarray(values, np.float64)[: len(ranked['question'])]
    if by_mean:
      score = score / ranked['tokens']
    for question in np.unique(ranked['question']):
      rows = np.flatnonzero(ranked['question'] == question)
      best = rows[np.argmax(score[rows])]
      is_right = ranked['is_correct'][best]
      gold = ranked['option'][rows[np.argmax(ranked['is_correct'][rows])]]
      choices.append((str(gold), str(ranked['option'][best]), bool(is_right)))
  return choices


def _macro_f1(gold: Sequence[str], answers: Sequence[str]) -> float:
  scores = []
  for label in sorted(set(gold)):
    pairs = [
      (is_gold == label, is_answer == label)
      for is_gold, is_answer in zip(gold, answers, strict=True)
    ]
    hits = sum(is_gold and is_answer for is_gold, is_answer in pairs)
    scores.append(2 * hits / sum(int(r) + int(a) for r, a in pairs))
  return 100.0 * float(np.mean(scores))


def _mean(
  score: Callable[[Sequence[str], str], float],
  targets: Targets,
  predictions: Predictions,
) -> float:
  values = [float(score(r, p)) for r, p in _pairs(targets, predictions)]
  return 100.0 * sum(values) / max(len(values), 1)


def _pairs(
  targets: Targets, predictions: Predictions
) -> list[tuple[Sequence[str], str]]:
  """Pairs (references, predicted text) of all queries that have a target.

  Raises:
    UserError: an episode has fewer predictions than targets.
  """
  for queries, answers in zip(targets, predictions, strict=True):
    if len(answers) < len(queries):
      raise UserError(
        f'An episode asks {len(queries)} queries, of which {len(answers)} were '
        'answered: give TASK_FEATURE_LENGTHS room for as many as the task has.'
      )
  return [
    pair
    for queries, answers in zip(targets, predictions, strict=True)
    for pair in zip(queries, list(answers)[: len(queries)], strict=True)
  ]


def _normalised(value: str) -> str:
  characters = (c for c in value.lower() if c not in string.punctuation)
  return ' '.join(''.join(characters).split())


@functools.cache
def _rouge_scorer() -> Any:
  from rouge_score import rouge_scorer  # imports nltk, which takes seconds

  return rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)
