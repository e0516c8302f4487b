"""What Ctrl-C does in a command, while its modules are imported and later."""

import os
import signal
import sys
import threading
import types
from typing import Any

_SECONDS = 0.05  # before an interrupt that got lost comes again


def end_at_once() -> None:
  """Lets an interrupt end the process at once, until `allow` is called.

  A command imports libraries for seconds before it has written anything. Some
  of them lose the exception that an interrupt raises, or raise another one.
  Where interrupts are ignored, as behind `nohup`, they are ignored still.
  """
  if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)


def allow() -> None:
  """Lets an interrupt raise `KeyboardInterrupt`, also after `end_at_once`.

  Python ignores exceptions in callbacks of garbage collection, such as jax's:
  an interrupt that comes there comes again a moment later.
  """
  if signal.getsignal(signal.SIGINT) is _end:
    signal.signal(signal.SIGINT, signal.default_int_handler)
  if sys.unraisablehook is sys.__unraisablehook__:
    sys.unraisablehook = _repeat


def is_interrupt(error: BaseException | None) -> bool:
  """Whether an error comes from an interrupt that a library has caught."""
  while error is not None:
    if isinstance(error, KeyboardInterrupt):
      return True
    error = error.__cause__ or error.__context__
  return False


def _end(unused_number: int, unused_frame: types.FrameType | None) -> None:
  os._exit(128 + signal.SIGINT)


def _repeat(ignored: Any) -> None:
  if issubclass(ignored.exc_type, KeyboardInterrupt):
    # To the main thread itself: it may wait for something.
    main = threading.main_thread().ident
    timer = threading.Timer(
      _SECONDS, signal.pthread_kill, (main, signal.SIGINT)
    )
    timer.daemon = True
    timer.start()
  else:
    sys.__unraisablehook__(ignored)
