"""Reads the cells of a sweep's folder: their states and their results."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from hypertuning import files, text_files
from hypertuning.errors import UserError
from hypertuning.sweeping.cells import (
  COMMAND_FILE,
  DONE_FILE,
  FAILED_FILE,
  SWEEP_FILE,
  children,
  folder_name,
)

Row = Mapping[str, Any]
Aggregate = Callable[[Sequence[Row]], Sequence[Row]]
SEED = 'seed'
DONE, FAILED, MISSING = 'done', 'failed', 'missing'
_TABLES = ('results', 'metrics', 'curves')
# Commands that write no results, by the last parts of their names.
_WITHOUT_RESULTS = ('train', 'infer', 'record')


@dataclasses.dataclass(frozen=True)
class Cell:
  """A run of a stage.

  Attributes:
    name: path of the cell's folder, relative to the sweep's folder.
    point: maps each axis of the stage to the label of the cell's point.
    state: state of the cell: `done`, `failed` or `missing`.
    reason: reason why the cell failed; empty if it did not.
    seconds: number of seconds that the command took; None if it is not done.
    gin_files: gin files of the command.
    bindings: bindings of the command; empty if it was never started.
    tables: maps `results`, `metrics` and `curves` to their rows, if the command
      wrote them; empty if the cell is not done.
  """

  name: str
  point: Mapping[str, str]
  state: str
  reason: str
  seconds: float | None
  gin_files: Sequence[str]
  bindings: Mapping[str, Any]
  tables: Mapping[str, Sequence[Row]]

  @property
  def state_text(self) -> str:
    """The state, with the reason of a failure, as tables show it."""
    return f'{FAILED}: {self.reason}' if self.state == FAILED else self.state


@dataclasses.dataclass(frozen=True)
class Stage:
  """The cells of a stage, or those of them that have some labels.

  Attributes:
    name: name of the stage, with the labels that all of the cells have.
    command: name of the module that runs.
    axes: names of the axes along which the cells differ.
    cells: all cells of the sweep's plan, also those that have not run.
  """

  name: str
  command: str
  axes: Sequence[str]
  cells: Sequence[Cell]

  @property
  def finished_cells(self) -> list[Cell]:
    """The finished cells."""
    return [cell for cell in self.cells if cell.state == DONE]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A sweep, as far as it has run.

  Attributes:
    folder: folder of the sweep.
    axes: maps the name of each axis to the labels of its points.
    stages: maps the name of each stage to the stage.
  """

  folder: epath.Path
  axes: Mapping[str, Sequence[str]]
  stages: Mapping[str, Stage]

  @property
  def plan(self) -> epath.Path:
    """The path of the file that describes the sweep."""
    return self.folder / SWEEP_FILE

  def has(self, name: str) -> bool:
    """Whether the sweep has a stage, or such cells of it, see `stage`."""
    first, *labels = name.split('/')
    return first in self.stages and any(
      {*labels} <= {*cell.point.values()} for cell in self.stages[first].cells
    )

  def stage(self, name: str, axes: Sequence[str] = (SEED,)) -> Stage:
    """A stage, or those of its cells that have some labels.

    Args:
      name: name of the stage, `STAGE` or `STAGE/LABEL`. For example,
        `eval/prefix` has the cells of `eval` at the point `prefix`.
      axes: names of the axes along which the cells may differ.

    Raises:
      UserError: the sweep has no such stage or no such cells, or the cells
        differ along other axes as well.
    """
    first, *labels = name.split('/')
    if first not in self.stages:
      raise UserError(
        f'{self.plan}: no stage {first!r}; there is {", ".join(self.stages)}.'
      )
    stage = self.stages[first]
    for label in labels:
      stage = self._at_label(stage, label, axes)
    for axis in stage.axes:
      if axis not in axes:
        raise UserError(
          f'{self.plan}: the cells of {name!r} differ along {axis!r} too; '
          f'choose a label, {name}/LABEL, or report them with '
          '@against_axis.against_axis.'
        )
    return stage

  def _at_label(self, stage: Stage, label: str, axes: Sequence[str]) -> Stage:
    """The cells of a stage at a point of an axis that is not in `axes`."""
    by_axis = {
      axis: [cell for cell in stage.cells if cell.point[axis] == label]
      for axis in stage.axes
      if axis not in axes
    }
    with_label = [axis for axis, cells in by_axis.items() if cells]
    if len(with_label) != 1:
      labels = {
        cell.point[axis]: None for axis in by_axis for cell in stage.cells
      }
      raise UserError(
        f'{self.plan}: stage {stage.name!r} has {len(with_label)} axes with a '
        f'point {label!r}; its points are {", ".join(labels) or "none"}.'
      )
    return Stage(
      f'{stage.name}/{label}',
      stage.command,
      [axis for axis in stage.axes if axis != with_label[0]],
      by_axis[with_label[0]],
    )


def read(folder: str, aggregate: Aggregate | None = None) -> Sweep:
  """Reads all cells of a sweep.

  Args:
    folder: folder of the sweep, SWEEP_DIR of `hypertuning.sweep`.
    aggregate: function from the results of an evaluation by t5x to the rows of
      a benchmark's means; None adds no rows.

  Raises:
    UserError: there is no sweep.
  """
  path = files.folder(folder, 'SWEEP_DIR') / SWEEP_FILE
  text = text_files.read_text(
    path,
    'no such file; SWEEP_DIR is the folder of a sweep of hypertuning.sweep.',
  )
  try:
    plan = text_files.parse_json(text)
    axes = {name: list(points) for name, points in plan['axes'].items()}
    stages = {
      name: _stage(path.parent, name, stage, axes, aggregate)
      for name, stage in plan['stages'].items()
    }
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path}: not the plan of a sweep ({type(error).__name__}: {error}).'
    ) from error
  return Sweep(path.parent, axes, stages)


def _stage(
  folder: epath.Path,
  name: str,
  plan: Mapping[str, Any],
  axes: Mapping[str, Sequence[str]],
  aggregate: Aggregate | None,
) -> Stage:
  all_points = itertools.product(*(axes[axis] for axis in plan['axes']))
  cells = []
  for labels in plan.get('points', all_points):
    point = dict(zip(plan['axes'], labels, strict=True))
    cells.append(_cell(folder, name, point, plan, aggregate))
  return Stage(name, plan['command'], plan['axes'], cells)


def _cell(
  folder: epath.Path,
  stage: str,
  point: Mapping[str, str],
  plan: Mapping[str, Any],
  aggregate: Aggregate | None,
) -> Cell:
  name = f'cells/{stage}/{folder_name(list(point.values()))}'
  path = folder / name
  state, reason, seconds = MISSING, '', None
  command: Row = {}
  tables: dict[str, Sequence[Row]] = {}
  try:
    command = _json(path / COMMAND_FILE) or {}
    if done_row := _json(path / DONE_FILE, 'seconds'):
      tables = dict(_tables(path, aggregate))
      ending = plan['command'].rpartition('.')[2]
      if not tables.get('results') and ending not in _WITHOUT_RESULTS:
        raise _BrokenFile('no rows in results.jsonl')
      _check_sizes(path, done_row)
      state, seconds = DONE, _seconds(done_row)
    elif failed_row := _json(path / FAILED_FILE, 'reason'):
      state, reason = FAILED, str(failed_row['reason'])
  except _BrokenFile as error:
    # No number of the cell is used. A part of its rows would look complete.
    state, reason = FAILED, str(error)
  return Cell(
    name,
    point,
    state,
    reason,
    seconds,
    command.get('gin_files', plan['gin_files']),
    command.get('bindings', {}),
    tables if state == DONE else {},
  )


class _BrokenFile(Exception):
  """Raised for a damaged file of a cell; the message names file and place."""


def _json(path: epath.Path, field: str | None = None) -> Row | None:
  """Reads a JSON object, which must have `field`; None if there is no file."""
  if not path.is_file():
    return None
  row = _object(path.name, _text(path))
  if field and field not in row:
    raise _BrokenFile(f'{path.name}: no {field!r}')
  return row


def _seconds(done_row: Row) -> float:
  if not isinstance(done_row['seconds'], (int, float)):
    raise _BrokenFile(f'done: seconds are {done_row["seconds"]!r}')
  return float(done_row['seconds'])


def _check_sizes(folder: epath.Path, done_row: Row) -> None:
  """Refuses files that are shorter than when the command wrote them."""
  for name, size in dict(done_row.get('bytes', {})).items():
    path = folder / name
    current_size = files.size(path) if path.is_file() else 0
    if current_size < size:
      raise _BrokenFile(f'{name}: {current_size} of {size} bytes are there')


def _tables(
  folder: epath.Path, aggregate: Aggregate | None
) -> Iterator[tuple[str, list[Row]]]:
  for name in _TABLES:
    path = folder / f'{name}.jsonl'
    if path.is_file():
      yield (
        name,
        [
          _object(f'{path.name}:{number}', line)
          for number, line in _lines(path)
        ],
      )
  metric_files = [
    path
    for path in children(folder / 'inference_eval')
    if path.name.endswith('-metrics.jsonl')
  ]
  if metric_files:
    phi = _phi_of_t5x(folder)
    rows = [_of_t5x(path, phi) for path in metric_files]
    yield 'results', [*rows, *(aggregate(rows) if aggregate else ())]


def _phi_of_t5x(folder: epath.Path) -> str:
  """The phi mode of an evaluation by t5x, from the config that it wrote."""
  path = folder / 'config.gin'
  config = _text(path) if path.is_file() else ''
  has_no_hypermodel = re.search(r'^HYPERMODEL = None$', config, re.MULTILINE)
  return 'none' if has_no_hypermodel else 'generated'


def _of_t5x(path: epath.Path, phi: str) -> Row:
  """Reads the newest metrics that t5x has written about a task."""
  number, line = list(_lines(path) or [(1, '')])[-1]
  row = _object(f'{path.name}:{number}', line)
  task = path.name.removesuffix('-metrics.jsonl')
  numbers: dict[str, Any] = {
    name: float(value)
    for name, value in row.items()
    if isinstance(value, (int, float)) and name != 'step'
  }
  answers = path.with_name(f'{task}-{row.get("step", 0):06d}.jsonl')
  if answers.is_file():
    numbers['questions'] = sum(
      _questions(_object(f'{answers.name}:{number}', line))
      for number, line in enumerate(_text(answers).splitlines(), 1)
    )
  return {'task': task, 'phi': phi, **numbers}


def _questions(episode: Row) -> int:
  """The number of questions in an episode that seqio has written to a file."""
  target = episode.get('target')
  # The target of options is a dict, see `metrics.ranked_options`. In place of a
  # long list, seqio writes a text.
  if isinstance(target, dict):
    numbers = target.get('question')
    return len(set(numbers)) if isinstance(numbers, list) else 1
  return len(target) if isinstance(target, list) else 1


def _text(path: epath.Path) -> str:
  with _read_errors(path):
    return text_files.read_text(path)


def _lines(path: epath.Path) -> list[tuple[int, str]]:
  with _read_errors(path):
    return list(text_files.lines(path))


@contextlib.contextmanager
def _read_errors(path: epath.Path) -> Iterator[None]:
  """Turns an error into a `_BrokenFile` that names the file, not its path."""
  try:
    yield
  except UserError as error:
    reason = str(error).replace(str(path), path.name, 1)
    raise _BrokenFile(reason) from error


def _object(place: str, text: str) -> Row:
  try:
    row = text_files.parse_json(text)
  except text_files.MalformedError as error:
    raise _BrokenFile(f'{place}: not JSON') from error
  if not isinstance(row, dict):
    raise _BrokenFile(f'{place}: not an object')
  return row
