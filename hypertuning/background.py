"""Work beside that of the main thread."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TypeVar

NAME = 'background'  # first letters of the names of threads
_T = TypeVar('_T')


def in_thread(function: Callable[[], _T]) -> Callable[[], _T]:
  """Starts a function in a thread of its own.

  Args:
    function: function without arguments.

  Returns:
    A function that waits for the end of `function`, and returns its result or
    raises its error.
  """
  pool = concurrent.futures.ThreadPoolExecutor(1, NAME)
  future = pool.submit(function)
  pool.shutdown(wait=False)
  return future.result


def end_with_parent(number: signal.Signals, seconds: float = 0.0) -> None:
  """Sends this process a signal once the process that started it has ended.

  Args:
    number: the signal.
    seconds: seconds in which this process may end by itself.
  """

  def watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    time.sleep(seconds)
    os.kill(os.getpid(), number)

  threading.Thread(target=watch, daemon=True).start()
