"""Reads rows from binary files: parquet, and the TFRecords of seqio's cache."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from hypertuning.errors import UserError

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
    The number of each row, and its fields.

  Raises:
    UserError: the file does not exist, or does not have the format that its
      name says.
  """
  read_kind = _parquet if path.endswith('.parquet') else _tfrecord
  try:
    yield from read_kind(str(pathlib.Path(path).expanduser()), most)
  except FileNotFoundError as error:
    raise UserError(f'{path}: no such file.') from error


def _parquet(path: str, most: int | None) -> Iterator[tuple[int, Item]]:
  # pyarrow and TensorFlow are slow to import; a file needs one of them.
  import pyarrow as pa
  import pyarrow.parquet

  try:
    table = pyarrow.parquet.read_table(path)
  except pa.ArrowInvalid as error:
    raise UserError(f'{path}: no parquet file ({error}).') from error
  step = _step(len(table), most)
  selection = table.take(list(range(0, len(table), step)))
  for i, row in enumerate(selection.to_pylist()):
    yield 1 + i * step, row


def _tfrecord(path: str, most: int | None) -> Iterator[tuple[int, Item]]:
  import tensorflow as tf

  dataset = tf.data.TFRecordDataset(path)
  try:
    step = _step(sum(1 for _ in dataset), most) if most else 1
    for i, record in enumerate(dataset.shard(step, 0).as_numpy_iterator()):
      example = tf.train.Example.FromString(record)
      features = example.features.feature
      yield 1 + i * step, {name: _value(features[name]) for name in features}
  except tf.errors.NotFoundError as error:
    raise FileNotFoundError(path) from error
  except (tf.errors.DataLossError, UnicodeDecodeError) as error:
    raise UserError(f'{path}: no TFRecords of texts ({error}).') from error


def _value(feature: Any) -> Any:
  """The values of a feature as a list, or the value itself if it is the only.

  Bytes are decoded to texts.
  """
  kind = feature.WhichOneof('kind')
  values = list(getattr(feature, kind).value) if kind else []
  values = [x.decode('utf-8') if isinstance(x, bytes) else x for x in values]
  return values[0] if len(values) == 1 else values


def _step(count: int, most: int | None) -> int:
  return max(1, -(-count // most)) if most else 1
