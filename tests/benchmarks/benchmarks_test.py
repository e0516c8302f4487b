"""Benchmarks run, and count as by hand; how fast things are, no test says."""

import pytest
import runner

from hypertuning.benchmarks import input_pipeline, query_cost
from hypertuning.engine import task_data
from hypertuning.errors import UserError

# Width, heads x size, hidden size and vocabulary of `runner.model(width=20)`,
# and what its head has: tokens of a prefix, its sites, its hidden size.
_WIDTH, _HEADS, _MLP, _VOCAB = 20, 16, 16, 384
_PREFIX, _SITES, _BOTTLENECK = 2, 2, 8


@pytest.mark.slow
def test_input_pipeline_beside_the_step(capsys):
  data = runner.as_objects({'split': 'train'})['data']
  arguments = {'model': runner.model(), 'data': data}
  found = input_pipeline.measure(
    **arguments, rounds=2, batches_a_round=2, steps_a_round=2
  )
  assert min(found.values()) > 0
  assert found['ratio'] == pytest.approx(
    found['pipeline'] / (8 * found['steps'])
  )
  header, line, row = capsys.readouterr().out.splitlines()[-3:]
  assert header.count('|') == line.count('|') == row.count('|')
  assert row.startswith('| toy_symbols | ')


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
  }


def test_phi_pays_for_itself_or_never():
  assert query_cost.break_even(30, 2, 12) == 3.0
  assert query_cost.break_even(5, 2, 12) == 0.5
  assert query_cost.break_even(30, 12, 12) == 'never'
  assert query_cost.break_even(30, 13, 12) == 'never'


@pytest.mark.slow
def test_query_cost_is_measured_printed_and_written(tmp_path, capsys):
  rows = _query_cost(rounds=3, calls_a_round=1, output_dir=str(tmp_path))
  for row in rows[:-1]:
    assert 0 < row['seconds_low'] <= row['seconds'] <= row['seconds_high']
  making, with_phi, in_context = (row['seconds'] for row in rows[:-1])
  assert rows[-1]['queries_by_seconds'] == query_cost.break_even(
    making, with_phi, in_context
  )
  assert runner.read_lines(tmp_path / 'results.jsonl') == rows
  assert (tmp_path / 'config.gin').is_file()
  assert not list(tmp_path.glob('.*.tmp'))
  lines = [x for x in capsys.readouterr().out.splitlines() if x[:1] == '|']
  assert len(lines) == 5
  assert len({line.count('|') for line in lines}) == 1
  assert lines[2].startswith('| making phi, an episode | ')


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
