"""Folders of runs, and the files in them, on a disk or in a bucket.

Every folder that a user names goes through `folder`, so that all parts of a run
are in the same one. Files are written through `whole`: they appear whole or not
at all.
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


def folder(path: str | os.PathLike, binding: str = '') -> epath.Path:
  """The folder that a user means by a path.

  Args:
    path: a path on a disk, where `~` is the user's home and a relative path
      starts at the working directory, or the address of a bucket, such as
      `gs://bucket/run`.
    binding: name that the user bound the path to, for error messages.

  Returns:
    An absolute path, or the address as it was.

  Raises:
    UserError: the path is empty, or the address of a kind of place that is not
      known.
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
  # The library asks for the owner's name, which not every machine knows.
  return path.stat().length if is_remote(path) else os.stat(path).st_size


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is the address of a bucket."""
  return '://' in os.fspath(path)


def check_writable(
  path: str | os.PathLike, binding: str, room: int = 0
) -> epath.Path:
  """Makes sure that a folder can be written, before the work that fills it.

  Nothing is left behind: a folder that does not exist is not made, and the file
  that is written to see whether it can be is removed.

  Args:
    path: see `folder`.
    binding: name that the user bound the path to.
    room: number of bytes that a disk must have left.

  Returns:
    The result of `folder`.

  Raises:
    UserError: names the binding, and why the folder cannot be written.
  """
  place = folder(path, binding)
  name = f'{binding} = {os.fspath(path)!r}'
  try:
    nearest = place if is_remote(place) else _nearest(pathlib.Path(place))
    probe = epath.Path(nearest) / f'.probe_{uuid.uuid4().hex}'
    try:
      probe.write_bytes(b'0' * _PROBE_BYTES)
    finally:
      with contextlib.suppress(Exception):
        probe.unlink()
  except Exception as error:  # the library of each kind of bucket has its own
    raise UserError(f'{name}: cannot be written ({reason(error)}).') from error
  if room and not is_remote(place):
    free = shutil.disk_usage(nearest).free
    if free < room:
      raise UserError(
        f'{name}: the disk has {free / 1e6:,.1f} MB left, but the run needs '
        f'{room / 1e6:,.1f} MB there.'
      )
  return place


def check_file(path: str | os.PathLike, binding: str) -> epath.Path:
  """Makes sure that a file can be written, see `check_writable`.

  Raises:
    UserError: names the binding, and why the file cannot be written.
  """
  place = folder(path, binding)
  if place.is_dir():
    raise UserError(f'{binding} = {os.fspath(path)!r}: is a folder, no file.')
  if is_remote(place) or not os.path.exists(place):
    check_writable(place.parent, binding)
  elif not os.access(place, os.W_OK):  # it may be a pipe
    raise UserError(f'{binding} = {os.fspath(path)!r}: cannot be written.')
  return place


def _nearest(place: pathlib.Path) -> pathlib.Path:
  """The folder itself, or the nearest one above it that exists.

  Raises:
    OSError: a file is in the way, or the path cannot be followed.
  """
  for path in (place, *place.parents):
    try:
      os.lstat(path)
    except FileNotFoundError:
      continue
    if not path.is_dir():
      raise NotADirectoryError(None, f'{path} is no folder')
    return path
  return pathlib.Path('/')


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A context in which a file is written that appears whole or not at all.

  Args:
    path: the file; its folder is made if it is missing.

  Yields:
    Path of a temporary file on this disk, to be written in the context. It
    takes the place of `path` at the end; after an error it is removed.

  Raises:
    UserError: the file cannot be written.
  """
  file = epath.Path(path)
  with _writing(file), contextlib.ExitStack() as stack:
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
  """Writes a text file; readers never see a part of it.

  Args:
    path: folder of the file, see `folder`; it is made if it is missing.
    name: name of the file.
    text: content of the file.

  Raises:
    UserError: the file cannot be written.
  """
  with whole(folder(path) / name) as temporary:
    temporary.write_text(text, encoding='utf-8')


def remove(path: str | os.PathLike, name: str) -> None:
  """Removes a file, before those that it stands for are written anew.

  A command writes the file that readers look for last. Its earlier one goes
  first, so that a command that is killed leaves no mixture of two.

  Args:
    path: folder of the file, see `folder`.
    name: name of the file, which may be missing.

  Raises:
    UserError: the file cannot be removed.
  """
  file = folder(path) / name
  with _writing(file):
    if file.exists():
      file.unlink()


@contextlib.contextmanager
def on_disk(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """A context with a file's path on this disk, for libraries that read disks.

  Args:
    path: the file.

  Yields:
    The path itself, or that of a copy of a file in a bucket.

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
  """A folder on this disk for files that grow, which a bucket cannot hold.

  Attributes:
    path: the folder itself if it is on this disk, else a temporary one, whose
      files `upload` copies into the bucket.
  """

  def __init__(self, path: str | os.PathLike) -> None:
    """Makes the folder.

    Raises:
      UserError: the folder cannot be made.
    """
    self._place = folder(path)
    if is_remote(self._place):
      self._scratch = tempfile.TemporaryDirectory()
      self.path = pathlib.Path(self._scratch.name)
    else:
      self.path = pathlib.Path(self._place)
      with _writing(self._place):
        self.path.mkdir(parents=True, exist_ok=True)
    self._sizes: dict[str, int] = {}

  def download(self, name: str) -> None:
    """Copies a file of the bucket, if it has one of this name."""
    file = self._place / name
    if is_remote(file) and file.exists():
      (self.path / name).write_bytes(file.read_bytes())

  def upload(self) -> None:
    """Copies the files that have grown since the last call."""
    if not is_remote(self._place):
      return
    for file in self.path.iterdir():
      size = file.stat().st_size
      if self._sizes.get(file.name) != size:
        with _writing(self._place / file.name):
          (self._place / file.name).write_bytes(file.read_bytes())
        self._sizes[file.name] = size


def lock_file(path: str | os.PathLike, name: str = '.lock') -> pathlib.Path:
  """The file whose lock guards a folder.

  A bucket has no locks. The lock of a folder there is on this disk, and keeps
  other commands of this machine out, but not those of other machines.

  Args:
    path: see `folder`.
    name: name of the file in a folder on a disk; a folder has one lock per
      name.
  """
  place = folder(path)
  if not is_remote(place):
    return pathlib.Path(place, name)
  digest = hashlib.sha256(f'{place}/{name}'.encode()).hexdigest()[:32]
  locks = pathlib.Path(tempfile.gettempdir(), f'hypertuning-{os.getuid()}')
  locks.mkdir(exist_ok=True)
  return locks / f'{digest}.lock'


@contextlib.contextmanager
def _writing(path: epath.Path) -> Iterator[None]:
  """Turns an error into one line that names the file."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # the library of each kind of bucket has its own
    if not isinstance(error, OSError) and not is_remote(path):
      raise
    raise UserError(f'{path}: cannot be written ({reason(error)}).') from error


def reason(error: Exception) -> str:
  """Why a file cannot be written, in a few words."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = ' '.join(str(error).split())
  # TensorStore puts the disk's own reason at the end of a long text.
  for number in _DISK_ERRORS:
    if os.strerror(number) in text:
      return os.strerror(number)
  return text[:200] or type(error).__name__
