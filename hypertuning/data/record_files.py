"""Reads rows from binary files: parquet, and the TFRecords of seqio's cache."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from etils import epath

from hypertuning.errors import UserError, one_line

Item = dict[str, Any]
_TFRECORD = re.compile(r'.*\.tfrecord(-\d+-of-\d+)?')


def is_record_file(path: str) -> bool:
  """Whether `read` can read a file with this name."""
  name = pathlib.Path(path).name
  return name.endswith('.parquet') or bool(_TFRECORD.fullmatch(name))


def read(path: str, most: int | None = None) -> Iterator[tuple[int, Item]]:
  """Reads the rows of a file, each with its number, counted from 1.

  Args:
    path: path of a file that ends in `.parquet`, `.tfrecord` or
      `.tfrecord-NNNNN-of-NNNNN`.
    most: greatest number of rows that are read; None reads all. If a file has
      more rows, those at equal distances are read, and not the first ones:
      files are often sorted by label.

  Yields:
    The number of each row, and its fields. Texts are strings, and bytes where
    they are not UTF-8.

  Raises:
    UserError: the file does not exist, or does not have the format that its
      name says.
  """
  read_rows = _parquet if path.endswith('.parquet') else _tfrecord
  try:
    is_file = epath.Path(path).expanduser().is_file()
  except Exception as error:  # the library of each kind of bucket has its own
    raise UserError(f'{path}: cannot be read ({one_line(error)}).') from error
  if not is_file:
    raise UserError(f'{path}: no such file.')
  yield from read_rows(path, most)


def _parquet(path: str, most: int | None) -> Iterator[tuple[int, Item]]:
  # pyarrow and TensorFlow are slow to import; a file needs one of them.
  import pyarrow as pa
  import pyarrow.parquet

  try:
    with epath.Path(path).expanduser().open('rb') as file:
      table = pyarrow.parquet.ParquetFile(file).read()
    step = _step(len(table), most)
    rows = table.take(list(range(0, len(table), step)))
    rows.validate(full=False)
  except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
    raise UserError(
      f'{path}: not a parquet file ({one_line(error)}).'
    ) from error
  names = rows.column_names
  if len(set(names)) < len(names):
    raise UserError(f'{path}: two columns of one name: {", ".join(names)}.')
  columns = [_values(column) for column in rows.columns]
  for i in range(len(rows)):
    yield (
      1 + i * step,
      {name: column[i] for name, column in zip(names, columns, strict=True)},
    )


def _values(column: Any) -> list[Any]:
  """The values of a column of a table.

  A value without a Python type, such as a time in nanoseconds, stays a scalar
  of pyarrow: the field may not be needed.
  """
  try:
    return [_decode(x) for x in column.to_pylist()]
  except (ValueError, OverflowError):
    return [_python_value(x) for x in column]


def _python_value(scalar: Any) -> Any:
  try:
    return _decode(scalar.as_py())
  except UnicodeDecodeError as error:
    return error.object
  except (ValueError, OverflowError):
    return scalar


def _tfrecord(path: str, most: int | None) -> Iterator[tuple[int, Item]]:
  import tensorflow as tf
  from google.protobuf.message import DecodeError

  number = 0
  try:
    dataset = tf.data.TFRecordDataset(str(epath.Path(path).expanduser()))
    step = _step(sum(1 for _ in dataset), most) if most else 1
    for i, record in enumerate(dataset.shard(step, 0).as_numpy_iterator()):
      number = 1 + i * step
      features = tf.train.Example.FromString(record).features.feature
      yield number, {name: _feature(features[name]) for name in features}
  except DecodeError as error:
    raise UserError(
      f'{path}:{number}: the record is not a tf.train.Example ({error}).'
    ) from error
  except (tf.errors.OpError, ValueError) as error:
    raise UserError(
      f'{path}: not a TFRecord file of texts ({one_line(error)}).'
    ) from error


def _feature(feature: Any) -> Any:
  """The values of a feature: a list, or the value itself if there is one."""
  kind = feature.WhichOneof('kind')
  values = _decode(list(getattr(feature, kind).value) if kind else [])
  return values[0] if len(values) == 1 else values


def _decode(value: Any) -> Any:
  """A value, or a list of values, with strings in place of bytes in UTF-8."""
  if isinstance(value, list):
    return [_decode(x) if isinstance(x, bytes) else x for x in value]
  try:
    return value.decode() if isinstance(value, bytes) else value
  except UnicodeDecodeError:
    return value


def _step(count: int, most: int | None) -> int:
  """Distance between the rows that are read if at most `most` shall be."""
  return max(1, -(-count // most)) if most else 1
