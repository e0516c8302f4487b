"""Runs cells as processes, several at a time, each after those it needs."""

import contextlib
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from hypertuning import files
from hypertuning.engine import summaries
from hypertuning.errors import UserError
from hypertuning.sweeping import launcher
from hypertuning.sweeping.cells import LOG, Cell

_POLL_SECONDS = 1.0


def run(work: Sequence[Cell], num_workers: int) -> None:
  """Runs all cells that are not done, and marks them as done or failed.

  Args:
    work: all cells; each can start once the cells that it needs are done.
    num_workers: number of cells that run at the same time.

  Raises:
    SystemExit: SIGTERM or SIGINT came; the running cells have been stopped.
  """
  queue = _Queue(work)
  with queue.stopped_by_signals():
    threads = [
      threading.Thread(target=queue.work, args=(cores,), daemon=True)
      for cores in _shares(num_workers)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      # A join without a time limit would keep Python from handling signals.
      while thread.is_alive():
        thread.join(0.5)
  queue.close()


class _Queue:
  """The cells that are left to run; the worker threads share it."""

  def __init__(self, work: Sequence[Cell]) -> None:
    self._left = [cell for cell in work if not cell.is_done]
    # Names of the cells that failed in this start of the sweep. Those that
    # failed in an earlier start are tried again.
    self._failed: set[str] = set()
    self._progress = summaries.Progress(len(self._left), label='cells')
    self._lock = threading.Lock()
    self._busy = 0  # number of workers that have a cell
    self._running: list[launcher.Process] = []
    self._signal: signal.Signals | None = None
    self._launch = launcher.Launcher({cell.command for cell in self._left})

  def work(self, cores: set[int] | None) -> None:
    """Runs cells until none is left.

    Args:
      cores: cores of a cell that is not alone; None leaves it all.
    """
    while self._signal is None:
      with self._lock:
        if not self._left:
          return
        claimed = self._claim()
        if claimed is not None:
          is_alone = not self._busy and not any(map(_can_start, self._left))
          self._busy += 1
      if claimed is None:
        # The cells that the rest needs are running, here or elsewhere.
        time.sleep(_POLL_SECONDS)
        continue
      cell, lock = claimed
      try:
        failure = self._run_cell(cell, lock, None if is_alone else cores)
      except Exception as error:  # such as a full disk; the thread goes on
        failure = str(error)
        if not isinstance(error, UserError):
          failure = f'{type(error).__name__}: {error}'
      finally:
        os.close(lock)
      with self._lock:
        self._busy -= 1
        if self._signal is None:
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
    """A context in which a signal ends the running cells.

    Trainings save their state before they end.
    """

    def stop(number: int, unused_frame: Any) -> None:
      self._signal = signal.Signals(number)
      for process in list(self._running):
        process.terminate()

    if threading.current_thread() is not threading.main_thread():
      yield  # only the main thread may handle signals
      return
    numbers = (signal.SIGTERM, signal.SIGINT)
    old_handlers = {number: signal.signal(number, stop) for number in numbers}
    try:
      yield
    finally:
      for number, handler in old_handlers.items():
        signal.signal(number, handler)

  def _claim(self) -> tuple[Cell, int] | None:
    """Takes a cell that can run now, and drops those that never can.

    Returns:
      The cell and the descriptor of its lock; None if no cell can run now.
    """
    for cell in list(self._left):
      if cell.is_done:  # another process has run it
        self._left.remove(cell)
        self._progress.update()
        continue
      failed_sources = [
        x for x in cell.after.values() if x.name in self._failed
      ]
      if failed_sources:
        self._left.remove(cell)
        self._end(
          cell, f'{failed_sources[0].name} failed, which it starts from'
        )
        continue
      if not _can_start(cell):
        continue
      lock = _lock(cell)
      if lock is None:
        continue
      if cell.is_done:  # another process ended it before this one had the lock
        os.close(lock)
        continue
      self._left.remove(cell)
      return cell, lock
    return None

  def _run_cell(
    self, cell: Cell, lock: int, cores: set[int] | None
  ) -> str | None:
    """Runs a cell; returns the reason if it failed, else None."""
    start = time.monotonic()
    cell.forget_failure()
    mirror = files.Mirror(cell.folder)
    log = mirror.path / LOG
    log.touch()
    mirror.upload()  # the log marks the cell as started
    process = self._launch(cell.command, cell.flags(), log, lock, cores)
    self._running.append(process)
    if self._signal is not None:  # a signal came while the process was started
      process.terminate()
    code = process.wait()
    self._running.remove(process)
    mirror.upload()
    if code == 0:
      cell.succeed(time.monotonic() - start)
      return None
    if code < 0:
      return f'killed by {signal.Signals(-code).name}'
    lines = log.read_text('utf-8', 'replace').strip().splitlines()
    return lines[-1] if lines else f'exit code {code}'

  def _end(self, cell: Cell, failure: str | None) -> None:
    """Counts a cell that has ended, and records its failure, if any."""
    if failure is not None:
      self._failed.add(cell.name)
      with contextlib.suppress(UserError):  # the disk may be full
        cell.fail(failure)
      self._progress.say(f'{cell.name} failed: {failure}')
    self._progress.update()


def _can_start(cell: Cell) -> bool:
  """Whether all cells that a cell needs are done."""
  return all(source.is_done for source in cell.after.values())


def _shares(num_workers: int) -> list[set[int] | None]:
  """The cores of each worker's cell; None for all.

  Small models lose much of their time where several processes have threads on
  the same cores: of two trainings of the quick start on two cores, each is 1.2
  times as fast on a core of its own.
  """
  choosable = hasattr(os, 'sched_getaffinity')  # on Linux
  cores = sorted(os.sched_getaffinity(0)) if choosable else []
  if not 1 < num_workers <= len(cores):
    return [None] * num_workers
  return [set(cores[n::num_workers]) for n in range(num_workers)]


def _lock(cell: Cell) -> int | None:
  """Locks a cell until this process ends; None if another one has the lock."""
  file = os.open(files.lock_file(cell.folder), os.O_RDWR | os.O_CREAT)
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(file)
    return None
  return file
