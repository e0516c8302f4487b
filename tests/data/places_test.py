"""Going to a number in the data gives what drawing up to it would."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from hypertuning.data import episodes, features, lookup, registry, vocabularies

LENGTHS = {'hyper_inputs': 40, 'inputs': (2, 8), 'targets': (2, 4)}


def _splits(letter):
  rows = [(f'{letter}{n}', letter) for n in range(9)]
  return {split: lambda: {letter: rows} for split in ('train', 'validation')}


@pytest.fixture(scope='module', autouse=True)
def tasks():
  for letter in 'abc':
    registry.add_episodes(f'place_{letter}', _splits(letter), 3, 2)
  registry.add_episodes('few', _splits('a'), 3, 2, train_episodes=10)
  labels = [f'l{n}' for n in range(30)]
  registry.add_episodes('relabelled', _splits('a'), 3, 2, symbol_labels=labels)
  registry.add_mixture(
    'mixed', {f'place_{x}': n for n, x in enumerate('abc', 1)}
  )
  registry.add_mixture('nested', {'mixed': 2.0, 'few': 1.0})
  numbers = tf.data.Dataset.range(40)
  registry.add_task(
    'shuffled',
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: numbers, splits=('train',)
    ),
    preprocessors=[_as_episode],
    output_features=features.output_features(vocabularies.byte_format()),
    shuffle_buffer_size=30,
  )


def _as_episode(ds):
  def convert(number):
    ids = tf.cast(number, tf.int32)[None]
    return {'hyper_inputs': ids, 'inputs': ids[None], 'targets': ids[None]}

  return ds.map(convert)


def _draw(name, first, count):
  ds = lookup.episodes(name, LENGTHS, 'train', 5, repeat=True, first=first)
  return list(ds.take(count).as_numpy_iterator())


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    *('place_a', 'few', 'nested', 'relabelled', 'shuffled'),
    pytest.param('mixed', marks=pytest.mark.slow),  # as in `nested`
  ],
)
def test_same_episodes_from_any_number_on(name):
  whole = _draw(name, 0, 48)
  for first in (1, 23):
    for one, other in zip(
      _draw(name, first, 25), whole[first : first + 25], strict=True
    ):
      assert one.keys() == other.keys()
      for feature, value in one.items():
        np.testing.assert_array_equal(value, other[feature])


@pytest.mark.parametrize('name', ['place_a', 'mixed'])
def test_no_episode_before_it_is_drawn(name, monkeypatch):
  """Counted by the map that makes them."""
  drawn = []
  make = episodes.sampling.make_episode

  def counted(table, plan, number, **kwargs):
    tf.py_function(lambda n: drawn.append(int(n)), [number], [])
    return make(table, plan, number, **kwargs)

  monkeypatch.setattr(episodes.sampling, 'make_episode', counted)
  assert len(_draw(name, 20_000, 2)) == 2
  # What is drawn in advance counts as well.
  assert drawn and len(drawn) < 500
  assert min(drawn) >= 20_000 / 7


def test_a_source_turns_round():
  source = episodes.EpisodeSource(
    _splits('a'), shots=3, queries=2, train_episodes=10
  )
  whole = list(source.get_dataset('train').as_numpy_iterator())
  turned = source.starting_at(17).get_dataset('train').as_numpy_iterator()
  for one, other in zip(
    turned, itertools.chain(whole[7:], whole[:7]), strict=True
  ):
    np.testing.assert_array_equal(one['query_inputs'], other['query_inputs'])
