"""Examples in chunks: lengths `'hyper_inputs': (chunks, length)`."""

import jax
import numpy as np
import pytest
import runner
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import caclm, fewshot, lookup, text_format, vocabularies
from hypertuning.engine import task_data
from hypertuning.errors import UserError

FORMATS = {
  't5': vocabularies.byte_format(),
  'markers': text_format.markers_format(
    vocabularies.byte_vocabulary(), 'Task: ', ' In: ', ' Out: '
  ),
}


def _convert(form, episodes, hyper_inputs, definition=''):
  """What several lists of shots become, in one pipeline."""
  elements = [
    {
      'definition': definition,
      'shot_inputs': [x for x, _ in shots],
      'shot_targets': [y for _, y in shots],
      'query_inputs': ['q'],
      'query_targets': ['a'],
    }
    for shots in episodes
  ]
  lengths = {
    'hyper_inputs': hyper_inputs,
    'inputs': (1, 24),
    'targets': (1, 4),
  }
  spec = {
    name: tf.TensorSpec([] if isinstance(value, str) else [None], tf.string)
    for name, value in elements[0].items()
  }
  drawn = tf.data.Dataset.from_generator(
    lambda: iter(elements), output_signature=spec
  )
  found = fewshot.episode_features(drawn, lengths, form)
  return list(found.as_numpy_iterator())


def _by_hand(form, shots, chunks, length, definition):
  """Chunks of whole examples, one after the other."""
  lead = []
  if definition:
    lead = [*form.definition, *form.encode(definition, 'definition')]
  room = length - len(form.start) - len(form.end)
  lead = lead[:room]
  texts, left_out = [[] for _ in range(chunks)], 0
  sizes = [len(lead)] * chunks
  chunk = 0
  for x, y in shots:
    shot = [*form.inputs, *form.encode(x, 'inputs')]
    shot += [*form.targets, *form.encode(y, 'targets')]
    gap = len(form.between) if lead else 0
    if len(lead) + gap + len(shot) > room:
      left_out += 1
      continue
    if chunk < chunks:
      gap = len(form.between) if sizes[chunk] else 0
      if sizes[chunk] + gap + len(shot) > room:
        chunk += 1
    if chunk == chunks:
      left_out += 1
      continue
    texts[chunk].append(shot)
    gap = len(form.between) if sizes[chunk] else 0
    sizes[chunk] += gap + len(shot)
  rows = []
  for shots_of_chunk in texts:
    parts = ([lead] if lead else []) + shots_of_chunk
    row = list(form.start)
    for i, part in enumerate(parts):
      row += [*(form.between if i else ()), *part]
    rows.append([*row, *form.end])
  return rows, left_out


SHOTS = st.lists(
  st.tuples(st.text('ab', min_size=1, max_size=9), st.text('c', min_size=1)),
  min_size=1,
  max_size=9,
)


@pytest.mark.parametrize(
  'name', ['t5', pytest.param('markers', marks=pytest.mark.slow)]
)
@settings(max_examples=4, deadline=None)  # each builds a pipeline
@given(
  episodes=st.lists(SHOTS, min_size=12, max_size=12),
  chunks=st.integers(1, 3),
  length=st.integers(12, 40),
  definition=st.sampled_from(['', 'Do it.']),
)
def test_chunks_hold_whole_examples_in_order(
  name, episodes, chunks, length, definition
):
  form = FORMATS[name]
  found = _convert(form, episodes, (chunks, length), definition)
  for shots, element in zip(episodes, found, strict=True):
    rows, left_out = _by_hand(form, shots, chunks, length, definition)
    assert element['left_out'] == left_out
    hyper = element['hyper_inputs']
    assert hyper.shape[0] == chunks and hyper.shape[1] <= length
    assert [[int(x) for x in row if x] for row in hyper] == rows


def test_one_chunk_is_the_text_without_chunks():
  shots = [('ab', 'c'), ('a long one', 'd'), ('b', 'e')]
  for length in (9, 40):
    (plain,) = _convert(FORMATS['t5'], [shots], length)
    (one,) = _convert(FORMATS['t5'], [shots], (1, length))
    np.testing.assert_array_equal(one['hyper_inputs'][0], plain['hyper_inputs'])
    assert one['left_out'] == plain['left_out']


def test_chunks_are_trained_on_and_every_one_is_read(tmp_path):
  lengths = {**runner.LENGTHS, 'hyper_inputs': (3, 16)}
  model = runner.model(dropout_rate=0.0)
  lookup.import_tasks('hypertuning.tasks.toy')
  data = task_data.TaskData(runner.TASK, lengths, 8, split='train')
  assert data.shapes(model)['hyper_tokens'] == (8, 3, 16)
  batch = next(data.batches(model, repeat=True).as_numpy_iterator())
  assert batch['hyper_tokens'].shape == (8, 3, 16)
  assert (batch['hyper_tokens'][:, :2] > 0).any(-1).all()
  state = runner.train(
    tmp_path, model, total_steps=2, task_feature_lengths=lengths
  )
  generate = jax.jit(model.generate_adapters)
  before = generate(state.params, batch, {'frozen': state.frozen})
  for chunk in range(2):
    changed = dict(batch, hyper_tokens=batch['hyper_tokens'].copy())
    changed['hyper_tokens'][:, chunk, 1] += 1
    after = generate(state.params, changed, {'frozen': state.frozen})
    key = after.sites['decoder_self'].key
    assert (np.abs(key - before.sites['decoder_self'].key) > 1e-6).any()


def test_texts_and_lengths_that_have_no_chunks_are_refused():
  with pytest.raises(UserError, match='not divided in chunks'):
    caclm._check_room({'hyper_inputs': (2, 64)}, hyper_inputs=3)
  data = task_data.TaskData(
    runner.TASK, {**runner.LENGTHS, 'hyper_inputs': (2, 3, 4)}, 8
  )
  with pytest.raises(UserError, match=r'one number, or \(chunks, length\)'):
    data.shapes(runner.model())
