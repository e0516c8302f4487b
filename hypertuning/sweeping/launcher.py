"""Starts commands as processes.

Commands of hypertuning are forked from a process that has imported them
already, because importing TensorFlow and jax takes longer than many cells do.
Each command still has a process of its own, and shares no state with others.
"""

import contextlib
import glob
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Collection, Sequence
from multiprocessing import connection, forkserver, reduction
from typing import Any, Protocol

from hypertuning import background, gin_utils, paths, quiet

_PRELOADED = [
  'hypertuning.train',
  'hypertuning.eval',
  'hypertuning.adapt',
  'hypertuning.reporting.sweep_table',
  # What these import once they need it; left out where it is not installed.
  'hypertuning.data.row_digest',
  'hypertuning.engine.task_evaluations',
]


class Process(Protocol):
  """The process of a running command."""

  def terminate(self) -> None:
    """Asks the command to end."""

  def wait(self) -> int:
    """Waits until the command ends, and returns its exit code."""


class Launcher:
  """Starts commands in processes."""

  def __init__(self, commands: Collection[str]) -> None:
    """Starts the process that commands are forked from, if any can be.

    Args:
      commands: names of the modules that will be started.
    """
    # A process that has looked for NVIDIA's devices can no longer be forked. On
    # a machine that has such devices, each command is a fresh process.
    forks = not glob.glob('/dev/nvidia*')
    self._forked = {
      x for x in commands if forks and x.startswith('hypertuning.')
    }
    self._context = multiprocessing.get_context('forkserver')
    # Several threads start and join processes, but multiprocessing does not
    # guard its list of them.
    self._lock = threading.Lock()
    if self._forked:
      self._context.set_forkserver_preload(_PRELOADED)
      with quiet.hidden_stderr():  # TensorFlow prints lines when imported
        forkserver.ensure_running()

  def __call__(
    self,
    command: str,
    flags: Sequence[str],
    log: pathlib.Path,
    lock: int,
    cores: Collection[int] | None = None,
  ) -> Process:
    """Starts a command.

    Args:
      command: name of the module.
      flags: flags of the command line.
      log: path of the file that gets the command's output.
      lock: descriptor of a locked file. The command inherits it, so that the
        lock lasts as long as the command, even if the sweep is killed.
      cores: cores that the command may run on; None leaves it all.

    Returns:
      The process of the command.
    """
    flags = [*gin_utils.data_flags(str(paths.data_root())), *flags]
    if command not in self._forked:
      with log.open('wb') as file:
        started = subprocess.Popen(
          [sys.executable, '-m', command, *flags],
          stdout=file,
          stderr=subprocess.STDOUT,
          pass_fds=(lock,),
        )
      _restrict(started.pid, cores)
      return started
    process = self._context.Process(
      target=_main,
      args=(command, flags, os.fspath(log), os.getcwd(), _Inherited(lock)),
    )
    with self._lock:
      process.start()
    _restrict(process.pid, cores)
    return _Forked(process, self._lock)

  def close(self) -> None:
    """Ends the process that commands are forked from."""
    # Python has no public way to do so.
    if self._forked:
      forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _restrict(number: int | None, cores: Collection[int] | None) -> None:
  """Keeps a process that has just started, and its threads, on some cores."""
  if number is not None and cores is not None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
      os.sched_setaffinity(number, cores)


class _Inherited:
  """A file descriptor of which the started process gets a copy."""

  def __init__(self, file: int) -> None:
    self._file = file

  def __reduce__(self) -> tuple[Any, ...]:
    return _Inherited, (reduction.DupFd(self._file),)


class _Forked:
  """The process of a command that was forked."""

  def __init__(
    self, process: multiprocessing.process.BaseProcess, lock: threading.Lock
  ) -> None:
    self._process, self._lock = process, lock

  def terminate(self) -> None:
    with contextlib.suppress(OSError):
      self._process.terminate()

  def wait(self) -> int:
    connection.wait([self._process.sentinel])
    with self._lock:
      self._process.join()
    return self._process.exitcode or 0


def _main(
  command: str, flags: Sequence[str], log: str, folder: str, unused_lock: Any
) -> None:
  """Runs a command in a forked process, as `python -m` would.

  Args:
    command: name of the module.
    flags: flags of the command line.
    log: path of the file that gets the command's output.
    folder: working directory of the sweep, from which paths are meant.
    unused_lock: keeps the copy of the lock's descriptor open.
  """
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  os.chdir(folder)
  # If the sweep is killed, no command may stay behind that writes into its
  # folder. A training then saves its state.
  background.end_with_parent(signal.SIGTERM)
  sys.argv = [command, *flags]
  # Runpy warns that the module is imported already, which is intended here.
  warnings.filterwarnings('ignore', '.* found in sys.modules', RuntimeWarning)
  with quiet.temporary_files():
    runpy.run_module(command, run_name='__main__', alter_sys=True)
