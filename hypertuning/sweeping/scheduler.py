"""Runs cells as processes, several at a time, in order of what they need."""

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hypertuning.engine import summaries
from hypertuning.sweeping import launcher
from hypertuning.sweeping.cells import LOG, Cell

_POLL_SECONDS = 1.0


def run(work: Sequence[Cell], num_workers: int) -> None:
  """Runs all cells that are not done; notes in their folders how they ended.

  Args:
    work: cells; each starts as soon as those that it needs are done.
    num_workers: number of cells that run at a time.

  Raises:
    SystemExit: SIGTERM or SIGINT came; cells that ran have been stopped.
  """
  queue = _Queue(work)
  with queue.stopped_by_signals():
    threads = [
      threading.Thread(target=queue.work, daemon=True)
      for _ in range(num_workers)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      while thread.is_alive():  # a join without a limit hears no signal
        thread.join(0.5)
  queue.close()


class _Queue:
  """The cells that are left to run, shared by threads."""

  def __init__(self, work: Sequence[Cell]) -> None:
    self._left = [cell for cell in work if not cell.is_done]
    # Names of cells. Failures of earlier starts do not count: they are tried
    # again.
    self._failed: set[str] = set()
    self._progress = summaries.Progress(len(self._left), label='cells')
    self._lock = threading.Lock()
    self._running: list[launcher.Process] = []
    self._signal: signal.Signals | None = None
    self._launch = launcher.Launcher({cell.command for cell in self._left})

  def work(self) -> None:
    """Runs cells until none is left."""
    while self._signal is None:
      with self._lock:
        if not self._left:
          return
        claimed = self._claim()
      if claimed is None:
        time.sleep(_POLL_SECONDS)  # others run what is needed first
        continue
      cell, lock = claimed
      try:
        failure = self._run(cell, lock)
      except Exception as error:  # a full disk, too many processes, ...
        failure = f'{type(error).__name__}: {error}'
      finally:
        os.close(lock)
      if self._signal is None:
        with self._lock:
          self._end(cell, failure)

  def close(self) -> None:
    """Ends the progress bar and, after a signal, the program."""
    self._progress.close()
    self._launch.close()
    if self._signal is not None:
      print(
        f'Stopped by {self._signal.name}: the same command goes on from there.',
        file=sys.stderr,
      )
      sys.exit(128 + self._signal)

  @contextlib.contextmanager
  def stopped_by_signals(self) -> Iterator[None]:
    """Lets a signal end the running cells, which save their state."""

    def stop(number: int, unused_frame: Any) -> None:
      self._signal = signal.Signals(number)
      for process in list(self._running):
        process.terminate()

    if threading.current_thread() is not threading.main_thread():
      yield  # only the main thread hears signals
      return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
      yield
    finally:
      for number, handler in before.items():
        signal.signal(number, handler)

  def _claim(self) -> tuple[Cell, int] | None:
    """Takes a cell that can run, with its lock; drops those that never can."""
    for cell in list(self._left):
      if cell.is_done:  # by another process
        self._left.remove(cell)
        self._progress.update()
        continue
      failed = [x for x in cell.after.values() if x.name in self._failed]
      if failed:
        self._left.remove(cell)
        self._end(cell, f'{failed[0].name} failed, which it starts from')
        continue
      if not all(needed.is_done for needed in cell.after.values()):
        continue
      lock = _lock(cell)
      if lock is None:
        continue
      if cell.is_done:  # by another process, a moment ago
        os.close(lock)
        continue
      self._left.remove(cell)
      return cell, lock
    return None

  def _run(self, cell: Cell, lock: int) -> str | None:
    """Runs a cell, and returns why it failed, or None."""
    start = time.monotonic()
    cell.forget_failure()
    log = cell.folder / LOG
    process = self._launch(cell.command, cell.flags(), log, lock)
    self._running.append(process)
    if self._signal is not None:  # it came while the process was started
      process.terminate()
    code = process.wait()
    self._running.remove(process)
    if code == 0:
      cell.succeed(time.monotonic() - start)
      return None
    if code < 0:
      return f'killed by {signal.Signals(-code).name}'
    lines = log.read_text('utf-8', 'replace').strip().splitlines()
    return lines[-1] if lines else f'exit code {code}'

  def _end(self, cell: Cell, failure: str | None) -> None:
    if failure is not None:
      self._failed.add(cell.name)
      with contextlib.suppress(OSError):  # the disk may be full
        cell.fail(failure)
      self._progress.say(f'{cell.name} failed: {failure}')
    self._progress.update()


def _lock(cell: Cell) -> int | None:
  """Locks a cell until this process ends; None if another one has the lock."""
  file = os.open(cell.folder / '.lock', os.O_RDWR | os.O_CREAT)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(file)
    return None
  return file
