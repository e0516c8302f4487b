"""Parts of the runner that need no TensorFlow import none."""

import subprocess
import sys

import pytest
import runner


@pytest.mark.parametrize(
  'module',
  [
    *('checkpoints', 'optim', 'partitioning', 'recorded_data', 't5x_format'),
    'warm_start',
  ],
)
def test_no_tensorflow(module):
  code = (
    f'import sys, hypertuning.engine.{module}\n'
    'assert not {"tensorflow", "seqio"} & sys.modules.keys()'
  )
  subprocess.run(
    [sys.executable, '-c', code],
    check=True,
    env=runner.environment(),
    timeout=120,
  )
