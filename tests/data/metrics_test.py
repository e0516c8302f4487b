"""Metrics of text and of options' scores, on numbers counted by hand."""

import numpy as np
import pytest

from hypertuning.data import metrics
from hypertuning.errors import UserError


@pytest.mark.parametrize(
  'targets, predictions, percent',
  [
    ([[['a'], ['b']], [['c'], ['d']]], [['a', 'x'], ['x', 'x']], 25.0),
    ([[['a']], [['b'], ['c']]], [['a', 'a'], ['b', 'c']], 100.0),  # padded
    ([[['a', 'b', 'c']]], [['c']], 100.0),  # another reference
  ],
)
def test_exact_match(targets, predictions, percent):
  assert metrics.exact_match(targets, predictions) == {'accuracy': percent}


def test_missing_predictions_are_not_passed_over():
  with pytest.raises(ValueError):
    metrics.exact_match([[['a']], [['b']]], [['a']])
  with pytest.raises(UserError, match='asks 2 queries, of which 1 were'):
    metrics.exact_match([[['a'], ['b']]], [['a']])


@pytest.mark.parametrize('targets, said', [([], []), ([[]], [['x']])])
def test_nothing_has_no_score(targets, said):
  for metric in (metrics.exact_match, metrics.rouge_l, metrics.macro_f1):
    with pytest.raises(UserError, match='No query has a target'):
      metric(targets, said)
  with pytest.raises(UserError, match='No question has options'):
    metrics.rank_accuracy([], [])


def test_texts_are_what_json_can_hold_with_their_references():
  said = np.array([b' na\xc3\xafve', b'b'], object)
  assert metrics.texts(said) == ['naïve', 'b']
  assert metrics.texts(['a'], example={}, is_target=True) == [['a']]
  example = {'query_references': np.array([[b'x', b''], [b'b', b'y ']], object)}
  assert metrics.texts(said, example=example, is_target=True) == [
    ['naïve', 'x'],
    ['b', 'y'],
  ]


def test_rouge_l_is_that_of_natural_instructions():
  """F-measures by hand: 2 * matches / (words said + words of the reference)."""
  targets = [
    [['the cat sat', 'a dog']],  # the second reference is the better one
    [['He was running quickly']],  # stems: run, quick
    [['yes']],
    [['No.']],
  ]
  said = [['a dog barked'], ['he runs quickly'], ['no'], ['no']]
  scores = metrics.rouge_l(targets, said)
  best = [2 * 2 / (3 + 2), 2 * 3 / (3 + 4), 0.0, 1.0]
  assert scores['rouge_l'] == pytest.approx(100 * np.mean(best))
  assert scores['exact_match'] == 25.0  # case and punctuation aside


def test_macro_f1_of_texts():
  targets = [[['a'], ['a'], ['a'], ['b']]]
  # a: 2 of 2 said right, of 3; b: 1 right of 2 said.
  f1 = (2 * 2 / (2 + 3), 2 * 1 / (2 + 1))
  scores = metrics.macro_f1(targets, [['a', 'a', 'b', 'b']])
  assert scores['macro_f1'] == pytest.approx(100 * np.mean(f1))


def ranked(question, is_correct, tokens, option, **more):
  """Options whose tokens are as many as said, and of their first letter."""
  example = {
    'question': np.array(question),
    'is_correct': np.array(is_correct),
    'targets': np.array(
      [
        [ord(x[0])] * n + [0] * (9 - n)
        for n, x in zip(tokens, option, strict=True)
      ]
    ),
    **more,
  }
  said = np.array([x.encode() for x in option], object)
  return metrics.ranked_options(said, example=example, is_target=True)


TWO = ranked([0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [2, 8, 3, 3, 3], 'abcde')


def test_sum_and_mean_of_log_probabilities_choose_differently():
  scores = np.array([-3.0, -8.0, -1.0, -2.0, -3.0, 99.0])  # the last is padding
  assert metrics.rank_accuracy([TWO], [scores]) == {'accuracy': 50.0}
  # -3 / 2 is below -8 / 8.
  assert metrics.mean_rank_accuracy([TWO], [scores]) == {'accuracy': 100.0}


def test_equal_options_and_ties():
  """wsc.fixed has an option twice: both are right. A tie is wrong."""
  twice = ranked([0, 0], [1, 1], [2, 2], ['x', 'x'])
  first, second = (
    ranked([0, 0, 0], right, [2, 2, 2], 'xyz')
    for right in ([1, 0, 0], [0, 1, 0])
  )
  rows = [twice, first, second]
  scores = [np.array([-1.0, -1.0]), *[np.array([-1.0, -1.0, -2.0])] * 2]
  assert metrics.rank_accuracy(rows, scores)['accuracy'] == (
    pytest.approx(100 / 3)
  )
  assert metrics.ties(rows, scores)['ties'] == pytest.approx(200 / 3)
  # x and y are never chosen right, and each is chosen once for the other.
  assert metrics.mean_rank_macro_f1(rows[1:], scores[1:]) == {'macro_f1': 0.0}
  clear = [scores[0], np.array([-1.0, -3.0, -2.0]), np.array([-3.0, -1.0, -2])]
  assert metrics.rank_accuracy(rows, clear) == {'accuracy': 100.0}
  assert metrics.mean_ties(rows, clear) == {'ties': 0.0}


def test_options_of_the_same_tokens_are_a_tie():
  """Even where rounding makes one of them likelier."""
  alike = ranked([0, 0, 0], [1, 0, 0], [2, 2, 2], ['aa', 'ab', 'b'])
  assert [x.tolist() for x in metrics.indistinct_options(alike)] == [[0, 1]]
  for last in (-5.0, -0.1):
    scores = [np.array([-1.0, -1.0000001, last])]
    assert metrics.rank_accuracy([alike], scores) == {'accuracy': 0.0}
  # Two wrong ones do not matter.
  assert (
    metrics.indistinct_options(
      ranked([0] * 3, [0, 0, 1], [2] * 3, ['aa', 'ab', 'b'])
    )
    == []
  )
  with pytest.raises(
    UserError, match=r"'aa' and 'ab' are .* room for 7 tokens"
  ):
    ranked([0, 0], [1, 0], [2, 2], ['aa', 'ab'], target_sizes=[7, 6])


def test_a_target_that_is_no_option_is_named():
  inputs = np.array([b'why?', b'why?'], object)
  with pytest.raises(UserError, match=r"'why\?': the target is not one of"):
    ranked([0, 0], [0, 0], [1, 1], 'xy', inputs_pretokenized=inputs)


@pytest.mark.parametrize('bad', [np.nan, -np.inf])
def test_likelihoods_that_are_no_number_choose_nothing(bad):
  row = ranked([0, 0], [1, 0], [1, 1], 'xy')
  for metric in (metrics.rank_accuracy, metrics.mean_rank_macro_f1):
    with pytest.raises(UserError, match="option 'y' is (nan|-inf)"):
      metric([row], [np.array([-1.0, bad])])


def test_macro_f1_of_options():
  rows = [ranked([0, 0], [a, 1 - a], [1, 1], 'xy') for a in (1, 1, 0, 0)]
  chosen = ('x', 'y', 'y', 'y')
  scores = [np.array([0.0, -1.0] if c == 'x' else [-1.0, 0.0]) for c in chosen]
  f1 = (2 * 1 / (1 + 2), 2 * 2 / (3 + 2))
  assert metrics.mean_rank_macro_f1(rows, scores)['macro_f1'] == pytest.approx(
    100 * np.mean(f1)
  )


def test_oracle_and_random_scores():
  rng = np.random.default_rng(0)
  rows = [
    ranked([0, 0, 0], np.eye(3, dtype=int)[i % 3], [1, 1, 1], 'abc')
    for i in range(300)
  ]
  oracle = [row['is_correct'].astype(float) for row in rows]
  assert metrics.rank_accuracy(rows, oracle) == {'accuracy': 100.0}
  noise = [rng.standard_normal(3) for _ in rows]
  found = metrics.rank_accuracy(rows, noise)['accuracy']
  # Five standard deviations of a binomial share.
  assert abs(found - 100 / 3) < 5 * 100 * (2 / 9 / 300) ** 0.5
