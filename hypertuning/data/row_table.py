"""The rows of a split's tasks in one table, which episodes are drawn from."""

import contextlib
import dataclasses
import functools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from hypertuning.data import packed_ids
from hypertuning.data.rows import (
  Row,
  RowTask,
  Tasks,
  as_task,
  check_texts,
  distinct_options,
  option_fault,
)
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of many tasks in one list; each task's pool follows its rows.

  A span is a pair of row numbers, int64 `[2]`: the first row that belongs to
  it, and the first row behind it.

  Attributes:
    names: names of the tasks.
    sizes: number of rows of each task that queries are taken from, `[tasks]`.
    name: names of the tasks, strings `[tasks]`.
    definition: definitions of the tasks, strings `[tasks]`.
    key: hash of each task's name, int64 `[tasks]`; seeds are made of it.
    rate: cumulative shares of the tasks' rates, float64 `[tasks]`; the last one
      is 1.
    query_span: span of the rows that queries come from, int64 `[tasks, 2]`.
    shot_span: span of the rows that shots come from, int64 `[tasks, 2]`: the
      pool of the task, or its `query_span` if it has no pool.
    inputs: inputs of the rows, strings `[rows]`.
    targets: targets of the rows, strings `[rows]`.
    ids: maps `definition`, `inputs` and `targets` to their packed ids, strings
      of the same shape; empty if the pipeline encodes the texts.
    extra: maps `options`, the packed ids beside them and `references` to
      strings `[rows, (n)]`, if any row has some.
    most: maps the names in `extra` to the greatest n.
    group: number of each row's input, int64 `[rows]`: two rows of a task have
      the same number if their inputs are equal.
    label: number of each row's target, float64 `[rows]`, counted in the same
      way.
  """

  names: Sequence[str]
  sizes: np.ndarray
  name: tf.Tensor
  definition: tf.Tensor
  key: tf.Tensor
  rate: tf.Tensor
  query_span: tf.Tensor
  shot_span: tf.Tensor
  inputs: tf.Tensor
  targets: tf.Tensor
  ids: Mapping[str, tf.Tensor]
  extra: Mapping[str, tf.RaggedTensor]
  most: Mapping[str, int]
  group: tf.Tensor
  label: tf.Tensor

  def content(self) -> Iterator[bytes]:
    """Yields all tasks, rows and rates as bytes, in a fixed order."""
    for array in (self.rate, self.query_span, self.shot_span):
      yield array.numpy().tobytes()
    for texts in (self.name, self.definition, self.inputs, self.targets):
      yield from texts.numpy()
    for values in self.extra.values():
      yield values.row_splits.numpy().tobytes()
      yield from values.values.numpy()

  def episodes(self, queries: int) -> list[int]:
    """The number of episodes per task in which every row is a query once."""
    return [math.ceil(size / queries) for size in self.sizes]


def make_table(
  split_tasks: Tasks,
  shots: int,
  queries: int,
  scores_options: bool = False,
  text_format: TextFormat | None = None,
) -> Table:
  """Joins the rows of all tasks in a split.

  Args:
    split_tasks: tasks of the split, by name.
    shots: number of shots that every task must have rows for.
    queries: number of queries per episode.
    scores_options: whether the options of the rows are scored. An option that a
      row lists twice then counts once, and one without text not at all.
    text_format: format that encodes the rows now, if its vocabulary cannot do
      so in a pipeline; None for none.

  Raises:
    UserError: there is no task; a task has too few rows, no rate, or a value
      that is not text; or the options of a row cannot be scored.
  """
  tasks = {name: as_task(task) for name, task in split_tasks.items()}
  if scores_options:
    with _text_errors(tasks):
      tasks = {name: _scorable_task(name, task) for name, task in tasks.items()}
  if not tasks:
    raise UserError('An EpisodeSource has a split without tasks.')
  rates = np.array([task.rate for task in tasks.values()], np.float64)
  if not (rates >= 0).all() or not rates.sum() > 0:
    raise UserError(
      f'Rates of the tasks {list(tasks)[:3]}... must be 0 or more, and one '
      'of them more.'
    )
  rows: list[Row] = []
  query_spans: list[tuple[int, int]] = []
  shot_spans: list[tuple[int, int]] = []
  group: list[int] = []
  label: list[int] = []
  for name, task in tasks.items():
    _check_size(name, task, shots, queries)
    groups: dict[str, int] = {}
    labels: dict[str, int] = {}
    for part, spans in ((task.rows, query_spans), (task.pool, shot_spans)):
      if part is None:  # without a pool, shots come from the same rows
        spans.append(query_spans[-1])
        continue
      spans.append((len(rows), len(rows) + len(part)))
      rows += part
      group += [groups.setdefault(r.inputs, len(groups)) for r in part]
      label += [labels.setdefault(r.targets, len(labels)) for r in part]
  definitions = [task.definition for task in tasks.values()]
  inputs = [row.inputs for row in rows]
  targets = [row.targets for row in rows]
  # Lists of no text for each of very many rows take longer than all the rest.
  extra: dict[str, list[list]] = {
    name: [list(getattr(row, name)) for row in rows]
    for name in ('options', 'references')
    if any(getattr(row, name) for row in rows)
  }
  ids: dict[str, list[bytes]] = {}
  if packed_ids.are_needed(text_format):
    pack = functools.partial(packed_ids.packer, text_format)
    pack_target = pack('targets')
    with _text_errors(tasks):
      ids = {
        'definition': [*map(pack('definition'), definitions)],
        'inputs': [*map(pack('inputs'), inputs)],
        'targets': [*map(pack_target, targets)],
      }
      if 'options' in extra:
        extra[packed_ids.beside('options')] = [
          [*map(pack_target, options)] for options in extra['options']
        ]
  # A table may be made while tf.data traces a function; its tensors must
  # outlive that function's graph.
  with tf.init_scope(), _text_errors(tasks):
    return Table(
      names=list(tasks),
      sizes=np.array([len(task.rows) for task in tasks.values()]),
      name=tf.constant(list(tasks), tf.string),
      definition=tf.constant(definitions, tf.string),
      key=tf.constant([zlib.crc32(n.encode()) for n in tasks], tf.int64),
      rate=tf.constant(np.cumsum(rates) / rates.sum()),
      query_span=tf.constant(query_spans, tf.int64),
      shot_span=tf.constant(shot_spans, tf.int64),
      inputs=tf.constant(inputs, tf.string),
      targets=tf.constant(targets, tf.string),
      ids={name: tf.constant(x, tf.string) for name, x in ids.items()},
      extra={
        name: tf.ragged.constant(values, tf.string, ragged_rank=1)
        for name, values in extra.items()
      },
      most={name: max(map(len, values)) for name, values in extra.items()},
      group=tf.constant(group, tf.int64),
      label=tf.constant(label, tf.float64),
    )


def _scorable_task(name: str, task: RowTask) -> RowTask:
  """The task with each option of a row once; refuses unusable options."""
  rows = []
  for number, row in enumerate(task.rows, start=1):
    row = row._replace(options=distinct_options(row.options))
    rows.append(row)
    if fault := option_fault(row):
      raise UserError(
        f'Task {name!r}, row {number} ({row.inputs[:40]!r}): {fault}. Rank '
        'classification needs tasks with options, the target among them.'
      )
  return dataclasses.replace(task, rows=rows)


@contextlib.contextmanager
def _text_errors(tasks: Mapping[str, RowTask]) -> Iterator[None]:
  """Turns an error about a text into one that names the task and the row."""
  try:
    yield
  except (AttributeError, TypeError, ValueError):
    for name, task in tasks.items():
      check_texts(name, task)
    raise


def _check_size(name: str, task: RowTask, shots: int, queries: int) -> None:
  shot_rows = task.rows if task.pool is None else task.pool
  different = len({row.inputs for row in shot_rows})
  # A row with the same input as a query cannot be a shot. If the rows for shots
  # include queries, that many more rows are needed.
  query_inputs = {row.inputs for row in task.rows}
  barred = min(queries, len(query_inputs & {row.inputs for row in shot_rows}))
  if different < shots + barred:
    raise UserError(
      f'Task {name!r} has {different} examples'
      f'{" to show" if task.pool is not None else ""}, but an episode needs '
      f'{shots} shots + {barred} queries = {shots + barred}: add examples or '
      'lower SHOTS, which is the argument `shots` of what registers the task.'
    )
  if not task.rows:
    raise UserError(f'Task {name!r} has no examples to ask.')
