"""Writes a checkpoint one block of rows at a time."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from hypertuning import files
from hypertuning.conversion.pairing import Pair, rows_per_block
from hypertuning.conversion.sources import Source
from hypertuning.conversion.token_rows import TokenRows
from hypertuning.conversion.vocabulary import Vocabulary
from hypertuning.engine import t5x_format


def write(
  folder: epath.Path,
  source: Source,
  pairs: Sequence[Pair],
  vocabulary: Vocabulary,
  report: Callable[[int], object],
) -> None:
  """Writes a model's variables in t5x's format, with layers apart.

  Args:
    folder: folder of the checkpoint, which is made.
    source: the weights.
    pairs: the variables, and their names in `source`.
    vocabulary: the model's vocabulary.
    report: function that is called with the number of bytes written since its
      last call.

  Raises:
    OSError: the folder cannot be written.
  """
  folder.mkdir(parents=True)
  for variable, name in pairs:
    stored = source.arrays[name]
    variable = variable.with_rows(vocabulary.rows(stored.shape[0]))
    shape = variable.their_shape
    step = rows_per_block(shape, stored.dtype)
    chunk = (step, *shape[1:])
    with _write_errors():
      array = t5x_format.create_array(
        folder,
        variable.path,
        variable.shape,
        stored.dtype,
        chunk[::-1] if variable.is_transposed else chunk,
      )
    with source.open(name) as rows:
      if variable.per_token:
        rows = TokenRows(rows, stored.shape[0], vocabulary.swapped)
      for start in range(0, shape[0], step):
        end = min(start + step, shape[0])
        block = rows[start:end]
        with _write_errors():
          if variable.is_transposed:
            array[:, start:end].write(block.T).result()
          else:
            array[start:end].write(block).result()
        report(block.nbytes)
  t5x_format.write_index(folder, [variable.path for variable, _ in pairs])


@contextlib.contextmanager
def _write_errors() -> Iterator[None]:
  """Turns an error of TensorStore, which has types of its own, into OSError."""
  try:
    yield
  except Exception as error:
    raise OSError(files.reason(error)) from error
