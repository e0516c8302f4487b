"""The episode feature converter, with seqio around it."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from hypertuning.data import features, vocabularies
from hypertuning.data.features import EpisodeFeatureConverter
from hypertuning.errors import UserError
from hypertuning.tasks import toy

LENGTHS = {'hyper_inputs': 82, 'inputs': (4, 8), 'targets': (4, 6)}


@pytest.fixture(scope='module')
def task():
  return toy.symbols('features_test', shots=6, tables=20, held_out=5)


def convert(episode, lengths):
  ds = tf.data.Dataset.from_tensors(
    {k: tf.constant(v, tf.int32) for k, v in episode.items()}
  )
  ds = EpisodeFeatureConverter()(ds, lengths)
  return {k: v.tolist() for k, v in next(ds.as_numpy_iterator()).items()}


EPISODE = {
  'hyper_inputs': [5, 6, 1],
  'inputs': [[7, 8], [9, 0]],
  'targets': [[10, 11, 1], [12, 1, 0]],
}


def test_features_are_padded_and_weighted():
  lengths = {'hyper_inputs': 4, 'inputs': (3, 3), 'targets': (3, 4)}
  assert convert(EPISODE, lengths) == {
    'hyper_tokens': [5, 6, 1, 0],
    'input_tokens': [[7, 8, 0], [9, 0, 0], [0, 0, 0]],
    'target_tokens': [[10, 11, 1, 0], [12, 1, 0, 0], [0, 0, 0, 0]],
    'target_weights': [[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]],
  }


def test_targets_are_cut_at_their_end_and_queries_at_the_last():
  lengths = {'hyper_inputs': 2, 'inputs': (1, 2), 'targets': (1, 2)}
  batch = convert(EPISODE, lengths)
  assert batch['target_tokens'] == [[10, 11]]
  assert batch['hyper_tokens'] == [5, 6]


@pytest.mark.parametrize(
  'change, message',
  [
    ({'targets': (4, 0)}, r"\['targets'\] = \(4, 0\) cuts everything"),
    ({'targets': (4, 1)}, r"\['targets'\]"),
    ({'targets': (0, 4)}, r"\['targets'\]"),
    ({'targets': 4}, r"\['targets'\] is 4"),
    ({'targets': (3, 6)}, 'the two must agree'),
    ({'targets': None}, r"\['targets'\]"),
    ({'inputs': (4, 0)}, r"\['inputs'\]"),
    ({'hyper_inputs': 0}, r"\['hyper_inputs'\]"),
    ({'hyper_inputs': (4, 4, 4)}, 'one number'),
    ({'answers': 4}, "no feature 'answers'"),
  ],
)
def test_lengths_at_fault_are_named(change, message):
  with pytest.raises(UserError, match=message):
    convert(EPISODE, {**LENGTHS, **change})


def test_a_missing_length_is_named():
  for name in LENGTHS:
    rest = {k: v for k, v in LENGTHS.items() if k != name}
    with pytest.raises(UserError, match=name):
      convert(EPISODE, rest)


def test_packing_is_refused():
  with pytest.raises(UserError, match='pack = False'):
    EpisodeFeatureConverter(pack=True)
  # t5x passes these two as well.
  EpisodeFeatureConverter(
    pack=False, use_custom_packing_ops=False, apply_length_check=True
  )


def test_seqio_get_dataset(task):
  ds = seqio.get_dataset(
    task,
    LENGTHS,
    dataset_split='train',
    shuffle=True,
    num_epochs=None,
    feature_converter=EpisodeFeatureConverter(),
    seed=0,
    use_cached=False,
  )
  batch = next(iter(ds.batch(3)))
  converter = EpisodeFeatureConverter()
  for name, length in converter.get_model_feature_lengths(LENGTHS).items():
    parts = length if isinstance(length, tuple) else (length,)
    assert batch[name].shape == (3, *parts), name
    assert batch[name].dtype == tf.int32
  # A symbol, its label and EOS a query.
  assert tf.reduce_sum(batch['target_weights']) == 3 * 4 * 3


@pytest.mark.parametrize('right', [True, False])
def test_seqio_evaluator(task, right):
  evaluator = seqio.Evaluator(
    task,
    feature_converter=EpisodeFeatureConverter(),
    eval_split='validation',
    sequence_length=LENGTHS,
  )

  def predict(dataset):
    return [
      (int(i), np.asarray(x['target_tokens']) + (0 if right else 1))
      for i, x in dataset.as_numpy_iterator()
    ]

  metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
  assert metrics.result()[task] == {'accuracy': 100.0 if right else 0.0}
  evaluator.close()


def test_output_features_leave_eos_to_the_preprocessors():
  for feature in features.output_features(vocabularies.byte_format()).values():
    assert not feature.add_eos
