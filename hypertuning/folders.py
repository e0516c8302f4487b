"""New folders of files, which appear with all of their files or not at all."""

import contextlib
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

from safetensors import SafetensorError

from hypertuning import files
from hypertuning.errors import UserError


def new_folder(path: str | os.PathLike, binding: str) -> pathlib.Path:
  """The folder that is to be made; an empty one may be there already.

  Args:
    path: path on a disk, see `files.folder`.
    binding: name of the flag or argument that gives the path.

  Raises:
    UserError: there is a file, or a folder with files; or the path is in a
      bucket.
  """
  place = local(path, binding)
  if place.exists() and not (place.is_dir() and not any(place.iterdir())):
    raise UserError(
      f'{binding} = {os.fspath(path)!r}: is there already; give a new folder.'
    )
  return place


def local(path: str | os.PathLike, binding: str) -> pathlib.Path:
  """A path on a disk.

  Args:
    path: path on a disk, see `files.folder`.
    binding: name of the flag or argument that gives the path.

  Raises:
    UserError: the path is in a bucket.
  """
  place = files.folder(path, binding)
  if files.is_remote(place):
    raise UserError(
      f'{binding} = {os.fspath(path)!r}: is in a bucket; work on a disk, and '
      'copy.'
    )
  return pathlib.Path(place)


@contextlib.contextmanager
def written(
  path: str | os.PathLike, binding: str, room: int = 0
) -> Iterator[pathlib.Path]:
  """A context in which a new folder is written; it is then complete, or absent.

  Args:
    path: the folder that appears at the end of the context, see `new_folder`.
    binding: name of the flag or argument that gives the path.
    room: number of bytes that must be free.

  Yields:
    A temporary folder beside it, which the caller fills.

  Raises:
    UserError: there is such a folder, or it cannot be written; names the
      binding and the reason.
  """
  place = new_folder(path, binding)
  files.check_writable(place, binding, room)
  temporary = place.with_name(f'.{uuid.uuid4().hex}.tmp.{place.name}')
  try:
    temporary.mkdir(parents=True)
    yield temporary
    os.replace(temporary, place)
  except (OSError, SafetensorError) as error:
    raise UserError(
      f'{binding} = {os.fspath(path)!r}: cannot be written '
      f'({files.reason(error)}).'
    ) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
