"""Starts commands: ours by a fork of a process that has imported them before.

Importing TensorFlow and jax takes longer than many a cell runs. Each command
still has a process of its own, and nothing that one does is seen by another.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from typing import Protocol

from hypertuning import gin_utils, paths

# Command to the function that gin configures.
_FUNCTIONS = {
  'hypertuning.train': 'train',
  'hypertuning.eval': 'evaluate',
  'hypertuning.infer': 'infer',
  'hypertuning.adapt': 'adapt',
  'hypertuning.benchmarks.query_cost': 'measure',
}


class Process(Protocol):
  """A command that runs."""

  def terminate(self) -> None:
    """Asks it to end."""

  def wait(self) -> int:
    """Waits for the end; the exit code."""


class Launcher:
  """Starts commands in processes."""

  def __init__(self) -> None:
    self._context = multiprocessing.get_context('forkserver')
    self._context.set_forkserver_preload(
      ['hypertuning.train', 'hypertuning.eval', 'hypertuning.adapt']
    )
    self._is_open = False

  def __call__(
    self, command: str, flags: Sequence[str], log: pathlib.Path
  ) -> Process:
    """Starts a command.

    Args:
      command: a module.
      flags: of its command line.
      log: file that gets what it prints.
    """
    # Also for t5x, which does not know where our gin files are.
    flags = [f'--gin_search_paths={paths.data_root()}', *flags]
    if command not in _FUNCTIONS:
      with log.open('wb') as file:
        return subprocess.Popen(
          [sys.executable, '-m', command, *flags],
          stdout=file,
          stderr=subprocess.STDOUT,
        )
    if not self._is_open:
      with gin_utils.hidden_stderr():  # what TensorFlow says when imported
        forkserver.ensure_running()
      self._is_open = True
    process = self._context.Process(
      target=_main, args=(command, flags, os.fspath(log), os.getcwd())
    )
    process.start()
    return _Forked(process)

  def close(self) -> None:
    """Ends the process that is forked."""
    if self._is_open:
      forkserver._forkserver._stop()  # type: ignore[attr-defined]


class _Forked:
  def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
    self._process = process

  def terminate(self) -> None:
    with contextlib.suppress(OSError):
      self._process.terminate()

  def wait(self) -> int:
    self._process.join()
    return self._process.exitcode or 0


def _main(command: str, flags: Sequence[str], log: str, folder: str) -> None:
  """A command in a process of its own."""
  file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  os.chdir(folder)
  # A sweep that was killed leaves nothing behind that writes into its folder.
  threading.Thread(target=_end_with_parent, daemon=True).start()
  sys.argv = [command, *flags]
  gin_utils.run(command, _FUNCTIONS[command])


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  assert parent is not None
  parent.join()
  os.kill(os.getpid(), signal.SIGTERM)  # training saves its state
