"""Locks: one command at a time writes into a folder; a kill leaves none."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest
import runner

from hypertuning import files, locks, quiet
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
    with pytest.raises(UserError, match=message):
      locks.check_free(str(tmp_path), 'MODEL_DIR')
    process.send_signal(signal.SIGKILL)
    process.wait()
  locks.check_free(str(tmp_path), 'MODEL_DIR')
  with locks.folder_lock(str(tmp_path), 'MODEL_DIR'):
    pass


def test_a_folder_that_is_only_looked_at_is_not_made(tmp_path):
  locks.check_free(str(tmp_path / 'run'), 'MODEL_DIR')
  assert not list(tmp_path.iterdir())


def test_a_process_with_temporary_files_of_its_own_has_the_same_locks():
  """The lock of a folder in a bucket is on this disk."""
  path = files.lock_file('gs://bucket/run')
  with quiet.temporary_files():
    with tempfile.NamedTemporaryFile(delete=False) as file:
      assert files.lock_file('gs://bucket/run') == path
  assert not os.path.exists(file.name)


def test_an_error_in_the_context_is_no_lock(tmp_path):
  with (
    pytest.raises(BlockingIOError),
    locks.folder_lock(str(tmp_path), 'MODEL_DIR'),
  ):
    raise BlockingIOError
  with locks.folder_lock(str(tmp_path), 'MODEL_DIR', wait=True):
    pass
