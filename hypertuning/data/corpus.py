"""Texts for hyperpretraining: the interpreter's documentation, or a folder.

Every machine has the documentation: the language reference that `help()` shows,
and the docstrings of the standard library. The latter are read from the source
files, whose modules are not imported.
"""

import ast
import functools
import hashlib
import pathlib
import sysconfig
import warnings
from collections.abc import Iterator
from pydoc_data import topics

from hypertuning.errors import UserError

SPLITS = ('train', 'validation')
_EXCLUDED_FOLDERS = {
  *('test', 'tests', 'idlelib', 'lib2to3', 'turtledemo', 'ensurepip'),
  *('site-packages', 'dist-packages', 'encodings', '__pycache__'),
}
_SHORTEST = 100  # number of characters; shorter docstrings say little
_VALIDATION_SHARE = 0.05


@functools.cache
def python_documentation(split: str) -> tuple[str, ...]:
  """The texts of the running interpreter's documentation.

  Args:
    split: name of the split: `train`, or `validation`, which has about 5% of
      the texts. A hash of a text's name decides which split it belongs to.

  Returns:
    The texts of the split, always in the same order.
  """
  return tuple(
    text for name, text in _all_documentation() if split_of(name) == split
  )


def text_files(
  folder: str, split: str, pattern: str = '**/*.txt'
) -> list[pathlib.Path]:
  """Finds the text files of one split in a folder, and checks them.

  Args:
    folder: path of the folder.
    split: name of the split: `train`, or `validation`, which has about 5% of
      the files and at least one. A hash of a file's name decides which split it
      belongs to.
    pattern: glob that the files match, relative to the folder.

  Returns:
    Sorted paths of the files.

  Raises:
    UserError: the folder does not exist or holds fewer than two texts, or a
      file is not UTF-8.
  """
  root = pathlib.Path(folder).expanduser()
  if not root.is_dir():
    raise UserError(f'{folder}: no such folder of text files.')
  files = [path for path in sorted(root.glob(pattern)) if path.is_file()]
  texts = [path for path in files if _has_text(path)]
  if len(texts) < len(SPLITS):
    raise UserError(
      f'{folder}: {len(texts) or "no"} text there ({len(files)} files match '
      f'{pattern!r}); training and validation need a file each.'
    )
  names = {path: path.relative_to(root).as_posix() for path in texts}
  held_out = [path for path in texts if split_of(names[path]) == 'validation']
  if not held_out or len(held_out) == len(texts):
    # If there are few files, the hash may put all of them in one split.
    held_out = [min(texts, key=lambda path: _digest(names[path]))]
  return [
    path for path in texts if (path in held_out) == (split == 'validation')
  ]


def split_of(name: str) -> str:
  """The split that a text belongs to, which a hash of its name decides."""
  held_out = _digest(name)[0] < 256 * _VALIDATION_SHARE
  return 'validation' if held_out else 'train'


def _digest(name: str) -> bytes:
  return hashlib.sha256(name.encode()).digest()


@functools.cache
def _all_documentation() -> tuple[tuple[str, str], ...]:
  """Pairs of name and text; a text that several objects share occurs once."""
  texts = {text: f'topic {k}' for k, text in sorted(topics.topics.items())}
  stdlib = pathlib.Path(sysconfig.get_path('stdlib'))
  for path in sorted(stdlib.rglob('*.py')):
    relative = path.relative_to(stdlib)
    if not _EXCLUDED_FOLDERS.intersection(relative.parts):
      for name, text in _docstrings(path):
        texts.setdefault(text, f'{relative.as_posix()} {name}')
  return tuple((name, text) for text, name in texts.items())


def _docstrings(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # invalid escapes in other people's code
      tree = ast.parse(path.read_bytes())
  except (SyntaxError, ValueError):
    return  # a template, not a module
  kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
  for node in ast.walk(tree):
    if isinstance(node, kinds):
      text = ast.get_docstring(node)
      if text and len(text) >= _SHORTEST:
        yield getattr(node, 'name', ''), text


def _has_text(path: pathlib.Path) -> bool:
  # TensorFlow reads the file later, and can only read plain UTF-8.
  try:
    return bool(path.read_text(encoding='utf-8').removeprefix('\ufeff').strip())
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path}: not UTF-8 at byte {error.start}; convert the file or narrow '
      'the pattern.'
    ) from error
  except OSError as error:
    raise UserError(f'{path}: cannot be read ({error}).') from error
