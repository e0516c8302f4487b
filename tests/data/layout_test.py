"""The layout in numpy is that of the datasets in TensorFlow, id by id."""

import hypothesis
import merging
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from hypertuning.data import features, fewshot, layout, text_format
from hypertuning.data.vocabularies import byte_format, byte_vocabulary
from hypertuning.errors import UserError

FORMATS = {
  't5': byte_format(),
  'decoder': text_format.decoder_format(byte_vocabulary()),
  'markers': text_format.markers_format(
    byte_vocabulary(), 'Task: ', ' In: ', ' Out: '
  ),
  'definition end': text_format.custom_format(
    byte_vocabulary(), start=(300,), definition_end='::', between=(301, 302)
  ),
  'blanks': merging.line_format(),
}
_CONVERTERS = {
  False: features.EpisodeFeatureConverter,
  True: features.DistillationFeatureConverter,
}
TEXT = st.text('ab \né', max_size=7)
LONG_TEXT = st.one_of(TEXT, st.text('ab', min_size=8, max_size=30))


@st.composite
def texts_of_episodes(draw):
  """The texts of one episode."""
  count = draw(st.integers(1, 3))
  some = st.lists(LONG_TEXT, min_size=count, max_size=count)
  return layout.Texts(
    draw(st.lists(st.tuples(LONG_TEXT, TEXT), max_size=5)),
    draw(some),
    draw(some),
    draw(LONG_TEXT),
  )


@st.composite
def cases(draw):
  """The texts of some episodes, a format, and lengths that may be too short."""
  form = FORMATS[draw(st.sampled_from(sorted(FORMATS)))]
  texts = draw(st.lists(texts_of_episodes(), min_size=8, max_size=8))
  rows = draw(st.integers(1, 4))
  around = len(form.start + form.inputs + form.targets)
  hyper = len(form.start + form.end) + draw(st.integers(0, 60)) or 1
  inputs = around + 1 + draw(st.integers(0, 60))
  targets = max(len(form.target_end) + 1 + draw(st.integers(0, 6)), 2)
  chunks = draw(st.sampled_from([None, 1, 2, 3]))
  lengths = {
    'hyper_inputs': (chunks, hyper) if chunks else hyper,
    'inputs': (rows, inputs),
    'targets': (rows, targets),
  }
  taught = draw(st.booleans())
  if taught:
    more = draw(st.integers(0, 60))
    lengths['teacher_inputs'] = (rows, inputs + more)
  return texts, form, lengths, draw(st.booleans()), taught


def _dataset(texts):
  """Episodes as an `EpisodeSource` gives them."""
  elements = [
    {
      'definition': episode.definition,
      'shot_inputs': [x for x, _ in episode.shots],
      'shot_targets': [y for _, y in episode.shots],
      'query_inputs': episode.queries,
      'query_targets': episode.targets,
    }
    for episode in texts
  ]
  spec = {
    name: tf.TensorSpec([] if isinstance(value, str) else [None], tf.string)
    for name, value in elements[0].items()
  }
  return tf.data.Dataset.from_generator(
    lambda: iter(elements), output_signature=spec
  )


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(cases())
def test_numpy_and_tensorflow_give_the_same_features(case):
  texts, form, lengths, in_context, taught = case
  dataset = fewshot.episode_features(
    _dataset(texts), lengths, form, in_context, taught
  )
  converted = _CONVERTERS[taught](pack=False)(dataset, lengths)
  for episode, theirs, model_features in zip(
    texts,
    dataset.as_numpy_iterator(),
    converted.as_numpy_iterator(),
    strict=True,
  ):
    ours = layout.task_features(episode, lengths, form, in_context, taught)
    assert ours.keys() <= theirs.keys()
    for name, value in ours.items():
      np.testing.assert_array_equal(value, theirs[name], name)
    ours = layout.model_features(ours, lengths, taught)
    assert ours.keys() == model_features.keys()
    for name, value in ours.items():
      assert value.dtype == model_features[name].dtype == np.int32
      np.testing.assert_array_equal(value, model_features[name], name)


@pytest.mark.parametrize(
  'change', [{'inputs': (2, 2)}, {'targets': (2, 1)}, {'hyper_inputs': 0}]
)
def test_lengths_without_room_are_refused_in_both(change):
  lengths = {'hyper_inputs': 9, 'inputs': (2, 9), 'targets': (2, 9), **change}
  texts = layout.Texts([('a', 'b')], ['c'], ['d'])
  form = FORMATS['t5']
  name = next(iter(change))
  with pytest.raises(UserError, match=name) as ours:
    layout.task_features(texts, lengths, form)
  with pytest.raises(UserError, match=name) as theirs:
    fewshot.episode_features(tf.data.Dataset.range(1), lengths, form)
  assert str(ours.value) == str(theirs.value)
