"""Rows of a vocabulary without a TensorFlow operation are encoded once.

t5x saves the place in the data as the state of a tf.data iterator, which cannot
be saved where the pipeline runs Python.
"""

import bpe
import numpy as np
import pytest
import seqio
import tensorflow as tf

from hypertuning.data import lookup, registry
from hypertuning.data.caclm import SegmentLengths
from hypertuning.data.rows import Row, RowTask
from hypertuning.data.tokenizer_json import TokenizerJson
from hypertuning.tasks import hyperpretrain

ROWS = [
  Row(f'x {i} <|im_end|>', y, ('yes', 'no!', 'maybe')[: 2 + i % 2], ('1',))
  for i, y in enumerate(['yes', 'no!'] * 5)
]
TASKS = {
  'one': RowTask(ROWS, definition='Say it.'),
  'two': RowTask(ROWS[:6], pool=ROWS[6:]),
}
LENGTHS = {
  'hyper_inputs': 90,
  'inputs': (3, 40),
  'targets': (3, 12),
}
# With labels as they are, and with symbols in their place.
SYMBOLS = ('A 1', 'B', 'C\n', 'DD')
CASES = pytest.mark.parametrize(
  ('symbols', 'forms'),
  [(None, ('_taught', '_in_context_score_eval')), (SYMBOLS, ('_score_eval',))],
)


@pytest.fixture(scope='module')
def form(tmp_path_factory):
  path = bpe.write(tmp_path_factory.mktemp('bpe') / 'tokenizer.json')
  return bpe.line_format(TokenizerJson(path, '<|im_end|>'))


def register(form, name, **arguments):
  return registry.add_episodes(
    name,
    {'train': lambda: TASKS, 'validation': lambda: TASKS},
    shots=3,
    options=True,
    text_format=form,
    **arguments,
  )


def opened(name, split='train', repeat=True, **arguments):
  lengths = {**LENGTHS}
  if name.endswith('_taught'):
    lengths['teacher_inputs'] = (3, 120)
  return lookup.episodes(name, lengths, split, 1, repeat, **arguments)


def equal(one, other):
  for a, b in zip(one, other, strict=True):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], name)


@CASES
def test_packed_ids_are_those_that_the_pipeline_gives(form, symbols, forms):
  name = register(form, 'packed', symbol_labels=symbols)
  for suffix in forms:
    task = seqio.TaskRegistry.get(name + suffix)
    task.source._text_format, packed = None, task.source._text_format
    task.source._table.cache_clear()
    encoded = list(opened(name + suffix).take(6).as_numpy_iterator())
    task.source._text_format = packed
    task.source._table.cache_clear()
    found = list(opened(name + suffix).take(6).as_numpy_iterator())
    equal(found, encoded)
    assert not any(feature.endswith('_ids') for feature in found[0])


@pytest.mark.slow
@CASES
def test_the_place_in_the_data_can_be_saved(form, tmp_path, symbols, forms):
  name = register(form, 'saved', symbol_labels=symbols)
  mixed = registry.add_mixture(
    'saved_mixture', {name: 1.0, f'{name}_in_context': 2.0}
  )
  for suffix in (*(name + x for x in forms), mixed):
    iterator = iter(opened(suffix))
    for _ in range(3):
      next(iterator)
    place = tf.train.Checkpoint(iterator=iterator)
    path = place.write(str(tmp_path / suffix))
    wanted = [next(iterator) for _ in range(4)]
    other = iter(opened(suffix))
    tf.train.Checkpoint(iterator=other).read(path)
    found = [next(other) for _ in range(4)]
    equal(
      *(
        [{k: v.numpy() for k, v in e.items()} for e in x]
        for x in (found, wanted)
      )
    )


def test_without_packed_ids_it_cannot(form, tmp_path):
  name = register(form, 'python')
  source = seqio.TaskRegistry.get(name).source
  source._text_format = None
  iterator = iter(opened(name))
  next(iterator)
  with pytest.raises(tf.errors.FailedPreconditionError):
    tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / 'place'))


def test_other_vocabularies_have_no_packed_ids():
  name = register(None, 'bytes')
  assert not seqio.TaskRegistry.get(name).source._table('train').ids


def test_streamed_text_is_cached_as_ids(form, tmp_path):
  """By `seqio_cache_tasks`; t5x reads the cache without Python."""
  lengths = SegmentLengths(window=40, b=(1, 4), c=(2, 6))
  rows = tmp_path / 'rows.tsv'
  rows.write_text('text\n' + 'The words of a text, one by one.\n' * 9)
  name = hyperpretrain.text_rows(
    str(rows), str(rows), 'streamed', 'text', lengths, form
  )
  assert seqio.TaskRegistry.get(name).supports_caching
  plain = hyperpretrain.text_rows(
    str(rows), str(rows), 'streamed_bytes', 'text', lengths
  )
  assert not seqio.TaskRegistry.get(plain).supports_caching
