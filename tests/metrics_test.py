"""Exact match over texts and episodes of texts."""

import numpy as np
import pytest

from hypertuning.data import metrics


@pytest.mark.parametrize(
  'targets, predictions, percent',
  [
    (['a', 'b', 'c', 'd'], ['a', 'x', 'c', ''], 50.0),
    (['a'], [' a \n'], 100.0),
    ([b'a', 'b'], ['a', b'b'], 100.0),
    ([['a', 'b'], ['c', 'd']], [['a', 'x'], ['x', 'x']], 25.0),
    ([['a'], ['b', 'c']], [['a', 'a'], ['b', 'c']], 100.0),  # padded query
    ([np.array([b'na\xc3\xafve', b'b'], object)], [['naïve', 'x']], 50.0),
    ([], [], 0.0),
    ([[]], [['x']], 0.0),
  ],
)
def test_exact_match(targets, predictions, percent):
  assert metrics.exact_match(targets, predictions) == {'accuracy': percent}


def test_missing_predictions_are_not_passed_over():
  for targets, predictions in ((['a', 'b'], ['a']), ([['a', 'b']], [['a']])):
    with pytest.raises(ValueError):
      metrics.exact_match(targets, predictions)


def test_as_text_makes_what_json_can_hold():
  assert metrics.as_text(np.array([b'a', b'b'], object)) == ['a', 'b']
  assert metrics.as_text(b'a', example={}, is_target=True) == 'a'
  assert metrics.as_text(['a', ' b']) == ['a', 'b']
