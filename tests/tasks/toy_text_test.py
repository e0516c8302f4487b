"""Texts of the default tasks for a decoder-only model."""

import numpy as np
import pytest

from hypertuning.data import lookup, text_format, vocabularies
from hypertuning.tasks import toy, toy_text

FORM = text_format.decoder_format(vocabularies.byte_vocabulary())
LENGTHS = {'hyper_inputs': 1, 'inputs': (1, 1), 'targets': (1, 60)}


def _texts(split, count, repeated):
  toy_text.texts('texts', length=60, repeated=repeated, count=count)
  texts = lookup.episodes('texts', LENGTHS, split)
  return [x['targets'][0] for x in texts.take(count).as_numpy_iterator()]


def test_rows_are_those_of_the_tasks_of_the_split():
  rows = {
    split: {
      row
      for family in (toy.symbol_tables, toy.string_functions)
      for task in family(split).values()
      for row in task
    }
    for split in ('train', 'validation')
  }
  for split in rows:
    for text in _texts(split, 40, repeated=0.0):
      *whole, _ = FORM.readable(text).split(' </s> ')  # the last may be cut
      pairs = [tuple(x.split(' <target> ')) for x in whole]
      assert set(pairs) <= rows[split]
      # No target comes again before all have come.
      targets = [target for _, target in pairs]
      period = len(set(targets))
      for first in range(0, len(targets) - period + 1, period):
        assert len(set(targets[first : first + period])) == period


def test_strings_stand_two_or_three_times():
  for text in _texts('train', 40, repeated=1.0):
    periods = [n for n in range(1, 60) if (text[n:] == text[:-n]).all()]
    assert 20 <= periods[0] < 30


def test_a_text_begins_with_the_sentinel_and_the_loss_is_on_the_rest():
  toy_text.texts('texts', count=5)
  for split, count in (('train', 5), ('validation', 1)):
    episodes = lookup.episodes('texts', LENGTHS, split).take(count)
    for episode in episodes.as_numpy_iterator():
      np.testing.assert_array_equal(episode['inputs'], [FORM.start])
      assert (episode['targets'] > 0).all()


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_texts_are_the_same_again(split):
  for x, y in zip(_texts(split, 20, 0.5), _texts(split, 20, 0.5), strict=True):
    np.testing.assert_array_equal(x, y)
