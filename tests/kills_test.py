"""A few kills; `python tests/kills.py --kills=100` makes a hundred."""

import re
import subprocess
import sys

import pytest
import runner


@pytest.mark.slow
def test_a_few_kills_lose_nothing(tmp_path):
  command = [sys.executable, str(runner.ROOT / 'tests/kills.py')]
  # The script says which settings of jax its commands have.
  process = subprocess.run(
    [*command, f'--folder={tmp_path}'],
    env=runner.plain_environment(),
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert process.returncode == 0, process.stdout + process.stderr
  assert re.search(r'^[6-9] kills, 0 faults, ', process.stdout, re.MULTILINE)
