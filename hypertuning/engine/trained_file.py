"""The trained part of a model in one safetensors file, without its base.

The file holds the trained variables by name, such as `hypermodel/gists`. Its
metadata has what a checkpoint without frozen variables has in their place (see
`frozen_parts`): the name of the base, and a SHA-256 digest of each frozen
variable; and the gin file that builds the model. A file is read like a
checkpoint; MOVED_CHECKPOINTS says in which folder the base is. Reading a file
never executes code in it.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from hypertuning import files, text_files, trees
from hypertuning.engine.frozen_parts import FrozenPart, Place
from hypertuning.errors import UserError, one_line

SUFFIX = '.safetensors'
_FORMAT = 'hypertuning.trained.v1'


@dataclasses.dataclass(frozen=True)
class Built:
  """How the model of a trained part is built.

  Attributes:
    gin: text of the `model.gin` of the run; '' if it was built without gin.
    lengths: TASK_FEATURE_LENGTHS of the run; None if it recorded none.
  """

  gin: str
  lengths: Mapping[str, Any] | None


def save(
  path: pathlib.Path,
  trained: Mapping[str, Any],
  part: FrozenPart,
  base: str,
  built: Built,
) -> int:
  """Writes a file, with floating numbers in bfloat16.

  Args:
    path: path of the file.
    trained: the trained variables, a tree of arrays.
    part: what stands for the frozen variables; a teacher is left out.
    base: name of the base, which takes the place of its path.
    built: how the model is built.

  Returns:
    The number of bytes.

  Raises:
    UserError: the file cannot be written.
  """
  arrays = {
    name: np.ascontiguousarray(_rounded(np.asarray(value)))
    for name, value in trees.flatten_paths(trained).items()
  }
  contents = FrozenPart(
    Place(base),
    None,
    part.rules,
    {k: v for k, v in part.variables.items() if not k.startswith('teacher/')},
  ).to_json()
  data = safetensors.numpy.save(
    arrays,
    {
      'format': _FORMAT,
      'frozen': json.dumps(contents),
      'model': built.gin,
      'lengths': json.dumps(built.lengths),
    },
  )
  try:
    with files.atomic_file(epath.Path(path)) as temporary:
      epath.Path(temporary).write_bytes(data)
  except OSError as error:
    raise UserError(
      f'{path}: cannot be written ({files.reason(error)}).'
    ) from error
  return len(data)


def read(path: str, binding: str) -> tuple[dict[str, Any], FrozenPart]:
  """Reads a file.

  Args:
    path: path of the file.
    binding: name of the binding that gives the path, for error messages.

  Returns:
    The trained variables, a tree of numpy arrays, and what stands for the
    frozen ones.

  Raises:
    UserError: there is no such file, it is damaged, or something else.
  """
  with _opened(path, binding) as (file, metadata):
    arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
  return trees.unflatten_paths(arrays), _frozen(path, binding, metadata)


def read_header(path: str, binding: str) -> tuple[FrozenPart, Built]:
  """Reads what a file says about its base and its model.

  Args:
    path: path of the file.
    binding: name of the binding that gives the path, for error messages.

  Raises:
    UserError: see `read`; or the file does not say how its model is built, as
      an earlier version wrote it, or its run was not configured by gin.
  """
  with _opened(path, binding) as (_, metadata):
    pass
  if not metadata.get('model'):
    raise UserError(
      f'{binding} = {path!r}: does not say how its model is built; write it '
      'again with hypertuning.convert --trained, from a run that has a '
      'model.gin.'
    )
  lengths = text_files.parse_json(metadata.get('lengths', 'null'))
  return _frozen(path, binding, metadata), Built(metadata['model'], lengths)


@contextlib.contextmanager
def _opened(path: str, binding: str) -> Iterator[tuple[Any, Mapping[str, str]]]:
  """A context with an open file, and the texts of its header."""
  name = f'{binding} = {path!r}'
  if not epath.Path(path).is_file():
    raise UserError(f'{name}: there is no such file.')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
      if metadata.get('format') != _FORMAT:
        raise UserError(
          f'{name}: holds no trained part of a model; `python -m '
          'hypertuning.convert --trained` writes one. Adapters and the weights '
          'of public models are read elsewhere.'
        )
      yield file, metadata
  except (safetensors.SafetensorError, OSError) as error:
    raise UserError(
      f'{name}: not a safetensors file, or a damaged one ({one_line(error)}).'
    ) from error


def _frozen(path: str, binding: str, metadata: Mapping[str, str]) -> FrozenPart:
  try:
    return FrozenPart.from_json(text_files.parse_json(metadata['frozen']))
  except (KeyError, TypeError, text_files.MalformedError) as error:
    raise UserError(
      f'{binding} = {path!r}: is damaged; it names no base.'
    ) from error


def _rounded(value: np.ndarray) -> np.ndarray:
  is_number = jnp.issubdtype(value.dtype, jnp.floating)
  return value.astype(jnp.bfloat16) if is_number else value
