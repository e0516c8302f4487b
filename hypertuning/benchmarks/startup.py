"""How long does the shortest training run take, from the shell to its end?

    python -m hypertuning.benchmarks startup --output=startup.json

Runs `hypertuning.train` at the quick start's size: two steps and the save, with
its compiled programs in the cache. A process that only imports TensorFlow,
seqio, jax and flax takes turns with it. Prints seconds, the most memory of a
process (a training is two), and the packages that take longest to import.
"""

import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hypertuning import command_line, tables
from hypertuning.benchmarks import options as flags
from hypertuning.errors import UserError, last_line

TRAINING, IMPORTS = 'hypertuning.train, 2 steps', 'imports alone'
_COUNTS = {'rounds': (3, 'measured runs of each')}
_PACKAGES = 8  # in the table of imports
_IMPORTS = 'import tensorflow, seqio, jax, flax'
_PROFILED = 'import hypertuning.train, hypertuning.tasks.toy'
_TRAIN = (
  *('-m', 'hypertuning.train'),
  *(
    f'--gin_file=gin/{name}.gin'
    for name in (
      'models/hyper_t5_prefix',
      'experiments/toy',
      'optimizers/adamw',
      'local/train',
    )
  ),
  "--gin.MIXTURE_OR_TASK_NAME='toy'",
  "--gin.MIXTURE_OR_TASK_MODULE='hypertuning.tasks.toy'",
  "--gin.TASK_FEATURE_LENGTHS={'hyper_inputs': 40, 'inputs': (4, 5), "
  "'targets': (4, 5)}",
  '--gin.TRAIN_STEPS=2',
  '--gin.WARMUP_STEPS=1',
  '--gin.EVAL_PERIOD=0',
)
# A small process in between: on Linux, the most memory of a process counts that
# of the one that has started it.
_LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.call([sys.executable, *sys.argv[1:]], stdout=sys.stderr)
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


class Run(NamedTuple):
  """A process that has ended.

  Attributes:
    seconds: seconds from its start to its end.
    peak_bytes: most bytes of memory that it, or one that it has started, has
      held.
  """

  seconds: float
  peak_bytes: int


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag is at fault, or a run fails.
  """
  options, _ = flags.parse(_parser(), arguments, _COUNTS)
  # jax takes a second to import: wrong flags are refused before.
  from hypertuning.benchmarks import machine

  rows = measure(options.rounds)
  imports = profile()
  print(tables.markdown(_lines(rows)))
  print(
    'Seconds to import: '
    + ', '.join(f'{k} {v:.2f}' for k, v in list(imports.items())[:_PACKAGES])
  )
  flags.write(
    options.output,
    {
      'subject': 'startup',
      'arguments': vars(options),
      'rows': rows,
      'imports': imports,
      **machine.describe(),
    },
  )


def measure(count: int) -> list[dict[str, Any]]:
  """Measures the run and the imports in turn.

  Args:
    count: number of measured runs of each; one more of each comes first, which
      fills the cache.

  Returns:
    Two rows with `way`, `seconds` and their spread, `peak_bytes` (the median),
    and `ratio` (the seconds of the run by those of the way).

  Raises:
    UserError: a run fails.
  """
  from hypertuning.benchmarks import rounds

  runs: dict[str, list[Run]] = {TRAINING: [], IMPORTS: []}
  with tempfile.TemporaryDirectory() as folder:
    environment = {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': f'{folder}/cache',
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'TF_CPP_MIN_LOG_LEVEL': '3',
    }

    def train() -> None:
      place = pathlib.Path(folder, f'run_{len(runs[TRAINING])}')
      arguments = [*_TRAIN, f"--gin.MODEL_DIR='{place}'"]
      runs[TRAINING].append(_run(arguments, environment))

    def load() -> None:
      runs[IMPORTS].append(_run(['-c', _IMPORTS], environment))

    ways: dict[str, Callable[[], None]] = {TRAINING: train, IMPORTS: load}
    rounds.in_turn(ways, 1 + count)
  rows = [
    {
      'way': name,
      **rounds.spread([run.seconds for run in done[1:]]),
      'peak_bytes': sorted(run.peak_bytes for run in done[1:])[count // 2],
    }
    for name, done in runs.items()
  ]
  for row in rows:
    row['ratio'] = rows[0]['seconds'] / row['seconds']
  return rows


def profile() -> dict[str, float]:
  """Seconds of importing what a training needs, by package, most first."""
  done = subprocess.run(
    [sys.executable, '-X', 'importtime', '-c', _PROFILED],
    capture_output=True,
    text=True,
    check=True,
  )
  seconds: dict[str, float] = collections.defaultdict(float)
  lines = re.findall(r'^import time:\s+(\d+) \|.*\| +(\w+)', done.stderr, re.M)
  for microseconds, package in lines:
    seconds[package] += int(microseconds) / 1e6
  return dict(sorted(seconds.items(), key=lambda x: x[1], reverse=True))


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> Run:
  """Runs Python to its end.

  Raises:
    UserError: it fails; the message has its last line.
  """
  done = subprocess.run(
    [sys.executable, '-c', _LAUNCHER, *arguments],
    env=environment,
    capture_output=True,
    text=True,
  )
  if done.returncode:
    name = ' '.join(arguments[:2])
    raise UserError(f'{name} fails: {last_line(done.stderr)}')
  seconds, kibibytes = done.stdout.split()
  return Run(float(seconds), int(kibibytes) * 1024)


def _lines(rows: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
  """The lines of the table, its head first."""
  return [
    ('way', 'seconds', 'least to most', 'peak MB', 'ratio'),
    *(
      (
        row['way'],
        f'{row["seconds"]:.1f}',
        f'{row["low"]:.1f} to {row["high"]:.1f}',
        f'{row["peak_bytes"] / 1e6:,.0f}',
        f'{row["ratio"]:.2f}',
      )
      for row in rows
    ),
  ]


def _parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.benchmarks startup', __doc__)
  flags.add_counts(made, _COUNTS)
  flags.add_output(made)
  return made


if __name__ == '__main__':
  command_line.run_process(main)
