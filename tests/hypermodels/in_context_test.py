"""Examples that are read once are the examples of every query's own input."""

import jax
import numpy as np
import pytest
import tensorflow as tf
import tiny
import tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import cached_examples, fewshot, text_format, vocabularies
from hypertuning.errors import UserError
from hypertuning.hypermodels import in_context
from hypertuning.networks import llama, t5

FORMAT = text_format.custom_format(
  vocabularies.byte_vocabulary(),
  start=(258,),
  definition='D ',
  inputs='I ',
  targets='\nO ',
  between='\n\n',
  target_end='\n',
)
_WORDS = st.text('abc ', max_size=6)
_PAIRS = st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=4)


def _features(form, definition, shots, queries, shown):
  strings = {
    'definition': definition,
    'shot_inputs': [x for x, _ in shots],
    'shot_targets': [y for _, y in shots],
    'query_inputs': [x for x, _ in queries],
    'query_targets': [y for _, y in queries],
  }
  ds = tf.data.Dataset.from_tensors(
    {k: tf.constant(v) for k, v in strings.items()}
  )
  ds = fewshot.episode_features(ds, None, form, in_context=shown)
  (episode,) = ds.as_numpy_iterator()
  return episode


def _texts(rows):
  return [[int(x) for x in row if x] for row in rows]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(['', 'say']), _PAIRS, _PAIRS)
def test_start_examples_and_query_are_the_text_in_context(
  definition, shots, queries
):
  whole = _features(FORMAT, definition, shots, queries, shown=True)
  form = cached_examples.query_format(FORMAT)
  parts = _features(form, definition, shots, queries, shown=False)
  head = [*cached_examples.start_ids(FORMAT), *parts['hyper_inputs'].tolist()]
  assert [[*head, *row] for row in _texts(parts['inputs'])] == _texts(
    whole['inputs']
  )
  assert _texts(parts['targets']) == _texts(whole['targets'])


def test_logits_are_those_of_the_whole_text():
  """Two episodes of different lengths, two queries each."""
  cfg = tiny_llama.config(vocab_size=300)
  params = tiny_llama.params(cfg)
  form = cached_examples.query_format(FORMAT)
  queries = [('a', 'b'), ('cab', 'c')]
  examples = [[('a', 'bb')], [('b', 'c'), ('aa', 'a b'), ('c', '')]]
  whole, cached = (
    [_features(f, '', shots, queries, shown) for shots in examples]
    for f, shown in ((FORMAT, True), (form, False))
  )

  def padded(rows):
    size = max(len(row) for row in rows)
    return np.array(
      [[*row, *[0] * (size - len(row))] for row in rows], np.int32
    )

  def joined(episodes, name):
    return padded([row for x in episodes for row in _texts(x[name])])

  network = llama.Llama(cfg)
  source = in_context.InContext(start=cached_examples.start_ids(FORMAT))
  tokens = padded([x['hyper_inputs'].tolist() for x in cached])

  def phi(model, params):
    return source.apply({}, tokens, model.bind({'params': params}))

  targets = joined(whole, 'targets')
  with jax.default_matmul_precision('highest'):
    wanted = tiny.logits(network, params, joined(whole, 'inputs'), targets)
    found = tiny.logits(
      network, params, joined(cached, 'inputs'), targets, phi(network, params)
    )
  real = targets > 0
  # Float32 sums in another order.
  np.testing.assert_allclose(found[real], wanted[real], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_read_once_is_refused():
  tokens = np.ones((1, 3), np.int32)
  source = in_context.InContext()
  with pytest.raises(UserError, match='T5 reads its whole input'):
    source.apply({}, tokens, t5.T5(tiny.shallow()))
  with pytest.raises(UserError, match="'hyper_inputs'.*one number"):
    source.apply({}, tokens[None], llama.Llama(tiny_llama.config()))
