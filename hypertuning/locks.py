"""Locks that keep two commands from writing into one folder at once."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from hypertuning import files
from hypertuning.errors import UserError

# The scheduler of a sweep holds another lock on a cell's folder while the
# command of the cell takes this one.
_NAME = '.writer.lock'


def check_free(folder: str, binding: str) -> None:
  """Refuses a folder that another command writes into now; makes nothing.

  Args:
    folder: path of the folder.
    binding: name of the gin binding that gives the folder.

  Raises:
    UserError: another command is writing into the folder.
  """
  if files.lock_file(folder, _NAME).exists():
    with folder_lock(folder, binding):
      pass


@contextlib.contextmanager
def folder_lock(
  folder: str, binding: str, wait: bool = False
) -> Iterator[None]:
  """A context in which no other command writes into a folder.

  The system frees the lock when the process ends, so that a killed command
  leaves no lock behind. The lock of a folder in a bucket only keeps out other
  commands of this machine.

  Args:
    folder: path of the folder; on a disk, it is made if it is missing.
    binding: name of the gin binding that gives the folder.
    wait: whether to wait until the other command has written its files; if not,
      a folder that is in use is an error.

  Raises:
    UserError: another command is writing into the folder.
  """
  path = files.lock_file(folder, _NAME)
  path.parent.mkdir(parents=True, exist_ok=True)
  file = os.open(path, os.O_RDWR | os.O_CREAT)
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
      raise UserError(
        f'{binding} = {folder!r}: another command is writing there; wait until '
        'it has ended, or give another folder.'
      ) from error
    yield
  finally:
    os.close(file)
