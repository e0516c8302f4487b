"""Folders of runs, and the files in them, on a disk or in a bucket.

Every folder that a user names goes through `folder`, so that all parts of a run
use the same one. Files are written through `atomic_file`, so that a file is
complete or absent, even if its command is killed.
"""

import contextlib
import errno
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from etils import epath

from hypertuning.errors import UserError

_SCHEMES = ('gs', 's3', 'az')
_DISK_ERRORS = (
  *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO),
)
_PROBE_BYTES = 4096  # a full disk still makes empty files
# Asked now: a process may later have a folder of its own for temporary files.
_LOCKS = pathlib.Path(tempfile.gettempdir(), f'hypertuning-{os.getuid()}')


def folder(path: str | os.PathLike, binding: str = '') -> epath.Path:
  """The folder that a user means by a path.

  Args:
    path: a path on a disk, where `~` is the user's home and a relative path
      starts at the working directory, or the address of a bucket, such as
      `gs://bucket/run`.
    binding: name of the gin binding or flag that gives the path, for error
      messages.

  Returns:
    An absolute path, or the unchanged address of a bucket.

  Raises:
    UserError: the path is empty, or an address of an unknown kind.
  """
  text = os.fspath(path)
  name = f'{binding} = {text!r}' if binding else text
  scheme = re.match(r'(\w+):(/+)', text)
  if scheme and (scheme[1] not in _SCHEMES or scheme[2] != '//'):
    raise UserError(
      f'{name}: give a folder of a disk, or an address that begins with '
      f'{", ".join(f"{x}://" for x in _SCHEMES)}.'
    )
  if scheme:
    return epath.Path(text)
  if not text:
    raise UserError(f'{name}: is empty; give a folder.')
  # os.path leaves `~name` as it is where there is no such user.
  return epath.Path(os.path.abspath(os.path.expanduser(text)))


def size(path: epath.Path) -> int:
  """The number of bytes of a file."""
  # epath's `stat` looks up the name of the file's owner, which may be unknown.
  return path.stat().length if is_remote(path) else os.stat(path).st_size


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is the address of a bucket."""
  return '://' in os.fspath(path)


def check_writable(
  path: str | os.PathLike, binding: str, room: int = 0
) -> epath.Path:
  """Makes sure that a folder can be written, before the work that fills it.

  A test file is written and removed again. A missing folder is not made: the
  file is written to the nearest folder above it.

  Args:
    path: path of the folder, see `folder`.
    binding: name of the gin binding or flag that gives the path.
    room: number of bytes that must be free, if the folder is on a disk.

  Returns:
    The path as `folder` returns it.

  Raises:
    UserError: the folder cannot be written, or the disk has too little room;
      the message names the binding and the reason.
  """
  place = folder(path, binding)
  name = f'{binding} = {os.fspath(path)!r}'
  try:
    parent = place if is_remote(place) else _existing_folder(place)
    probe = epath.Path(parent) / f'.probe_{uuid.uuid4().hex}'
    try:
      probe.write_bytes(b'0' * _PROBE_BYTES)
    finally:
      with contextlib.suppress(Exception):
        probe.unlink()
  except Exception as error:  # the library of each kind of bucket has its own
    raise UserError(f'{name}: cannot be written ({reason(error)}).') from error
  if room and not is_remote(place):
    free = shutil.disk_usage(parent).free
    if free < room:
      raise UserError(
        f'{name}: the disk has {free / 1e6:,.1f} MB left, but the run needs '
        f'{room / 1e6:,.1f} MB there.'
      )
  return place


def check_file(path: str | os.PathLike, binding: str) -> epath.Path:
  """Makes sure that a file can be written, see `check_writable`.

  Args:
    path: path of the file.
    binding: name of the gin binding or flag that gives the path.

  Returns:
    The path as `folder` returns it.

  Raises:
    UserError: names the binding, and why the file cannot be written.
  """
  place = folder(path, binding)
  if place.is_dir():
    raise UserError(
      f'{binding} = {os.fspath(path)!r}: is a folder, not a file.'
    )
  if is_remote(place) or not os.path.exists(place):
    check_writable(place.parent, binding)
  elif not os.access(place, os.W_OK):  # it may be a pipe
    raise UserError(f'{binding} = {os.fspath(path)!r}: cannot be written.')
  return place


def _existing_folder(place: epath.Path) -> pathlib.Path:
  """A folder of a disk, or the nearest folder above it that exists.

  Raises:
    OSError: a file is in the way, or the path cannot be followed.
  """
  folder = pathlib.Path(place)
  for path in (folder, *folder.parents):
    try:
      os.lstat(path)
    except FileNotFoundError:
      continue
    if not path.is_dir():
      raise NotADirectoryError(None, f'{path} is not a folder')
    return path
  return pathlib.Path('/')


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A context in which a file is written; it is then complete, or unchanged.

  Args:
    path: path of the file; its folder is made if it is missing.

  Yields:
    Path of a temporary file on this disk, which the caller writes. At the end
    of the context it replaces `path`; after an error it is removed.

  Raises:
    UserError: the file cannot be written.
  """
  file = epath.Path(path)
  with _write_errors(file), contextlib.ExitStack() as stack:
    if is_remote(file):
      scratch = stack.enter_context(tempfile.TemporaryDirectory())
      temporary = pathlib.Path(scratch, file.name)
      yield temporary
      file.parent.mkdir(parents=True, exist_ok=True)
      file.write_bytes(temporary.read_bytes())
      return
    file.parent.mkdir(parents=True, exist_ok=True)
    name = f'.{os.getpid()}.tmp.{file.name}'
    temporary = pathlib.Path(file).with_name(name)
    stack.callback(temporary.unlink, missing_ok=True)
    yield temporary
    os.replace(temporary, file)


def write_text(path: str | os.PathLike, name: str, text: str) -> None:
  """Writes a text file; readers never see only a part of it.

  Args:
    path: path of the file's folder, see `folder`; it is made if it is missing.
    name: name of the file.
    text: content of the file.

  Raises:
    UserError: the file cannot be written.
  """
  with atomic_file(folder(path) / name) as temporary:
    temporary.write_text(text, encoding='utf-8')


def remove(path: str | os.PathLike, name: str) -> None:
  """Removes a file, if it exists.

  A command first removes the earlier version of the file that readers look for,
  and writes the new one last. If the command is killed in between, no reader
  takes a mixture of old and new files for results.

  Args:
    path: path of the file's folder, see `folder`.
    name: name of the file.

  Raises:
    UserError: the file cannot be removed.
  """
  file = folder(path) / name
  with _write_errors(file):
    if file.exists():
      file.unlink()


@contextlib.contextmanager
def local_copy(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A context with a file on this disk, for libraries that only read disks.

  Args:
    path: path of the file.

  Yields:
    The path itself, or the path of a temporary copy of a file in a bucket.

  Raises:
    OSError: the file cannot be read.
  """
  if not is_remote(path):
    yield pathlib.Path(path)
    return
  with tempfile.TemporaryDirectory() as scratch:
    copy = pathlib.Path(scratch, epath.Path(path).name)
    try:
      copy.write_bytes(epath.Path(path).read_bytes())
    except OSError:
      raise
    except Exception as error:  # the library of each kind of bucket has its own
      raise OSError(reason(error)) from error
    yield copy


class Mirror:
  """A folder on this disk for files that grow, which buckets do not support.

  Attributes:
    path: path of the folder itself if it is on this disk; otherwise of a
      temporary folder, whose files `upload` copies into the bucket.
  """

  def __init__(self, path: str | os.PathLike) -> None:
    """Makes the folder.

    Args:
      path: path of the folder, see `folder`.

    Raises:
      UserError: the folder cannot be made.
    """
    self._place = folder(path)
    if is_remote(self._place):
      self._scratch = tempfile.TemporaryDirectory()
      self.path = pathlib.Path(self._scratch.name)
    else:
      self.path = pathlib.Path(self._place)
      with _write_errors(self._place):
        self.path.mkdir(parents=True, exist_ok=True)
    self._sizes: dict[str, int] = {}

  def download(self, name: str) -> None:
    """Copies a file out of the bucket, if the bucket has it."""
    file = self._place / name
    if is_remote(file) and file.exists():
      (self.path / name).write_bytes(file.read_bytes())

  def upload(self) -> None:
    """Copies the files that have grown since the last call into the bucket.

    Raises:
      UserError: a file cannot be written.
    """
    if not is_remote(self._place):
      return
    for file in self.path.iterdir():
      size = file.stat().st_size
      if self._sizes.get(file.name) != size:
        with _write_errors(self._place / file.name):
          (self._place / file.name).write_bytes(file.read_bytes())
        self._sizes[file.name] = size


def lock_file(path: str | os.PathLike, name: str = '.lock') -> pathlib.Path:
  """The path of the file whose lock guards a folder.

  A bucket has no locks. The lock file of a folder in a bucket is on this disk:
  it keeps out other commands of this machine, but not those of other machines.

  Args:
    path: path of the folder, see `folder`.
    name: name of the lock; a folder has one lock per name.
  """
  place = folder(path)
  if not is_remote(place):
    return pathlib.Path(place, name)
  digest = hashlib.sha256(f'{place}/{name}'.encode()).hexdigest()[:32]
  _LOCKS.mkdir(exist_ok=True)
  return _LOCKS / f'{digest}.lock'


@contextlib.contextmanager
def _write_errors(path: epath.Path) -> Iterator[None]:
  """Turns an error in writing a file into one line that names the file."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # the library of each kind of bucket has its own
    if not isinstance(error, OSError) and not is_remote(path):
      raise
    raise UserError(f'{path}: cannot be written ({reason(error)}).') from error


def reason(error: Exception) -> str:
  """The reason why a file cannot be written, in a few words."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = ' '.join(str(error).split())
  # TensorStore puts the disk's own reason at the end of a long text.
  for number in _DISK_ERRORS:
    if os.strerror(number) in text:
      return os.strerror(number)
  return text[:200] or type(error).__name__
