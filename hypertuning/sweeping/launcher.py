"""Starts commands as processes.

Commands of hypertuning are forked from a process that has imported them: to
import TensorFlow and jax takes longer than many cells run. Each command still
has a process of its own, and no command sees what another one does.
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

from hypertuning import gin_utils, paths, quiet

_PRELOADED = [
  'hypertuning.train',
  'hypertuning.eval',
  'hypertuning.adapt',
  'hypertuning.reporting.sweep_table',
]


class Process(Protocol):
  """A command that runs."""

  def terminate(self) -> None:
    """Asks it to end."""

  def wait(self) -> int:
    """Waits for the end; the exit code."""


class Launcher:
  """Starts commands in processes."""

  def __init__(self, commands: Collection[str]) -> None:
    """Prepares what can be forked.

    Args:
      commands: names of the modules that will be started.
    """
    # A process that has looked for NVIDIA's devices cannot be forked any more.
    forks = not glob.glob('/dev/nvidia*')
    self._forked = {
      x for x in commands if forks and x.startswith('hypertuning.')
    }
    self._context = multiprocessing.get_context('forkserver')
    self._lock = threading.Lock()  # multiprocessing has none of its own
    if self._forked:
      self._context.set_forkserver_preload(_PRELOADED)
      with quiet.hidden_stderr():  # what TensorFlow says when imported
        forkserver.ensure_running()

  def __call__(
    self, command: str, flags: Sequence[str], log: pathlib.Path, lock: int
  ) -> Process:
    """Starts a command.

    Args:
      command: name of the module.
      flags: flags of its command line.
      log: file that gets what the command prints.
      lock: descriptor of a locked file, which the command inherits: the lock
        lasts as long as the command runs.

    Returns:
      The process.
    """
    flags = [*gin_utils.data_flags(str(paths.data_root())), *flags]
    if command not in self._forked:
      with log.open('wb') as file:
        return subprocess.Popen(
          [sys.executable, '-m', command, *flags],
          stdout=file,
          stderr=subprocess.STDOUT,
          pass_fds=(lock,),
        )
    process = self._context.Process(
      target=_main,
      args=(command, flags, os.fspath(log), os.getcwd(), _Inherited(lock)),
    )
    with self._lock:
      process.start()
    return _Forked(process, self._lock)

  def close(self) -> None:
    """Ends the process that commands are forked from."""
    if self._forked:
      forkserver._forkserver._stop()  # type: ignore[attr-defined]


class _Inherited:
  """A file descriptor that the started process gets a copy of."""

  def __init__(self, file: int) -> None:
    self._file = file

  def __reduce__(self) -> tuple[Any, ...]:
    return _Inherited, (reduction.DupFd(self._file),)


class _Forked:
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
  """Runs a command; the whole of a forked process."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  os.chdir(folder)
  # A sweep that was killed leaves nothing behind that writes into its folder.
  threading.Thread(target=_end_with_parent, daemon=True).start()
  sys.argv = [command, *flags]
  # Runpy warns that the module is imported already, as it is meant to be.
  warnings.filterwarnings('ignore', '.* found in sys.modules', RuntimeWarning)
  runpy.run_module(command, run_name='__main__', alter_sys=True)


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os.kill(os.getpid(), signal.SIGTERM)  # training saves its state
