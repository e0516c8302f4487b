"""Metrics of decoded text and of options' scores, as seqio has them.

A metric function gets targets and predictions (or scores) of all episodes, each
episode as `texts` or `ranked_options` give it, and returns percentages.
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
  """Postprocessor of an episode: its answers.

  Args:
    output: decoded text of every query.
    example: the episode's features.
    is_target: whether these are the targets.

  Returns:
    A text a query; of targets a list a query, with all that counts as right.
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
  """Postprocessor of an episode of `fewshot.options_as_queries`.

  Returns:
    `question`, `is_correct`, `tokens` (how many the option has, EOS too) and
    `option`, the text, each `[queries]`.
  """
  assert example is not None  # seqio gives it
  return {
    'question': np.asarray(example['question']),
    'is_correct': np.asarray(example['is_correct'], bool),
    'tokens': (np.asarray(example['targets']) > 0).sum(axis=1),
    'option': np.array([text(value) for value in output]),
  }


# Generated text.


def exact_match(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """Percentage of queries whose text is one of the references.

  Predictions of an episode's padded queries, behind its last target, do not
  count.

  Raises:
    UserError: fewer predictions than targets.
  """
  return {'accuracy': _mean(lambda r, p: p in r, targets, predictions)}


def rouge_l(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """ROUGE-L as Super-NaturalInstructions scores it.

  Stemmed F-measure, the greatest over references, the mean over queries; and
  exact match of normalised text (lower case, no punctuation).
  """
  scorer = _rouge_scorer()

  def best(references: Sequence[str], said: str) -> float:
    return max(
      scorer.score(target=reference, prediction=said)['rougeL'].fmeasure
      for reference in references
    )

  def same(references: Sequence[str], said: str) -> bool:
    return _normalised(said) in {_normalised(x) for x in references}

  return {
    'rouge_l': _mean(best, targets, predictions),
    'exact_match': _mean(same, targets, predictions),
  }


def macro_f1(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """F1 of every label that is a target, averaged; in percent."""
  pairs = [(r[0], p) for r, p in _pairs(targets, predictions)]
  return {'macro_f1': _macro_f1(*zip(*pairs, strict=True)) if pairs else 0.0}


# Scored options.


def rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """Percentage of questions whose likeliest option is right, as T0 has it.

  Args:
    targets: an episode as `ranked_options` gives it.
    scores: summed log-probabilities, `[queries]` an episode, padded ones last.
  """
  return _ranked(targets, scores, by_mean=False)


def mean_rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """The same by the mean log-probability of a token, as MetaICL has it."""
  return _ranked(targets, scores, by_mean=True)


def mean_rank_macro_f1(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """MetaICL's F1 of classification: the mean over the labels of a task."""
  chosen = _chosen(targets, scores, by_mean=True)
  if not chosen:
    return {'macro_f1': 0.0}
  gold, said, _ = zip(*chosen, strict=True)
  return {'macro_f1': _macro_f1(gold, said)}


def text(value: str | bytes) -> str:
  """A text as it is compared."""
  decoded = value.decode() if isinstance(value, bytes) else str(value)
  return decoded.strip()


def _ranked(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool
) -> dict[str, float]:
  chosen = _chosen(targets, scores, by_mean)
  right = sum(is_right for *_, is_right in chosen)
  return {'accuracy': 100.0 * right / max(len(chosen), 1)}


def _chosen(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool
) -> list[tuple[str, str, bool]]:
  """Right option, likeliest option and whether that is right, a question.

  Of options that are equally likely, the first is taken.
  """
  found = []
  for ranked, given in zip(targets, scores, strict=True):
    score = np.asarray(given, np.float64)[: len(ranked['question'])]
    if by_mean:
      score = score / ranked['tokens']
    for question in np.unique(ranked['question']):
      of = np.flatnonzero(ranked['question'] == question)
      best = of[np.argmax(score[of])]
      right = ranked['is_correct'][best]
      gold = ranked['option'][of[np.argmax(ranked['is_correct'][of])]]
      found.append((str(gold), str(ranked['option'][best]), bool(right)))
  return found


def _macro_f1(gold: Sequence[str], said: Sequence[str]) -> float:
  scores = []
  for label in sorted(set(gold)):
    pairs = [(g == label, s == label) for g, s in zip(gold, said, strict=True)]
    hits = sum(g and s for g, s in pairs)
    scores.append(2 * hits / sum(int(g) + int(s) for g, s in pairs))
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
  """(references, text) of every query that has a target.

  Raises:
    UserError: fewer texts than targets.
  """
  for asked, said in zip(targets, predictions, strict=True):
    if len(said) < len(asked):
      raise UserError(
        f'An episode asks {len(asked)} queries, of which {len(said)} were '
        'answered: give TASK_FEATURE_LENGTHS room for as many as the task has.'
      )
  return [
    pair
    for asked, said in zip(targets, predictions, strict=True)
    for pair in zip(asked, list(said)[: len(asked)], strict=True)
  ]


def _normalised(value: str) -> str:
  kept = (c for c in value.lower() if c not in string.punctuation)
  return ' '.join(''.join(kept).split())


@functools.cache
def _rouge_scorer() -> Any:
  from rouge_score import rouge_scorer  # imports nltk: seconds

  return rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)
