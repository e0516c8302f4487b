"""A checkpoint of ours, as a source of arrays under Hugging Face's names."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from hypertuning import trees
from hypertuning.conversion import families, origins, sources
from hypertuning.conversion.family import Variable
from hypertuning.conversion.origins import Origin
from hypertuning.conversion.sources import Rows, Stored
from hypertuning.conversion.token_rows import TokenRows
from hypertuning.engine import checkpoint_folders, t5x_format
from hypertuning.errors import UserError


class CheckpointSource:
  """A `sources.Source` of a checkpoint of ours.

  Attributes:
    path: folder of a run, or of one of its checkpoints.
    origin: the model's configuration and vocabulary.
    size: number of bytes of all arrays.
  """

  def __init__(
    self, path: pathlib.Path, binding: str, origin: Origin | None = None
  ) -> None:
    """Finds the arrays.

    Args:
      path: see the class.
      binding: flag that gives the path, for error messages.
      origin: see the class; by default that of `path` or the folder above it.

    Raises:
      UserError: there is no checkpoint, or it has other variables.
    """
    if origin is None:
      like = origins.find(path)
      if like is None:
        raise origins.missing(path, binding)
      origin = origins.from_folder(like)
    self.path, self.origin = path, origin
    self.place, self.fields = origin.place, origin.fields
    family = families.find(self.fields)
    config = family.config(self.fields)
    folder = checkpoint_folders.find(str(path), binding)
    variables = family.variables(config)
    self._tokens = origin.vocabulary.rows(config.vocab_size)
    ours = [variable.with_rows(self._tokens) for variable in variables]
    if t5x_format.is_checkpoint(folder):
      found = _converted(folder, ours)
    else:
      found = _trained(folder, binding, ours)
    self._found = {x.name: (x, found[x.path]) for x in variables}
    self.arrays: Mapping[str, Stored] = {
      x.name: Stored(x.their_shape, _dtype(found[x.path])) for x in variables
    }
    self.size = sum(stored.size for stored in self.arrays.values())

  @contextlib.contextmanager
  def open(self, name: str) -> Iterator[Rows]:
    """A context in which an array can be read."""
    variable, array = self._found[name]
    rows: Rows = _Rows(array, variable.is_transposed)
    if variable.per_token:
      rows = TokenRows(rows, self._tokens, self.swapped_ids)
    yield rows

  def vocabulary_files(self) -> Mapping[str, bytes]:
    """The content of the files of the vocabulary, by name."""
    return self.origin.files

  @property
  def swapped_ids(self) -> tuple[int, int] | None:
    """Two ids that have changed places, see `TokenizerJson.swapped_ids`."""
    return self.origin.vocabulary.swapped


def _dtype(array: Any) -> np.dtype:
  dtype = array.dtype
  return np.dtype(getattr(dtype, 'numpy_dtype', dtype))  # TensorStore's own


def _converted(folder: epath.Path, ours: list[Variable]) -> dict[str, Any]:
  """The arrays of a checkpoint that `convert` wrote; they are not read yet."""
  arrays = t5x_format.open_target(folder)
  shapes = {x.path: x.shape for x in ours}
  found = {name: tuple(array.shape) for name, array in arrays.items()}
  for name in sorted(shapes.keys() | found.keys()):
    if shapes.get(name) != found.get(name):
      raise UserError(
        f'{folder}: {name} is {found.get(name, "missing")}, but by '
        f'{sources.CONFIG_FILE} it is {shapes.get(name, "missing")}.'
      )
  return arrays


def _trained(
  folder: epath.Path, binding: str, ours: list[Variable]
) -> dict[str, Any]:
  """The arrays of the downstream model in a checkpoint of a run."""
  from hypertuning.engine import checkpoints  # loads Orbax, for these alone

  target = trees.unflatten_paths(
    {x.path: jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in ours}
  )
  filled = checkpoints.fill(
    target, str(folder), binding, (('(.*)', r'downstream/\1'), ('(.*)', r'\1'))
  )
  return trees.flatten_paths(filled)


class _Rows:
  """An array of ours by the rows of Hugging Face's."""

  def __init__(self, array: Any, is_transposed: bool) -> None:
    self._array, self._is_transposed = array, is_transposed

  def __getitem__(self, rows: slice) -> np.ndarray:
    if self._is_transposed:
      return np.asarray(self._array[:, rows]).T
    return np.asarray(self._array[rows])
