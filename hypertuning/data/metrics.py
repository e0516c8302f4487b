"""Metrics of decoded texts and of scored options, for seqio tasks.

A metric function takes the targets of all episodes, in the form that the
postprocessor `texts` or `ranked_options` returns, and their predictions or
scores. It returns percentages.
"""

import functools
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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
    Five arrays `[queries]`: `question` is the number of the question that the
    option answers (int), `is_correct` whether the option is right (bool),
    `tokens` the length of the option including its end token (int),
    `token_group` the number of the first query with the same tokens for the
    same question (int), and `option` the option's text (string).

  Raises:
    UserError: no option of a question is right, or a right and a wrong one are
      the same tokens because the lengths cut them.
  """
  assert example is not None  # seqio gives it
  targets = np.asarray(example['targets'])
  question = np.asarray(example['question'])
  rows = np.concatenate([question[:, None], targets], axis=1)
  _, first, group = np.unique(
    rows, axis=0, return_index=True, return_inverse=True
  )
  ranked = {
    'question': question,
    'is_correct': np.asarray(example['is_correct'], bool),
    'tokens': (targets > 0).sum(axis=1),
    'token_group': first[group.reshape(-1)],
    'option': np.array([text(value) for value in output]),
  }
  for number in np.unique(question):
    if not ranked['is_correct'][question == number].any():
      raise UserError(
        f'{_place(example, question == number)}: the target is not one of the '
        f'options {ranked["option"][question == number].tolist()}.'
      )
  sizes = np.asarray(example.get('target_sizes', ranked['tokens']))
  for queries in indistinct_options(ranked):
    if (sizes[queries] > ranked['tokens'][queries]).any():
      raise UserError(
        f'{_place(example, queries)}: the options '
        f'{" and ".join(map(repr, ranked["option"][queries][:2].tolist()))} '
        "are the same where TASK_FEATURE_LENGTHS['targets'] cuts them: give it "
        f'room for {sizes[queries].max()} tokens.'
      )
  return ranked


def indistinct_options(ranked: Ranked) -> list[np.ndarray]:
  """Finds options that are the same tokens although only some are right.

  Args:
    ranked: result of `ranked_options`.

  Returns:
    One int array per group of such options: the numbers of their queries.
  """
  groups = [
    np.flatnonzero(ranked['token_group'] == group)
    for group in np.unique(ranked['token_group'])
  ]
  right = ranked['is_correct']
  return [x for x in groups if right[x].any() and not right[x].all()]


def _place(example: Mapping[str, Any], queries: np.ndarray) -> str:
  """Names a task and a question: the input of the first of these queries."""
  place = text(example.get('task', b'')) or 'A task'
  inputs = example.get('inputs_pretokenized')
  if inputs is None:
    return place
  return f'{place}, {text(np.asarray(inputs, object)[queries][0])[:60]!r}'


# Generated text.


def exact_match(targets: Targets, predictions: Predictions) -> dict[str, float]:
  """Percentage of queries whose text is one of the references.

  Predictions after an episode's last target belong to padding, and do not
  count.

  Raises:
    UserError: an episode has fewer predictions than targets, or none has
      targets.
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
  return {'macro_f1': _macro_f1(*zip(*pairs, strict=True))}


# Scored options.


def rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """Percentage of questions whose likeliest option is right, as in T0.

  A question whose likeliest options are equally likely, or the same tokens, is
  right only if all of these are. (T0 takes the first of them, so that a model
  that cannot tell options apart is as good as their order.)

  Args:
    targets: one result of `ranked_options` per episode.
    scores: one float array `[queries]` per episode, the summed log-probability
      of each option; the scores of padding come last.

  Raises:
    UserError: there is no question, or a score is not finite.
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
  return {
    'macro_f1': _macro_f1(
      [x.gold for x in choices], [x.option for x in choices]
    )
  }


def ties(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool = False
) -> dict[str, float]:
  """Percentage of questions with several equally likely best options."""
  choices = _likeliest_options(targets, scores, by_mean)
  return {'ties': 100.0 * sum(x.is_tie for x in choices) / len(choices)}


def mean_ties(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """`ties` by the mean log-probability per token, as in MetaICL."""
  return ties(targets, scores, by_mean=True)


def metaicl_label_score(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """MetaICL's metric for a classification task, macro-F1."""
  return {'score': mean_rank_macro_f1(targets, scores)['macro_f1']}


def metaicl_choice_score(
  targets: Sequence[Ranked], scores: Sequence[Any]
) -> dict[str, float]:
  """MetaICL's metric for other tasks, accuracy."""
  return {'score': mean_rank_accuracy(targets, scores)['accuracy']}


def text(value: str | bytes) -> str:
  """A text without the white space around it, which metrics ignore."""
  string_value = value.decode() if isinstance(value, bytes) else str(value)
  return string_value.strip()


def _rank_accuracy(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool
) -> dict[str, float]:
  choices = _likeliest_options(targets, scores, by_mean)
  return {'accuracy': 100.0 * sum(x.is_right for x in choices) / len(choices)}


class _Choice(NamedTuple):
  """The option that a model chooses for a question.

  Attributes:
    gold: text of the right option.
    option: text of the likeliest option. If several are equally likely, it is
      a wrong one if any of them is wrong.
    is_right: whether all of the likeliest options are right.
    is_tie: whether options with different texts are equally likely.
  """

  gold: str
  option: str
  is_right: bool
  is_tie: bool


def _likeliest_options(
  targets: Sequence[Ranked], scores: Sequence[Any], by_mean: bool
) -> list[_Choice]:
  """The likeliest option of every question.

  A question may list an option twice. Then an option with the right text may
  not be the right one, and options with the same text are no tie.

  Raises:
    UserError: there is no question, or a score is not finite.
  """
  choices = []
  for ranked, values in zip(targets, scores, strict=True):
    score = np.asarray(values, np.float64)[: len(ranked['question'])]
    if not np.isfinite(score).all():
      query = np.flatnonzero(~np.isfinite(score))[0]
      raise UserError(
        f'The log-likelihood of the option {str(ranked["option"][query])!r} is '
        f'{score[query]}: the checkpoint gives no number; use another one.'
      )
    if by_mean:
      score = score / ranked['tokens']
    is_correct, option = ranked['is_correct'], ranked['option']
    groups = ranked['token_group']
    for question in np.unique(ranked['question']):
      rows = np.flatnonzero(ranked['question'] == question)
      choice_rows = rows[score[rows] == score[rows].max()]
      # The scores of equal tokens may differ by rounding.
      choice_rows = rows[np.isin(groups[rows], groups[choice_rows])]
      error_rows = choice_rows[~is_correct[choice_rows]]
      choices.append(
        _Choice(
          gold=str(option[rows[np.argmax(is_correct[rows])]]),
          option=str(option[[*error_rows, *choice_rows][0]]),
          is_right=not len(error_rows),
          is_tie=len(np.unique(option[choice_rows])) > 1,
        )
      )
  if not choices:
    raise UserError('No question has options that are ranked.')
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
  return 100.0 * sum(values) / len(values)


def _pairs(
  targets: Targets, predictions: Predictions
) -> list[tuple[Sequence[str], str]]:
  """Pairs (references, predicted text) of all queries that have a target.

  Raises:
    UserError: an episode has fewer predictions than targets, or none has
      targets.
  """
  for queries, answers in zip(targets, predictions, strict=True):
    if len(answers) < len(queries):
      raise UserError(
        f'An episode asks {len(queries)} queries, of which {len(answers)} were '
        'answered: give TASK_FEATURE_LENGTHS room for as many as the task has.'
      )
  pairs = [
    pair
    for queries, answers in zip(targets, predictions, strict=True)
    for pair in zip(queries, list(answers)[: len(queries)], strict=True)
  ]
  if not pairs:
    raise UserError('No query has a target: there is nothing to measure.')
  return pairs


def _normalised(value: str) -> str:
  characters = (c for c in value.lower() if c not in string.punctuation)
  return ' '.join(''.join(characters).split())


@functools.cache
def _rouge_scorer() -> Any:
  from rouge_score import rouge_scorer  # imports nltk, which takes seconds

  return rouge_scorer.RougeScorer(['rougeL'], use_stemmer=True)
