"""Finds gin files, and reads the lines of them and of what they include."""

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from hypertuning import old_names, text_files
from hypertuning.errors import UserError

_INCLUDE = re.compile(r"include\s+['\"](.+?)['\"]")


def find(file: str, roots: Sequence[str]) -> pathlib.Path:
  """Path of a gin file.

  Args:
    file: path as the user gives it.
    roots: folders where the file is looked for, after the working directory.

  Raises:
    UserError: there is no such file.
  """
  for root in ('', *roots):
    # No shell expands `~` behind `--gin_file=`.
    path = pathlib.Path(os.path.expanduser(os.path.join(root, file)))
    if path.is_file():
      return path
  if file.startswith(tuple(old_names.FILES)):
    raise UserError(f'--gin_file={file}: {old_names.hint(file)}')
  raise UserError(
    f'{file}: no such gin file, neither in the working directory nor in '
    f'{" or ".join(roots)}.'
  )


def numbered_lines(
  file: str, roots: Sequence[str]
) -> Iterator[tuple[str, str]]:
  """Pairs (`file:line`, the line) of a gin file and of those it includes.

  Args:
    file: path of the file. A file that is not found has no lines.
    roots: folders where files are looked for, after the working directory.
  """
  try:
    path = find(file, roots)
  except UserError:
    return  # the error is reported when the file is parsed
  for place, line in _own_lines(path):
    yield place, line
    if include := _INCLUDE.match(line):
      yield from numbered_lines(include[1], roots)


def _own_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Pairs (`file:line`, the line) of one gin file; none if it is not text."""
  try:
    text = text_files.read_text(path)
  except UserError:
    return  # the error is reported when the file is parsed
  for number, line in enumerate(text.splitlines(), start=1):
    if line.strip() and not line.lstrip().startswith('#'):
      yield f'{path}:{number}', line


def check_includes(
  file: str, roots: Sequence[str], includers: tuple[str, ...] = ()
) -> None:
  """Refuses files that include themselves.

  Args:
    file: path of a file that exists.
    roots: folders where included files are looked for.
    includers: paths of the files that led to this one.

  Raises:
    UserError: names the line that includes one of them.
  """
  for place, line in _own_lines(pathlib.Path(file)):
    included = _INCLUDE.match(line)
    if not included:
      continue
    try:
      path = str(find(included[1], roots).resolve())
    except UserError:
      continue  # gin's own error names the line
    if path in (file, *includers):
      raise UserError(f'{place}: {included[1]} includes itself.')
    check_includes(path, roots, (*includers, file))


def place(macro: str, files: Sequence[str], roots: Sequence[str]) -> str:
  """The `file:line` where a macro is bound; all files if none binds it.

  Args:
    macro: name of the macro.
    files: paths of gin files.
    roots: see `numbered_lines`.
  """
  for file in files:
    for location, line in numbered_lines(file, roots):
      if re.match(rf'{macro}\s*=', line):
        return location
  return ', '.join(files)
