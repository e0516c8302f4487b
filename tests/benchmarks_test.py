"""Benchmarks run and print a ratio; how large it is, no test says."""

import pytest
import runner

from hypertuning.benchmarks import input_pipeline
from hypertuning.errors import UserError


@pytest.mark.slow
def test_input_pipeline_beside_the_step(capsys):
  arguments = {
    'model': runner.model(),
    'mixture_or_task_name': runner.TASK,
    'mixture_or_task_module': 'hypertuning.tasks.toy',
    'task_feature_lengths': runner.LENGTHS,
    'batch_size': 8,
  }
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
  with pytest.raises(UserError, match='ROUNDS = 0'):
    input_pipeline.measure(**arguments, rounds=0)
