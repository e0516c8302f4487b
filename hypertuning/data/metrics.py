"""Metrics of decoded text and of scored options, for seqio tasks.

A metric function takes the targets of all episodes and their predictions (or
scores), each episode in the form that the postprocessor `texts` or
`ranked_options` returns. It returns percentages.
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
    output: one decoded text per query.
    example: features of the episode; `query_references` in it are further right
      answers.
    is_target: whether `output` is the targets, not the predictions.
    **unused: seqio's other arguments.

  Returns:
    Of predictions one text per query. Of targets one list per query, with every
    text that counts as right.
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
    example: features of the episode, as `fewshot.options_as_queries` made them.
    **unused: seqio's other arguments.

  Returns:
    Arrays `[queries]`: `question`, the number of the question that the option
    answers, `is_correct`, `tokens`, the length of the option with its end
    token, and `option`, its text.
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

  Predictions behind an episode's last target belong to padding and do not
  count.

  Raises:
    UserError: fewer predictions than targets.
  """
  return {'accuracy': _mean(lambda r, p: p in r, targets, predictions)}


def rouge_l(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """ROUGE-L as Super-NaturalInstructions scores it.

  `rouge_l` is the F-measure on stemmed words, the greatest over the references
  of a query, then the mean over queries. `exact_match` compares texts in lower
  case and without punctuation.
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
  """F1 in percent, averaged over the labels that are a target somewhere."""
  pairs = [(r[0], p) for r, p in _pairs(targets, predictions)]
  return {'macro_f1': _macro_f1(*zip(*pairs, strict=True)) if pairs else 0.0}


# Scored options.


def rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """Percentage of questions whose likeliest option is right, as T0 counts it.

  Args:
    targets: one result of `ranked_options` per episode.
    scores: one array `[queries]` of summed log-probabilities per episode;
      padding comes behind its options.
  """
  return _ranked(targets, scores, by_mean=False)


def mean_rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """`rank_accuracy` by the mean log-probability per token, as in MetaICL."""
  return _ranked(targets, scores, by_mean=True)


def mean_rank_macro_f1(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """MetaICL's F1 for classification, averaged over the labels of a task."""
  chosen = _chosen(targets, scores, by_mean=True)
  if not chosen:
    return {'macro_f1': 0.0}
  gold, answers, _ = zip(*chosen, strict=True)
  return {'macro_f1': _macro_f1(gold, answers)}


def text(value: str | bytes) -> str:
  """A text without white space around it, as metrics compare texts."""
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
  """Per question: right option, likeliest option, whether the latter is right.

  Of options that are equally likely, the first is taken. A question may list an
  option twice, so that "right" is not the same as "has the right text".
  """
  found = []
  for ranked, values in zip(targets, scores, strict=True):
    score = np.asarray(values, np.float64)[: len(ranked['question'])]
    if by_mean:
      score = score / ranked['tokens']
    for question in np.unique(ranked['question']):
      rows = np.flatnonzero(ranked['question'] == question)
      best = rows[np.argmax(score[rows])]
      right = ranked['is_correct'][best]
      gold = ranked['option'][rows[np.argmax(ranked['is_correct'][rows])]]
      found.append((str(gold), str(ranked['option'][best]), bool(right)))
  return found


def _macro_f1(gold: Sequence[str], answers: Sequence[str]) -> float:
  scores = []
  for label in sorted(set(gold)):
    pairs = [
      (right == label, answer == label)
      for right, answer in zip(gold, answers, strict=True)
    ]
    hits = sum(right and answer for right, answer in pairs)
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
  """(references, text) of every query that has a target.

  Raises:
    UserError: fewer texts than targets.
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
  kept = (c for c in value.lower() if c not in string.punctuation)
  return ' '.join(''.join(kept).split())


@functools.cache
def _rouge_scorer() -> Any:
  from rouge_score import rouge_scorer  # imports nltk: seconds

  return rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)
