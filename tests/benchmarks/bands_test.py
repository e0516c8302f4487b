"""Small steps cost no more than what is on record; the record has an end."""

import json
import subprocess
import sys

import jaxlib
import pytest
import runner

from hypertuning import command_line
from hypertuning.benchmarks import bands, counting

FOLDER = runner.ROOT / 'tests/benchmarks/bands'


@pytest.mark.slow
def test_no_count_has_risen():
  """In a process of its own: these tests compile with other flags."""
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'hypertuning.benchmarks', 'bands'),
      f'--folder={FOLDER}',
    ],
    env=runner.plain_environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  print(done.stdout)


def test_records_have_every_case_and_count():
  cases = {f'{a} {b}' for a, b in counting.TRAINING}
  cases |= {f'{name} decoding' for name in counting.DECODING}
  records = list(FOLDER.glob('jaxlib-*.json'))
  assert records
  for path in records:
    record = json.loads(path.read_text())
    assert set(record) == cases, path
    for case, values in record.items():
      assert ('compilations' in values) == ('decoding' not in case)
      assert min(values.values()) > 0


def test_a_rise_of_five_percent_is_the_most():
  record = {'a': {'flops': 100, 'compilations': 1}}
  assert not bands.risen({'a': {'flops': 105, 'compilations': 1}}, record)
  assert not bands.risen({'a': {'flops': 50}}, record)
  found = bands.risen({'a': {'flops': 106, 'compilations': 2}}, record)
  assert found == [
    'a: flops 100 to 106 (+6%)',
    'a: compilations 1 to 2 (+100%)',
  ]
  assert bands.risen({'b': {'flops': 1}}, record) == [
    'b: flops is not on record'
  ]


@pytest.mark.slow
def test_a_step_that_computes_twice_is_found():
  """A mutation: rematerialisation, which nobody asked for."""
  before = {'t5 lora': counting.training('t5', 'lora')}
  remat = ["REMAT_POLICY = 'full'"]
  after = {'t5 lora': counting.training('t5', 'lora', remat)}
  before['t5 lora']['compilations'] = after['t5 lora']['compilations']
  assert not bands.risen(before, before)
  assert any('flops' in line for line in bands.risen(after, before))


@pytest.fixture
def counted(monkeypatch):
  """Counts that take no time, in the environment of the tests."""
  monkeypatch.setattr(bands, '_ENVIRONMENT', {})
  monkeypatch.setattr(counting, 'count', lambda: {'a': {'flops': 106}})


def test_the_command_compares_with_its_version(counted, tmp_path, capfd):
  record = tmp_path / f'jaxlib-{jaxlib.__version__}.json'
  flags = [f'--folder={tmp_path}']
  (tmp_path / 'jaxlib-0.0.1.json').write_text('{"a": {"flops": 1}}')
  # Another version has a record: what is counted is printed, and passes.
  assert command_line.run(bands.main, flags) == 0
  out = capfd.readouterr().out
  assert 'flops 106' in out and 'nothing is compared' in out
  record.write_text('{"a": {"flops": 100}}')
  assert command_line.run(bands.main, flags) == 2
  err = capfd.readouterr().err
  assert 'flops 100 to 106 (+6%)' in err and err.count('\n') == 1
  assert command_line.run(bands.main, [*flags, '--rewrite']) == 0
  assert json.loads(record.read_text()) == {'a': {'flops': 106}}
  assert command_line.run(bands.main, flags) == 0
