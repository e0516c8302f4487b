"""Text files that appear whole or not at all."""

import os
import pathlib


def write_text(folder: str, name: str, text: str) -> None:
  """Writes a text file; readers never see a part of it.

  Args:
    folder: folder of the file; it is made if it is missing.
    name: name of the file.
    text: content of the file.
  """
  path = pathlib.Path(folder, name)
  path.parent.mkdir(parents=True, exist_ok=True)
  replace_text(path, text)


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a temporary file and renames it, which happens all at once."""
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)
