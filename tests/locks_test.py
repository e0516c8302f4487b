"""Locks: one command at a time writes into a folder; a kill leaves none."""

import signal
import subprocess
import sys

import pytest
import runner

from hypertuning import locks
from hypertuning.errors import UserError

_HOLD = """
import sys, time
from hypertuning import locks
with locks.folder_lock(sys.argv[1], 'MODEL_DIR'):
  print('held', flush=True)
  time.sleep(60)
"""


def test_a_killed_command_leaves_no_lock(tmp_path):
  command = [sys.executable, '-c', _HOLD, str(tmp_path)]
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, env=runner.environment()
  ) as process:
    assert process.stdout.readline() == b'held\n'
    message = "MODEL_DIR = '.*': another command is writing there"
    with (
      pytest.raises(UserError, match=message),
      locks.folder_lock(str(tmp_path), 'MODEL_DIR'),
    ):
      pass
    process.send_signal(signal.SIGKILL)
    process.wait()
  with locks.folder_lock(str(tmp_path), 'MODEL_DIR'):
    pass


def test_an_error_in_the_context_is_no_lock(tmp_path):
  with (
    pytest.raises(BlockingIOError),
    locks.folder_lock(str(tmp_path), 'MODEL_DIR'),
  ):
    raise BlockingIOError
  with locks.folder_lock(str(tmp_path), 'MODEL_DIR', wait=True):
    pass
