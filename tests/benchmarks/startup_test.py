"""The benchmark of a run's start: real processes, and what it says of them."""

import os

import pytest

from hypertuning.benchmarks import startup
from hypertuning.errors import UserError


def test_a_run_has_seconds_and_memory():
  small = startup._run(['-c', 'pass'], os.environ)
  large = startup._run(['-c', 'x = bytearray(200 << 20)'], os.environ)
  assert small.seconds > 0
  assert large.peak_bytes - small.peak_bytes > 150 << 20


def test_a_failing_run_is_one_line():
  with pytest.raises(UserError, match='-c raise.* fails: ValueError: x'):
    startup._run(['-c', 'raise ValueError("x")'], os.environ)


@pytest.mark.slow
def test_both_are_measured_and_imports_profiled(monkeypatch):
  monkeypatch.setattr(startup, '_IMPORTS', 'import json')
  rows = startup.measure(1)
  assert [row['way'] for row in rows] == [startup.TRAINING, startup.IMPORTS]
  assert all(len(row['rounds']) == 1 for row in rows)
  assert rows[1]['ratio'] == rows[0]['seconds'] / rows[1]['seconds'] > 1
  found = startup.profile()
  assert {'jax', 'flax', 'hypertuning'} <= set(found)
  assert list(found.values()) == sorted(found.values(), reverse=True)
