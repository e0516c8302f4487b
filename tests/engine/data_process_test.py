"""Episodes that another process reads, beside those that this one reads."""

import subprocess
import sys
import time

import runner

# Only a process that has just started is forked.
_START = f"""
import os, signal, sys
sys.path.insert(0, {str(runner.ROOT / 'tests' / 'helpers')!r})
import runner
from hypertuning.engine import data_process
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError

def data(name=runner.TASK, **fields):
  return TaskData(name, runner.LENGTHS, 4, 'hypertuning.tasks.toy', **fields)

def refusal(function, *arguments):
  try:
    function(*arguments)
  except UserError as error:
    return str(error)

model = runner.model()
"""
_SAME = """
import itertools
import numpy as np

here = {'data': data(split='train'), 'held_out': data()}
there = dict(zip(here, data_process.apart(model, *here.values())))
assert all(isinstance(x, data_process.RemoteData) for x in there.values())
there['data'].check(model)
there['data'].check_steps(5)
settings = there['data'].settings()
ways = {'data': (True, 6), 'held_out': (False, 0)}

def batches(sources):
  opened = {k: sources[k].batches(model, *ways[k]) for k in ways}
  training = iter(opened['data'])
  first = list(itertools.islice(training, 2))
  # An evaluation in between, which starts anew every time.
  evaluations = [list(itertools.islice(opened['held_out'], n)) for n in (2, 1)]
  return [*first, *sum(evaluations, []), *itertools.islice(training, 2)]

remote = batches(there)
assert 'tensorflow' not in sys.modules
here['data'].check(model)
assert settings == here['data'].settings()
for ours, theirs in zip(batches(here), remote, strict=True):
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name], strict=True)
process = there['data']._reader._process
del there
process.join(30)
assert process.exitcode == 0
# TensorFlow has been imported: another process saves nothing.
assert data_process.apart(model, here['data'], None) == (here['data'], None)
print('same')
"""
_FAULTS = """
class Broken(TaskData):
  def settings(self):
    return {}['a key']

unknown, broken = data_process.apart(
  model, data('nothing'), Broken(runner.TASK, runner.LENGTHS, 4)
)
print(refusal(unknown.check, model))
try:
  broken.settings()
except RuntimeError as error:
  assert "KeyError: 'a key'" in str(error)
process = broken._reader._process
os.kill(process.pid, signal.SIGKILL)
print(refusal(broken.settings))
print(refusal(broken.check_steps, 1))
"""
_KILLED = """
remote, _ = data_process.apart(model, data(), None)
remote.check_steps(1)
print(remote._reader._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
_STARTED = """
import jax
jax.devices()
own = data()
assert data_process.apart(model, own, None) == (own, None)
print('same')
"""


def _run(program, temporary='/tmp'):
  return subprocess.run(
    [sys.executable, '-c', _START + program],
    env=runner.environment() | {'TMPDIR': str(temporary)},
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_batches_and_settings_are_those_of_this_process(tmp_path):
  done = _run(_SAME, tmp_path)
  assert done.stdout == 'same\n', done.stderr
  assert not list(tmp_path.iterdir())  # TensorFlow's files


def test_faults_come_back_as_they_were_raised():
  done = _run(_FAULTS)
  assert done.returncode == 0, done.stderr
  unknown, *lost = done.stdout.splitlines()
  assert unknown.startswith(
    "MIXTURE_OR_TASK_NAME = 'nothing' is not registered"
  )
  assert len(lost) == 2
  for line in lost:
    assert line.startswith('The process that reads the episodes has ended')
    assert 'SIGKILL' in line


def test_it_ends_with_the_process_that_started_it(tmp_path):
  number = int(_run(_KILLED, tmp_path).stdout)
  deadline = time.monotonic() + 30
  while time.monotonic() < deadline and _is_running(number):
    time.sleep(0.05)
  assert not _is_running(number)
  assert not list(tmp_path.iterdir())


def _is_running(number):
  try:
    with open(f'/proc/{number}/stat') as file:
      return file.read().rpartition(')')[2].split()[0] != 'Z'
  except FileNotFoundError:
    return False


def test_a_process_with_devices_is_not_forked():
  assert _run(_STARTED).stdout == 'same\n'
