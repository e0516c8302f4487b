"""Keeps what libraries print and do on their own away from a command's user."""

import contextlib
import importlib.abc
import importlib.machinery
import logging
import os
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Sequence
from typing import NoReturn

from absl import logging as absl_logging

from hypertuning import background
from hypertuning.errors import UserError

_LOUD_MODULE = 'tensorflow'


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


@contextlib.contextmanager
def temporary_files() -> Iterator[None]:
  """A context that removes the temporary files of libraries at its end.

  TensorFlow writes its generated code to files, and removes them when Python
  exits, which a forked process does not do.
  """
  default = tempfile.tempdir
  with tempfile.TemporaryDirectory(prefix='hypertuning_') as folder:
    tempfile.tempdir = folder
    try:
      yield
    finally:
      tempfile.tempdir = default


def end_process(code: int) -> NoReturn:
  """Ends the process, and waits for nothing that other threads do.

  Orbax's threads wait for one another, for many minutes if one of them has
  failed, and Python waits for them. It also waits for a step that is compiled.

  Args:
    code: exit code of the process.
  """
  if any(
    type(thread).__module__.startswith('orbax.')
    or thread.name.startswith(background.NAME)
    for thread in threading.enumerate()
  ):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  sys.exit(code)


def hush_logs() -> None:
  """Silences the logs of libraries, except errors, in this process."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  absl_logging.set_verbosity(absl_logging.ERROR)
  for name in ('orbax', 'jax', 'tensorflow', 'matplotlib'):
    logging.getLogger(name).setLevel(logging.ERROR)
  if not any(isinstance(finder, _HushedFinder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _HushedFinder())


class _HushedFinder(importlib.abc.MetaPathFinder):
  """Hides what TensorFlow prints while it is imported, whoever imports it.

  Its C++ parts print what CPU and GPU they have found as soon as they are
  loaded, before they read TF_CPP_MIN_LOG_LEVEL. An import that fails shows all
  that it has printed.
  """

  def find_spec(
    self,
    fullname: str,
    path: Sequence[str] | None,
    target: types.ModuleType | None = None,
  ) -> importlib.machinery.ModuleSpec | None:
    """Finds the loud module as Python does; no other module."""
    if fullname != _LOUD_MODULE:
      return None
    spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
    if spec and spec.loader:
      load = spec.loader.exec_module

      def load_quietly(module: types.ModuleType) -> None:
        with hidden_stderr():
          load(module)

      spec.loader.exec_module = load_quietly  # type: ignore[method-assign]
    return spec
