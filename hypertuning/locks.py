"""Locks that keep two commands from writing into one folder at once."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from hypertuning import files
from hypertuning.errors import UserError

# Not the lock of a sweep's cell, which its scheduler holds while the command
# runs that this lock is for.
_NAME = '.writer.lock'


@contextlib.contextmanager
def writing(folder: str, binding: str, wait: bool = False) -> Iterator[None]:
  """A context in which no other command writes into a folder.

  The system frees the lock when the process ends, however it ends: a command
  that was killed leaves no lock behind. The lock of a bucket keeps out other
  commands of this machine only.

  Args:
    folder: the folder; it is made if it is missing.
    binding: name that the user bound the folder to.
    wait: whether to wait until the other command has written its files. If not,
      a folder that is in use is an error.

  Raises:
    UserError: another command writes into the folder.
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
