"""Keeps what libraries print and do on their own away from a command's user."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import NoReturn

from absl import logging as absl_logging

from hypertuning.errors import UserError


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
  """A context that hides stderr, and shows what it hid only after an error.

  File descriptor 2 itself is redirected, because TensorFlow writes to it from
  C++, before it reads any setting.
  """
  sys.stderr.flush()
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    try:
      yield
    except UserError:
      raise  # its message says everything
    except BaseException:
      sys.stderr.flush()
      file.seek(0)
      os.write(terminal, file.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(terminal, 2)
      os.close(terminal)


@contextlib.contextmanager
def closed_pipes() -> Iterator[None]:
  """A context that ends the process silently once nobody reads its output.

  This happens with `| head`. The exit code is that of a shell after SIGPIPE.
  """
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # Python flushes both streams again at exit, which must not fail.
    null_device = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
      os.dup2(null_device, stream.fileno())
    sys.exit(128 + signal.SIGPIPE)


def end_process(code: int) -> NoReturn:
  """Ends the process, and waits for no save that has failed.

  Orbax's threads wait for one another, for many minutes if one of them has
  failed, and Python waits for them.

  Args:
    code: exit code of the process.
  """
  modules = (type(thread).__module__ for thread in threading.enumerate())
  if any(module.startswith('orbax.') for module in modules):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)


def hush_logs() -> None:
  """Silences the logs of libraries, except errors."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  absl_logging.set_verbosity(absl_logging.ERROR)
  for name in ('orbax', 'jax', 'tensorflow'):
    logging.getLogger(name).setLevel(logging.ERROR)
