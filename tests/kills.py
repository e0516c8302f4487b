"""Kills commands at random moments, and looks at what they leave behind.

    python tests/kills.py                # a few
    python tests/kills.py --kills=100 --folder=/tmp/kills

Of every ten kills, four hit trainings (half of them while a checkpoint is
saved), two hit evaluations, two hit sweeps, and two hit `infer`, `adapt` or
`report`. One training in eight gets SIGTERM, and one in four has a clock that
jumps. After every kill:

- no finished checkpoint of a run is lost, and the newest can be read;
- the table that readers look for is complete or absent; if it exists, so do the
  other tables of the command;
- a cell of a sweep that is marked as done has all of its results.

At its end, a training has bit for bit the losses and weights of one that was
never stopped, and a sweep has the tables of one that was never stopped. The
commands are forked from a process that has imported them. The exit code is 1 if
there are faults, which are printed.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests' / 'helpers')]
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=1'
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')

import runner  # noqa: E402 after the settings of jax

_CONTEXT = multiprocessing.get_context('forkserver')
_PRELOADED = [
  f'hypertuning.{x}' for x in ('train', 'eval', 'infer', 'adapt', 'report')
]
# Each command's part of the kills.
COMMANDS = {
  'train': 0.4,
  'eval': 0.2,
  'sweep': 0.2,
  'infer': 0.07,
  'adapt': 0.07,
  'report': 0.06,
}
_STEPS = 40
_FEW = {'EVAL_STEPS': 1}
_REPORT = """
from __gin__ import dynamic_registration
include 'gin/sweeps/report.gin'
from hypertuning import report
from hypertuning.reporting import runs
report.report.title = 'Kills'
report.report.sections = (@runs.runs,)
"""
# The last of these is written last: where it is, the others are whole.
_TABLES = {
  'eval': ('config.gin', 'predictions.jsonl', 'results.jsonl'),
  'infer': ('config.gin', 'adapters.safetensors', 'predictions.jsonl'),
  'adapt': (
    'config.gin',
    f'{runner.TASK}.safetensors',
    'curves.jsonl',
    'results.jsonl',
  ),
}
_OUTPUTS = {
  'eval': 'EVAL_OUTPUT_DIR',
  'infer': 'INFER_OUTPUT_DIR',
  'adapt': 'ADAPT_OUTPUT_DIR',
}


def child(command, flags, log, jumps):
  """Runs a command in a forked process.

  Args:
    command: name of the command.
    flags: flags of the command.
    log: path of the file that gets its output.
    jumps: whether the clock of the process jumps.
  """
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(file, 1)
  os.dup2(file, 2)
  os.chdir(ROOT)
  if jumps:
    clock, rng = time.time, random.Random(os.getpid())
    time.time = lambda: clock() + rng.choice((0, -86400, 86400, 3e7))
  if command == 'sweep':
    _fork_cells()
  sys.argv = [command, *flags]
  import warnings

  warnings.filterwarnings('ignore', '.* found in sys.modules', RuntimeWarning)
  runpy.run_module(f'hypertuning.{command}', run_name='__main__')


def _fork_cells():
  """Lets a sweep fork its cells from its own process, which has all imports."""
  from hypertuning.sweeping import launcher

  class Server:
    _forkserver = None

    def ensure_running(self):
      pass

  server = Server()
  server._forkserver = type('', (), {'_stop': lambda self: None})()
  launcher.forkserver = server
  fork = multiprocessing.get_context('fork')
  launcher.multiprocessing.get_context = lambda unused: fork


class Kills:
  """Kills commands, and records the faults that they leave behind.

  Attributes:
    counts: number of kills by command and moment.
    faults: one line per fault.
  """

  def __init__(self, folder, seed=0):
    self.folder = pathlib.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self.counts = collections.Counter()
    self.faults = []
    self._random = random.Random(seed)
    self._number = 0
    _CONTEXT.set_forkserver_preload(_PRELOADED)

  def run(self, kills, commands=COMMANDS):
    """Kills commands.

    Args:
      kills: number of kills over all of COMMANDS; each has its share, at least
        one.
      commands: names of the commands that are killed.
    """
    shares = {x: max(1, round(part * kills)) for x, part in COMMANDS.items()}
    for command in commands:
      share = shares[command]
      if command == 'train':
        self._train(share)
      elif command == 'sweep':
        self._sweep(share)
      elif command == 'report':
        self._report(share)
      else:
        self._tables(command, share)

  def _start(self, command, flags, jumps=False):
    log = self.folder / f'{command}.log'
    process = _CONTEXT.Process(target=child, args=(command, flags, log, jumps))
    process.start()
    return process

  def _run(self, command, flags):
    """Runs a command to its end."""
    process = self._start(command, flags)
    process.join()
    if process.exitcode:
      log = (self.folder / f'{command}.log').read_text()
      raise RuntimeError(f'{command} ended with {process.exitcode}: {log}')

  def _kill(self, process, what, number=signal.SIGKILL):
    """Kills a process; returns whether it was still running."""
    if process.exitcode is not None:
      return False
    os.kill(process.pid, number)
    process.join()
    if process.exitcode not in (-number, 128 + number):
      return False  # it had ended by itself
    self.counts[what] += 1
    print(f'{sum(self.counts.values())}: {what}', flush=True)
    return True

  def _fault(self, text):
    print(f'FAULT: {text}', flush=True)
    self.faults.append(text)

  # Trainings.

  def _train_flags(self, folder, keep=3):
    bindings = {
      **runner.TRAIN,
      'TRAIN_STEPS': _STEPS,
      'EVAL_PERIOD': 0,
      'train.train.log_period': 3,
      'train.train.keep_checkpoints': keep,
      'MODEL_DIR': str(folder),
    }
    return runner.flags(runner.TRAIN_FILES, bindings)

  def trained(self):
    """The folder of a training that was never stopped."""
    folder = self.folder / 'reference'
    if not (folder / f'checkpoint_{_STEPS}').is_dir():
      self._run('train', self._train_flags(folder))
    return folder

  def _train(self, kills):
    reference = self.trained()
    folder, keep = None, 0
    while kills:
      if folder is None:
        self._number += 1
        keep = keep % 3 + 1
        folder = self.folder / f'train_{self._number}'
      before = _logged(folder)
      jumps = self._random.random() < 0.25
      process = self._start('train', self._train_flags(folder, keep), jumps)
      what = self._random.choices(('save', 'step', 'start'), (10, 7, 3))[0]
      seen = self._wait_for_training(process, folder, what, before)
      stop = signal.SIGTERM if self._random.random() < 0.125 else signal.SIGKILL
      if self._kill(process, f'train, {what}, {stop.name}', stop):
        kills -= 1
        ended_by_itself = process.exitcode == 128 + signal.SIGTERM
        self._check_run(folder, seen, keep, ended_by_itself)
      elif process.exitcode == 2 and jumps:
        # Orbax measures its time limits by the clock: a save that sees it jump
        # is given up, in one line, and the same command goes on.
        continue
      elif process.exitcode:
        log = (self.folder / 'train.log').read_text().splitlines()[-3:]
        self._fault(f'{folder} ended with {process.exitcode}: {log}')
        folder = None
      else:
        self._check_ended(folder, reference)
        folder = None
    if folder is not None:
      self._run('train', self._train_flags(folder, keep))
      self._check_ended(folder, reference)

  def _wait_for_training(self, process, folder, what, before):
    """Waits for the moment of a kill.

    Returns:
      The steps of the finished checkpoints that were seen meanwhile.
    """
    seen = set()
    limit = time.monotonic() + (self._random.uniform(0, 5) if what == 'start'
                                else 300)  # fmt: skip
    lines = before + self._random.randint(1, 12)
    while process.exitcode is None and time.monotonic() < limit:
      names = os.listdir(folder) if folder.is_dir() else []
      seen |= {int(x[11:]) for x in names if re.fullmatch(r'checkpoint_\d+', x)}
      if what == 'save' and any('orbax-checkpoint-tmp' in x for x in names):
        break
      if what == 'step' and _logged(folder) >= lines:
        break
      time.sleep(0.002)
    time.sleep(self._random.uniform(0, 0.2))
    return seen

  def _check_run(self, folder, seen, keep, ended_by_itself):
    """Whether a killed training has lost nothing."""
    from hypertuning.engine import checkpoint_folders, checkpoints

    if not seen:
      return
    latest = checkpoint_folders.latest_step(str(folder))
    if latest is None or latest < max(seen):
      self._fault(f'{folder}: checkpoint_{max(seen)} is lost')
      return
    checkpoints.restore_variables(str(folder))
    lost = {x for x in sorted(seen)[-keep:] if x > latest - 2 * keep}
    lost -= {*checkpoint_folders.steps(checkpoint_folders.folder(folder, ''))}
    if lost:
      self._fault(f'{folder}: checkpoints {lost} are lost')
    if ended_by_itself and latest != max(runner.losses(folder)):
      self._fault(f'{folder}: SIGTERM, but the last step is not saved')

  def _check_ended(self, folder, reference):
    """Whether a training that has ended is like the one that never stopped."""
    import numpy as np

    from hypertuning import trees
    from hypertuning.engine import checkpoints

    if runner.losses(folder) != runner.losses(reference):
      self._fault(f'{folder}: other losses than {reference}')
    ours, theirs = (
      trees.flatten_paths(checkpoints.restore_variables(str(x)))
      for x in (folder, reference)
    )
    for name, value in theirs.items():
      if not np.array_equal(ours[name], value):
        self._fault(f'{folder}: {name} is not that of {reference}')
    shutil.rmtree(folder)

  # Evaluations and other commands that write tables at their end.

  def _flags(self, command, seed, output):
    bindings = {
      **runner.SMALL,
      'RANDOM_SEED': seed,
      'CHECKPOINT_PATH': str(self.trained()),
      _OUTPUTS[command]: str(output),
    }
    files = [*runner.MODEL_FILES]
    if command == 'eval':
      bindings |= _FEW
    if command == 'infer':
      bindings |= {'INFER_STEPS': 1, 'SAVE_ADAPTERS': True}
    if command == 'adapt':
      files.append('gin/optimizers/adamw.gin')
      bindings |= {
        **{'TRAIN_STEPS': 2, 'WARMUP_STEPS': 1, 'MAX_TASKS': 2},
        **{'TEST_VISITS': 1, 'TUNING_ROWS': 8},
      }
      del bindings['BATCH_SIZE']
    return runner.flags([*files, f'gin/local/{command}.gin'], bindings)

  def _tables(self, command, kills):
    """Kills a command that has results of another seed in its folder."""
    output = self.folder / f'{command}_output'
    references, seconds = [], 0.0
    for seed in (0, 1):
      start = time.monotonic()
      self._run(command, self._flags(command, seed, output))
      seconds = time.monotonic() - start
      references.append(_content(output, _TABLES[command]))
    seed = 0
    while kills:
      seed = 1 - seed
      process = self._start(command, self._flags(command, seed, output))
      what = self._wait_for_files(process, output, seconds)
      if self._kill(process, f'{command}, {what}'):
        kills -= 1
      content = _content(output, _TABLES[command])
      if content is not None and content not in references:
        self._fault(f'{output}: results of two commands: {[*content]}')

  def _wait_for_files(self, process, output, seconds):
    """Waits for the moment of a kill: any, or that of the first change."""
    what = self._random.choice(('any time', 'writing', 'writing'))
    start = time.monotonic()
    limit = 300 if what == 'writing' else self._random.uniform(0, seconds)
    before = _state(output)
    while process.exitcode is None and time.monotonic() < start + limit:
      if what == 'writing' and _state(output) != before:
        time.sleep(self._random.uniform(0, 0.004))
        break
      time.sleep(0.0003 if what == 'writing' else 0.01)
    return what

  # Sweeps and reports.

  def _sweep_flags(self, folder):
    data = {k: v for k, v in runner.SMALL.items() if k != 'BATCH_SIZE'}
    data |= {'BATCH_SIZE': 8}
    files = runner.MODEL_FILES
    stages = {
      'run': {
        'command': 'hypertuning.train',
        'gin_files': (
          *files,
          'gin/optimizers/adamw.gin',
          'gin/local/train.gin',
        ),  # fmt: skip
        'bindings': {
          **runner.TRAIN,
          **{'TRAIN_STEPS': 4, 'EVAL_PERIOD': 0},
        },
      },
      'eval': {
        'command': 'hypertuning.eval',
        'gin_files': (*files, 'gin/local/eval.gin'),
        'bindings': {**data, **_FEW},
        'after': {'CHECKPOINT_PATH': 'run'},
      },
    }
    bindings = {
      'STAGES': stages,
      'AXES': {'seed': {str(n): {'RANDOM_SEED': n} for n in (0, 1)}},
      'METRIC': 'loss',
      'SWEEP_DIR': str(folder),
    }
    return runner.flags(['gin/sweeps/sweep.gin'], bindings)

  def swept(self):
    """The folder of a sweep that was never stopped."""
    folder = self.folder / 'swept'
    if not (folder / 'table.md').exists():
      self._run('sweep', self._sweep_flags(folder))
    return folder

  def _sweep(self, kills):
    reference = self.swept()
    results = _results(reference)
    folder = None
    while kills:
      if folder is None:
        self._number += 1
        folder = self.folder / f'sweep_{self._number}'
      process = self._start('sweep', self._sweep_flags(folder))
      what = self._wait_for_cells(process, folder)
      if self._kill(process, f'sweep, {what}'):
        kills -= 1
        time.sleep(0.5)  # its cells end a moment later
      elif process.exitcode:
        log = (self.folder / 'sweep.log').read_text().splitlines()[-3:]
        self._fault(f'{folder} ended with {process.exitcode}: {log}')
        folder = None
        continue
      for cell, text in _results(folder).items():
        if text != results[cell]:
          self._fault(f'{folder}: {cell} is done, with other results')
      if not process.exitcode and _results(folder) == results:
        self._check_swept(folder, reference)
        folder = None
    if folder is not None:
      self._run('sweep', self._sweep_flags(folder))
      self._check_swept(folder, reference)

  def _wait_for_cells(self, process, folder):
    """Waits until any file of the sweep changes, a few times."""
    changes = self._random.randint(1, 25)
    before = None
    limit = time.monotonic() + 300
    while process.exitcode is None and time.monotonic() < limit:
      state = [_state(x) for x in (folder, *folder.glob('cells/*/*'))]
      if state != before:
        changes, before = changes - 1, state
        if not changes:
          break
      time.sleep(0.005)
    time.sleep(self._random.uniform(0, 0.3))
    return 'at a change of its files'

  def _check_swept(self, folder, reference):
    for name in ('cells.csv', 'table.csv', 'table.md'):
      if (folder / name).read_text() != (reference / name).read_text():
        self._fault(f'{folder}: another {name} than {reference}')
    shutil.rmtree(folder)

  def _report(self, kills):
    """Kills the making of a report over an earlier one."""
    folder = self.swept()
    (self.folder / 'report.gin').write_text(_REPORT)
    file = str(self.folder / 'report.gin')
    flags = runner.flags([file], {'SWEEP_DIR': str(folder)})
    start = time.monotonic()
    self._run('report', flags)
    seconds = time.monotonic() - start
    names = ('runs.md', 'runs.csv', 'report.html')
    contents = {x: (folder / x).read_bytes() for x in names}
    while kills:
      for name in names:
        (folder / name).unlink(missing_ok=True)
      process = self._start('report', flags)
      what = self._wait_for_files(process, folder, seconds)
      kills -= self._kill(process, f'report, {what}')
      for name in names:
        path = folder / name
        if path.exists() and path.read_bytes() != contents[name]:
          self._fault(f'{path} is not whole')


def _logged(folder):
  """The number of lines in a run's log of losses."""
  path = folder / 'metrics.jsonl'
  return path.read_bytes().count(b'\n') if path.exists() else 0


def _state(folder):
  """Maps the files of a folder to the times of their last changes."""
  try:
    with os.scandir(folder) as entries:
      return {x.name: x.stat().st_mtime_ns for x in entries}
  except FileNotFoundError:
    return {}


def _content(folder, names):
  """Contents of tables, without seconds; None if the last one is missing."""
  if not (folder / names[-1]).exists():
    return None
  content = {x: (folder / x).read_bytes() for x in names}
  for name in names:
    if name.endswith('.jsonl'):
      rows = [json.loads(line) for line in content[name].splitlines()]
      content[name] = [
        {k: v for k, v in row.items() if 'seconds' not in k} for row in rows
      ]
  return content


def _results(folder):
  """Maps each cell of a sweep that is done to its results."""
  return {
    str(path.parent.relative_to(folder)): [
      (path.parent / name).read_text()
      for name in ('results.jsonl', 'metrics.jsonl')
      if (path.parent / name).exists()
    ]
    for path in sorted(folder.glob('cells/*/*/done'))
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=6)
  parser.add_argument('--folder', help='for runs and logs (a temporary one)')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument(
    '--commands', nargs='+', choices=COMMANDS, default=[*COMMANDS]
  )
  options = parser.parse_args()
  with contextlib.ExitStack() as stack:
    folder = options.folder or stack.enter_context(
      tempfile.TemporaryDirectory()
    )
    return run(pathlib.Path(folder).absolute(), options)


def run(folder, options):
  """Kills commands, prints the counts and faults, and returns the exit code."""
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'compiled'))
  start = time.monotonic()
  kills = Kills(folder, options.seed)
  kills.run(options.kills, options.commands)
  for what, count in sorted(kills.counts.items()):
    print(f'{count:4d} {what}')
  total = sum(kills.counts.values())
  print(
    f'{total} kills, {len(kills.faults)} faults, '
    f'{time.monotonic() - start:.0f} seconds'
  )
  print('\n'.join(kills.faults))
  return 1 if kills.faults else 0


if __name__ == '__main__':
  sys.exit(main())
