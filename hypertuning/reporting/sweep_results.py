"""The cells of a sweep's folder, with what became of each."""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hypertuning.errors import UserError
from hypertuning.sweeping.cells import (
  COMMAND_FILE,
  DONE_FILE,
  FAILED_FILE,
  SWEEP_FILE,
  folder_name,
)

Row = Mapping[str, Any]
Aggregate = Callable[[Sequence[Row]], Sequence[Row]]
SEED = 'seed'
DONE, FAILED, MISSING = 'done', 'failed', 'missing'
_TABLES = ('results', 'metrics', 'curves')
_WITHOUT_RESULTS = ('train', 'infer')  # endings of commands


@dataclasses.dataclass(frozen=True)
class Cell:
  """A run of a stage.

  Attributes:
    name: its folder, from the sweep's.
    point: axis to the name of its point.
    state: `done`, `failed` or `missing`.
    reason: why it failed.
    seconds: that it took; None of one that is not done.
    gin_files: of its command.
    bindings: of its command; empty of one that was never started.
    tables: `results`, `metrics` and `curves` to their rows, those that the
      command wrote; empty of a cell that is not done.
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
  def told(self) -> str:
    """The state as a table shows it."""
    return f'{FAILED}: {self.reason}' if self.state == FAILED else self.state


@dataclasses.dataclass(frozen=True)
class Stage:
  """Cells that run one command.

  Attributes:
    name: of the stage.
    command: module that runs.
    axes: that its cells are the points of.
    cells: all that are planned.
  """

  name: str
  command: str
  axes: Sequence[str]
  cells: Sequence[Cell]

  @property
  def done(self) -> list[Cell]:
    """Its finished cells."""
    return [cell for cell in self.cells if cell.state == DONE]


@dataclasses.dataclass(frozen=True)
class Sweep:
  """What a sweep has run.

  Attributes:
    folder: of the sweep.
    axes: name to the names of its points.
    stages: by name.
  """

  folder: pathlib.Path
  axes: Mapping[str, Sequence[str]]
  stages: Mapping[str, Stage]

  @property
  def plan(self) -> pathlib.Path:
    """The file that says what the sweep is."""
    return self.folder / SWEEP_FILE

  def stage(self, name: str, axes: Sequence[str] = (SEED,)) -> Stage:
    """A stage whose cells differ along these axes at most.

    Raises:
      UserError: the sweep has no such stage, or it has other axes as well.
    """
    if name not in self.stages:
      raise UserError(
        f'{self.plan}: no stage {name!r}; there is {", ".join(self.stages)}.'
      )
    stage = self.stages[name]
    for axis in stage.axes:
      if axis not in axes:
        raise UserError(
          f'{self.plan}: the cells of {name!r} differ along {axis!r} too; '
          'report them with @against_axis.against_axis.'
        )
    return stage


def read(folder: str, aggregate: Aggregate | None = None) -> Sweep:
  """Reads all cells of a sweep.

  Args:
    folder: SWEEP_DIR of `hypertuning.sweep`.
    aggregate: what adds a benchmark's means to the results of t5x.

  Raises:
    UserError: there is no sweep.
  """
  path = pathlib.Path(folder, SWEEP_FILE)
  try:
    plan = json.loads(path.read_text('utf-8'))
    axes = {name: list(points) for name, points in plan['axes'].items()}
    stages = {
      name: _stage(path.parent, name, stage, axes, aggregate)
      for name, stage in plan['stages'].items()
    }
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(
      f'{path}: no such file; SWEEP_DIR is the folder of a sweep of '
      'hypertuning.sweep.'
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path}: not the plan of a sweep ({type(error).__name__}: {error}).'
    ) from error
  return Sweep(path.parent, axes, stages)


def _stage(
  folder: pathlib.Path,
  name: str,
  plan: Mapping[str, Any],
  axes: Mapping[str, Sequence[str]],
  aggregate: Aggregate | None,
) -> Stage:
  cells = []
  for names in itertools.product(*(axes[axis] for axis in plan['axes'])):
    point = dict(zip(plan['axes'], names, strict=True))
    cells.append(_cell(folder, name, point, plan, aggregate))
  return Stage(name, plan['command'], plan['axes'], cells)


def _cell(
  folder: pathlib.Path,
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
    if done := _json(path / DONE_FILE, 'seconds'):
      tables = dict(_tables(path, aggregate))
      ending = plan['command'].rpartition('.')[2]
      if 'results' not in tables and ending not in _WITHOUT_RESULTS:
        raise _BrokenFile('no results.jsonl')
      state, seconds = DONE, _seconds(done)
    elif failed := _json(path / FAILED_FILE, 'reason'):
      state, reason = FAILED, str(failed['reason'])
  except _BrokenFile as error:  # none of its numbers: some would pass for all
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
  """A file of a cell that cannot be read; says which and where."""


def _json(path: pathlib.Path, field: str | None = None) -> Row | None:
  """The object in a file, which has this field; None without a file."""
  if not path.is_file():
    return None
  row = _object(path.name, _text(path))
  if field and field not in row:
    raise _BrokenFile(f'{path.name}: no {field!r}')
  return row


def _seconds(done: Row) -> float:
  if not isinstance(done['seconds'], (int, float)):
    raise _BrokenFile(f'done: seconds are {done["seconds"]!r}')
  return float(done['seconds'])


def _tables(
  folder: pathlib.Path, aggregate: Aggregate | None
) -> Iterator[tuple[str, list[Row]]]:
  for name in _TABLES:
    path = folder / f'{name}.jsonl'
    if path.is_file():
      lines = _text(path).splitlines()
      yield (
        name,
        [
          _object(f'{path.name}:{number}', line)
          for number, line in enumerate(lines, 1)
        ],
      )
  if evaluated := sorted(folder.glob('inference_eval/*-metrics.jsonl')):
    phi = _phi_of_t5x(folder)
    rows = [_of_t5x(path, phi) for path in evaluated]
    yield 'results', [*rows, *(aggregate(rows) if aggregate else ())]


def _phi_of_t5x(folder: pathlib.Path) -> str:
  """The one mode that t5x has, by the configuration that it wrote."""
  path = folder / 'config.gin'
  config = _text(path) if path.is_file() else ''
  alone = re.search(r'^HYPERMODEL = None$', config, re.MULTILINE)
  return 'none' if alone else 'generated'


def _of_t5x(path: pathlib.Path, phi: str) -> Row:
  """The newest metrics of a task."""
  lines = _text(path).splitlines()
  row = _object(f'{path.name}:{len(lines)}', lines[-1] if lines else '')
  task = path.name.removesuffix('-metrics.jsonl')
  numbers = {
    name: float(value)
    for name, value in row.items()
    if isinstance(value, (int, float)) and name != 'step'
  }
  return {'task': task, 'phi': phi, **numbers}


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text('utf-8')
  except UnicodeDecodeError as error:
    raise _BrokenFile(f'{path.name}: not UTF-8') from error


def _object(place: str, text: str) -> Row:
  try:
    row = json.loads(text)
  except ValueError as error:
    raise _BrokenFile(f'{place}: not JSON') from error
  if not isinstance(row, dict):
    raise _BrokenFile(f'{place}: not an object')
  return row
