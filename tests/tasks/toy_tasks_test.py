"""The embedded default: families of tasks with whole tasks held out."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from hypertuning.data import features, vocabularies
from hypertuning.errors import UserError
from hypertuning.networks import attention
from hypertuning.tasks import hyperpretrain, toy

VOCABULARY = vocabularies.byte_vocabulary()
LENGTHS = {'hyper_inputs': 40, 'inputs': (4, 40), 'targets': (4, 9)}


def examples(name, split, count, seed=0):
  task = seqio.get_mixture_or_task(name)
  ds = task.get_dataset(LENGTHS, split, shuffle=False, seed=seed, num_epochs=1)
  return list(ds.take(count).as_numpy_iterator())


def pairs(tokens):
  """(input, target) texts of few-shot tokens."""
  text = [int(t) for t in tokens if t > 1]
  found, start = [], [i for i, t in enumerate(text) if t == 259]
  for i, end in zip(start, [*start[1:], len(text)], strict=True):
    middle = text.index(260, i)
    parts = text[i + 1 : middle], text[middle + 1 : end]
    found.append(tuple(VOCABULARY.decode(part) for part in parts))
  return found


def test_symbol_tables_are_held_out_as_wholes():
  train, held_out = (
    toy.symbol_tables(split) for split in ('train', 'validation')
  )
  assert len(train) == 4000 and len(held_out) == 200

  def table(rows):
    return frozenset((x[-1], y) for x, y in rows)

  trained = {table(rows) for rows in train.values()}
  tested = {table(rows) for rows in held_out.values()}
  assert len(tested) == 200 and not trained & tested
  assert {len(t) for t in tested} == {6}
  assert {len(t) for t in trained} == {1, 2, 3, 4, 5, 6}
  for rows in (*train.values(), *held_out.values()):
    assert len(rows) >= 12 + 4
    assert len({x for x, _ in rows}) == len(rows)
    mapping = table(rows)
    assert len(dict(mapping)) == len(mapping) == len({y for _, y in mapping})


def test_labels_have_a_mild_best_guess():
  tables = toy.symbol_tables('validation', tables=50, held_out=2000)
  labels = collections.Counter(
    y[1] for rows in tables.values() for _, y in rows
  )
  shares = np.array([labels[label] for label in toy.LABELS]) / labels.total()
  assert len(toy.LABELS) == len(labels) == 10
  assert 0.12 < shares[0] < 0.18 and shares[0] > 1.5 * shares[-1]


def test_string_functions_are_held_out_as_wholes():
  train, held_out = (
    toy.string_functions(split) for split in ('train', 'validation')
  )
  assert len(train) + len(held_out) == 120 and len(held_out) == 24
  assert not set(train) & set(held_out)
  for name, rows in [*train.items(), *held_out.items()]:
    left, right = name.removeprefix('function_').split('_')
    assert left or right
    for x, y in rows:
      assert y == left + x + right
      assert len(x) == len(set(x)) == 2
    assert len({x for x, _ in rows}) == len(rows) == 80


def test_shots_answer_every_symbol_query():
  for episode in examples('toy_symbols', 'validation', 60):
    shots = pairs(episode['hyper_inputs'])
    assert len(shots) == 6
    counts = collections.Counter(y for _, y in shots)
    assert set(counts.values()) == {1} and len(counts) == 6
    table = {x[-1]: y for x, y in shots}
    asked = zip(episode['inputs'], episode['targets'], strict=True)
    for query, target in asked:
      ((x, y),) = pairs(query)
      assert y == '' and x not in dict(shots)
      assert VOCABULARY.decode(target.tolist()) == table[x[-1]]


@pytest.mark.parametrize(
  'family, shots',
  [('symbols', 6), pytest.param('strings', 4, marks=pytest.mark.slow)],
)
def test_forms_differ_in_what_stands_before_the_query(family, shots):
  name = f'toy_{family}'
  forms = [examples(name + form, 'train', 40) for form in toy.FORMS]
  for plain, context, taught in zip(*forms, strict=True):
    text = plain['hyper_inputs'][:-1].tolist()
    assert text.count(259) == shots
    assert context['hyper_inputs'].tolist() == [*text, 1]
    assert context['targets'].tolist() == plain['targets'].tolist()
    query = plain['inputs'][0].tolist()
    assert context['inputs'][0].tolist() == text + query
    assert taught['inputs'].tolist() == plain['inputs'].tolist()
    assert taught['teacher_inputs'].tolist() == context['inputs'].tolist()


@pytest.mark.parametrize(
  'names',
  [
    ('toy',),
    pytest.param(
      (*(f'toy{form}' for form in toy.FORMS if form), 'downstream_toy'),
      marks=pytest.mark.slow,
    ),
  ],
  ids=['plain', 'other forms'],
)
def test_mixtures_give_batches(names):
  families = {
    f'toy_{f}{form}' for f in ('symbols', 'strings') for form in toy.FORMS
  }
  assert families <= set(seqio.TaskRegistry.names())
  for name in names:
    task = seqio.get_mixture_or_task(name)
    ds = task.get_dataset(LENGTHS, 'validation', shuffle=False, num_epochs=1)
    ds = features.EpisodeFeatureConverter()(ds, LENGTHS)
    batch = next(iter(ds.batch(8)))
    assert batch['target_weights'].shape == (8, 4, 9)
    assert (batch['target_weights'].numpy().sum(axis=-1) > 0).any()


def test_text_of_one_window_is_padded_without_weight():
  text = hyperpretrain.python_docs_lm('one_window_lm', queries=1)
  name = hyperpretrain.downstream_mixture('mixed_ranks', text=text)
  ds = seqio.get_mixture_or_task(name).get_dataset(LENGTHS, 'train', seed=0)
  ds = features.EpisodeFeatureConverter()(ds, LENGTHS).take(200)
  kinds = collections.Counter()
  for batch in ds.as_numpy_iterator():
    real = batch['input_tokens'].any(axis=-1)
    weighted = batch['target_weights'].any(axis=-1)
    np.testing.assert_array_equal(real, weighted)
    kinds[int(real.sum())] += 1
  assert set(kinds) == {1, 4}
  # A fifth is text: five standard deviations of a binomial count.
  assert abs(kinds[1] - 40) < 5 * (200 * 0.2 * 0.8) ** 0.5


def test_gin_can_ask_again_with_other_sizes():
  name = toy.episodes('again', '_in_context', symbol_shots=6)
  assert name == 'again_in_context'
  assert toy.episodes('again', symbol_shots=2, string_shots=3) == 'again'
  (episode,) = examples('again_symbols', 'train', 1)
  assert len(pairs(episode['hyper_inputs'])) == 2
  with pytest.raises(UserError, match='toy.episodes.form'):
    toy.episodes('again', 'in_context')


def test_more_shots_than_rows_is_an_error():
  name = toy.strings('crowded', shots=8, queries=4, rows=11)
  with pytest.raises(UserError, match='11 examples'):
    examples(name, 'train', 1)


def test_adjacent_heads_start_on_the_tokens_beside():
  """With biases alone, head 0 reads the token before, head 1 the one after."""
  bias = attention.RelativePositionBias(4, True, 32, 128, toy.adjacent_heads())
  places = jnp.arange(12)
  got, _ = bias.init_with_output(
    jax.random.key(0), attention.Places(places, places)
  )
  weights = jax.nn.softmax(got.array()[0])
  inner = places[1:-1]
  assert weights[0, inner, inner - 1].min() > 0.9
  assert weights[1, inner, inner + 1].min() > 0.9
  assert weights[2].max() < 0.9
