"""The scripts of launch/ that set everything up say what they take."""

import pathlib
import subprocess

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parent.parent.parent / 'launch'


def _run(script, *arguments):
  return subprocess.run(
    [str(LAUNCH / script), *arguments],
    capture_output=True,
    text=True,
    timeout=20,  # nothing is installed before the arguments are read
  )


@pytest.mark.parametrize('script', ['quickstart.sh', 'claims.sh', 'smollm.sh'])
def test_help_and_what_is_no_argument(script):
  done = _run(script, '--help')
  assert done.returncode == 0 and f'launch/{script}' in done.stdout
  assert not any(line.startswith('#') for line in done.stdout.splitlines())
  done = _run(script, '--no_such_flag')
  assert (
    done.returncode == 2 and f'launch/{script}' in done.stdout + done.stderr
  )


@pytest.mark.parametrize('folder', ['/no/such/folder', None])
def test_data_that_is_not_there(folder):
  done = _run('smollm.sh', '--data', *([folder] if folder else []))
  assert done.returncode == 2
  assert done.stderr == f"error: --data = '{folder or ''}': no such folder.\n"
