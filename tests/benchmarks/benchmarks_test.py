"""Benchmarks run, and count as by hand; how fast things are, no test says."""

import json

import jax
import numpy as np
import pytest
import runner
import tiny_llama

from hypertuning import models
from hypertuning.benchmarks import (
  cached_context,
  cost_table,
  input_pipeline,
  query_cost,
)
from hypertuning.data import text_format, vocabularies
from hypertuning.engine import task_data
from hypertuning.errors import UserError
from hypertuning.hypermodels import gist
from hypertuning.networks import llama
from hypertuning.tasks import toy

# Width, heads x size, hidden size and vocabulary of `runner.model(width=20)`,
# and what its head has: tokens of a prefix, its sites, its hidden size.
_WIDTH, _HEADS, _MLP, _VOCAB = 20, 16, 16, 384
_PREFIX, _SITES, _BOTTLENECK = 2, 2, 8


@pytest.mark.slow
def test_input_pipeline_beside_the_step(capsys, tmp_path):
  data = runner.as_objects({'split': 'train'})['data']
  arguments = {'model': runner.model(), 'data': data}
  found = input_pipeline.measure(
    **arguments,
    rounds=2,
    batches_a_round=2,
    steps_a_round=2,
    output=str(tmp_path / 'found.json'),
  )
  rounds = found['rounds']
  assert min(*rounds['pipeline'], *rounds['steps'], found['ratio']) > 0
  assert found['ratio'] == pytest.approx(
    found['pipeline'] / (8 * found['steps'])
  )
  header, line, row = capsys.readouterr().out.splitlines()[-3:]
  assert header.count('|') == line.count('|') == row.count('|')
  assert row.startswith('| toy_symbols | ')
  written = json.loads((tmp_path / 'found.json').read_text())
  assert written['rounds'] == rounds and written['batch'] == 8
  assert written['versions']['jax'] and written['machine']['cores']


def _query_cost(**overrides):
  arguments = {
    'model': runner.model(width=_WIDTH),
    'mixture_or_task_name': runner.TASK,
    'mixture_or_task_module': 'hypertuning.tasks.toy',
    'task_feature_lengths': runner.LENGTHS,
    'in_context_name': f'{runner.TASK}_in_context',
    'in_context_lengths': {**runner.LENGTHS, 'inputs': (2, 50)},
    'batch_size': 8,
    'rounds': 0,
  }
  arguments |= overrides
  other = task_data.TaskData(
    arguments.pop('in_context_name'),
    arguments.pop('in_context_lengths'),
    arguments['batch_size'],
    binding='IN_CONTEXT_MIXTURE_OR_TASK_NAME',
  )
  arguments = runner.as_objects({**arguments, 'in_context': other})
  arguments.pop('partitioner')
  return query_cost.measure(**arguments)


def _attention(queries, keys, prefix):
  """Multiply-adds: four projections, and what every query meets."""
  projections = 2 * queries + 2 * keys
  met = 2 * queries * (keys + prefix)
  return projections * _WIDTH * _HEADS + met * _HEADS


def _mlp(length):
  return 3 * length * _WIDTH * _MLP  # gated


def _encoder(length, prefix=0):
  return _attention(length, length, prefix) + _mlp(length)


def _decoder(length, inputs, prefix=0):
  own = _attention(length, length, prefix)
  return own + _attention(length, inputs, 0) + _mlp(length)


def _query(inputs, targets, prefix):
  stacks = _encoder(inputs, prefix) + _decoder(targets, inputs, prefix)
  return 2 * (stacks + targets * _WIDTH * _VOCAB)


def test_flops_of_a_query_are_those_counted_by_hand():
  rows = {row['way']: row for row in _query_cost()}
  slots = _PREFIX * _SITES
  key_and_value = 2 * _HEADS  # of the one layer
  head = slots * (_WIDTH * _BOTTLENECK + _BOTTLENECK * key_and_value)
  expected = {
    'making phi': 2 * (_encoder(48) + _decoder(slots, 48) + head),
    'query with phi': _query(6, 4, _PREFIX),
    'query in context': _query(50, 4, 0),
  }
  assert {way: rows[way]['flops'] for way in expected} == expected
  for way in expected:
    assert rows[way]['seconds'] is None  # of no rounds
  phi_bytes = 4 * slots * key_and_value
  assert [rows[way]['phi_bytes'] for way in expected] == [
    phi_bytes,
    phi_bytes,
    0,
  ]
  assert rows['making phi']['phi_bytes_bfloat16'] == phi_bytes // 2
  making, with_phi, in_context = expected.values()
  assert rows['break even'] == {
    'way': 'break even',
    'queries_by_flops': making / (in_context - with_phi),
    'queries_by_seconds': None,
    'queries_by_flops_cached': None,
    'queries_by_seconds_cached': None,
  }


def test_phi_pays_for_itself_or_never():
  assert cost_table.break_even(30, 2, 12) == 3.0
  assert cost_table.break_even(5, 2, 12) == 0.5
  assert cost_table.break_even(30, 12, 12) == 'never'
  assert cost_table.break_even(30, 13, 12) == 'never'
  assert cost_table.break_even(30, 2, 12, other_start=20) == 1.0
  assert cost_table.break_even(30, 2, 12, other_start=40) == 0.0


@pytest.mark.slow
def test_query_cost_is_measured_printed_and_written(tmp_path, capsys):
  rows = _query_cost(rounds=3, calls_a_round=1, output_dir=str(tmp_path))
  for row in rows[:3]:
    assert 0 < row['seconds_low'] <= row['seconds'] <= row['seconds_high']
  making, with_phi, in_context = (row['seconds'] for row in rows[:3])
  assert rows[3] == {
    'way': 'query in context, cached',
    'reason': 'T5 reads its whole input with every query',
  }
  assert rows[-1]['queries_by_seconds'] == cost_table.break_even(
    making, with_phi, in_context
  )
  assert runner.read_lines(tmp_path / 'results.jsonl') == rows
  measured_on = json.loads((tmp_path / 'machine.json').read_text())
  assert measured_on['versions']['jax']
  assert (tmp_path / 'config.gin').is_file()
  assert not list(tmp_path.glob('.*.tmp'))
  lines = [x for x in capsys.readouterr().out.splitlines() if x[:1] == '|']
  assert len(lines) == 6
  assert len({line.count('|') for line in lines}) == 1
  assert lines[2].startswith('| making phi, an episode | ')


def _llama(vocab):
  form = text_format.decoder_format(vocabularies.byte_vocabulary())
  config = tiny_llama.config(vocab_size=vocab, max_length=128)
  return models.HyperTuningModel(
    downstream=llama.Llama(config),
    hypermodel=gist.Gist(config, 3),
    text_format=form,
    optimizer_def=None,
  )


def _decoder_task():
  return toy.episodes(
    'toy_of_cost',
    text_format=text_format.decoder_format(vocabularies.byte_vocabulary()),
  )


@pytest.mark.slow
def test_a_decoder_caches_its_examples(capsys):
  task = _decoder_task()
  rows = _query_cost(
    model=_llama(384),
    mixture_or_task_name=task,
    in_context_name=f'{task}_in_context',
    rounds=1,
    calls_a_round=1,
  )
  by_way = {row['way']: row for row in rows}
  assert len(by_way) == 6
  cache, query = (
    by_way['making the cache'],
    by_way['query in context, cached'],
  )
  assert 0 < query['flops'] < by_way['query in context']['flops']
  # Every column of the text has a key and a value of 2 x 6 in both layers.
  assert cache['phi_bytes'] == query['phi_bytes'] == 4 * 48 * 2 * 2 * 12
  assert by_way['query with phi']['phi_bytes'] == 4 * 3 * 2 * 2 * 12
  even = by_way['break even']
  assert even['queries_by_flops_cached'] == cost_table.break_even(
    by_way['making phi']['flops'],
    by_way['query with phi']['flops'],
    query['flops'],
    cache['flops'],
  )
  printed = capsys.readouterr().out
  assert 'This is 16 times phi.' in printed
  assert 'beside the cache, by FLOPs' in printed


@pytest.mark.slow
@pytest.mark.parametrize('chunks', [None, 2])
def test_a_cached_query_answers_as_one_with_examples_in_context(chunks):
  """Texts of different lengths, as the pipeline lays them out."""
  task, model = _decoder_task(), _llama(384)
  room = (chunks, 30) if chunks else 60
  forms = {
    '': {**runner.LENGTHS, 'hyper_inputs': room},
    '_in_context': {**runner.LENGTHS, 'inputs': (2, 80)},
  }
  batches = {}
  for form, lengths in forms.items():
    data = task_data.TaskData(task + form, lengths, 8)
    data.check(model)
    (batches[form],) = data.batches(model).take(1).as_numpy_iterator()
    batches[form].pop('is_real')
  plain = batches['']
  divided = cached_context.divide(model.text_format, plain)
  shapes = cached_context.shapes(
    model.text_format, {k: x.shape for k, x in plain.items()}
  )
  assert {k: x.shape for k, x in divided.items()} == shapes
  sizes = (divided['hyper_tokens'] > 0).sum(axis=1)
  assert len(set(sizes.tolist())) > 1
  variables = model.get_initial_variables(
    jax.random.key(0), {k: x.shape for k, x in plain.items()}
  )
  params, frozen = variables['params'], variables['frozen']
  cache = cached_context.make(model, params, frozen, divided['hyper_tokens'])
  scores = [
    model.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=x
    )
    for batch, x in ((divided, cache), (batches['_in_context'], None))
  ]
  np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
  'overrides, message',
  [
    ({'model': 'plain'}, 'HYPERMODEL = None'),
    ({'mixture_or_task_name': 'toyy'}, "^MIXTURE_OR_TASK_NAME = 'toyy'"),
    ({'in_context_name': 'x'}, "^IN_CONTEXT_MIXTURE_OR_TASK_NAME = 'x'"),
    ({'task_feature_lengths': {}}, r"^TASK_FEATURE_LENGTHS\['hyper_inputs'\]"),
    (
      {'in_context_lengths': {'hyper_inputs': 1}},
      r"^IN_CONTEXT_FEATURE_LENGTHS\['inputs'\] is None",
    ),
    (
      {'in_context_lengths': {**runner.LENGTHS, 'targets': (2, 5)}},
      r"^IN_CONTEXT_FEATURE_LENGTHS\['targets'\] = \(2, 5\), but",
    ),
    ({'batch_size': 3}, 'BATCH_SIZE = 3'),
    ({'rounds': 1, 'split': 'tset'}, "no split 'tset'"),
    (
      {'rounds': 1, 'checkpoint_path': '/no/such/run'},
      'CHECKPOINT_PATH = ',
    ),
  ],
)
def test_query_cost_refuses_what_it_cannot_compare(overrides, message):
  if 'model' in overrides:
    overrides = {'model': runner.model(hyper=False)}
  with pytest.raises(UserError, match=message) as error:
    _query_cost(**overrides)
  assert '\n' not in str(error.value)
