"""Keeps the start-up lines of libraries off the terminal."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator

from absl import logging as absl_logging

from hypertuning.errors import UserError


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
  """Sends file descriptor 2 to a file, which is shown only after an error.

  TensorFlow writes there from C++ before any of its settings is read.
  """
  sys.stderr.flush()
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    try:
      yield
    except UserError:
      raise  # it says all
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
  """Ends the process without a word where nobody reads what it prints.

  That is so behind `| head`. The exit code is that of a shell after SIGPIPE.
  """
  try:
    try:
      yield
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # Python flushes both once more when it ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
      os.dup2(nowhere, stream.fileno())
    sys.exit(128 + signal.SIGPIPE)


def hush_logs() -> None:
  """Leaves the terminal to our own lines."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  absl_logging.set_verbosity(absl_logging.ERROR)
  for name in ('orbax', 'jax', 'tensorflow'):
    logging.getLogger(name).setLevel(logging.ERROR)
