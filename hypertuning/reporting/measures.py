"""Measures: one number from each run of a stage, or why it is missing."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from hypertuning import tables
from hypertuning.errors import UserError
from hypertuning.reporting import statistics
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import (
  DONE,
  FAILED,
  SEED,
  Cell,
  Row,
  Stage,
  Sweep,
)

Source = tuple[str, str, str]  # stage, phi mode and task of `results.jsonl`
_WITHOUT_SEED = ''


@dataclasses.dataclass(frozen=True)
class Measure:
  """One number of a stage, with its value for every seed.

  Attributes:
    values: maps the seed of each run that has the number to its value.
    errors: maps the same seeds to the standard error of the value over
      episodes, which is nan if it is unknown.
    planned_runs: number of runs that the stage has in the sweep.
    questions: number of questions behind the values, as a table shows it:
      `400`, or `380 to 400` if the runs differ; empty if they do not state it.
    problem: reason why a run has no number, as a table shows it; empty if all
      runs have one.
    unknown: error message if there are finished runs, but none has this number;
      it lists the numbers that they have. Empty otherwise.
    stage: stage that the runs belong to.
  """

  values: Mapping[str, float]
  errors: Mapping[str, float]
  planned_runs: int
  questions: str
  problem: str
  unknown: str
  stage: Stage

  @property
  def estimate(self) -> Estimate | None:
    """The mean over seeds and its interval; None if no run has the number.

    If the stage has only one run, the interval is over its episodes.
    """
    if not self.values:
      return None
    if self.planned_runs == 1:
      ((seed, value),) = self.values.items()
      return statistics.from_standard_error(value, self.errors[seed])
    return statistics.mean(list(self.values.values()))

  def require(self) -> 'Measure':
    """Returns this measure, unless a mistyped name is the reason it is missing.

    Raises:
      UserError: there are finished runs, but none has the number.
    """
    if self.unknown:
      raise UserError(self.unknown)
    return self


def result(sweep: Sweep, source: Source, metric: str) -> Measure:
  """The number of a source in `results.jsonl`, for each seed.

  Args:
    sweep: sweep whose evaluations are read.
    source: names of the stage, the phi mode and the task.
    metric: name of the field that holds the number.

  Raises:
    UserError: the sweep lacks the stage, or its finished runs lack the number.
  """
  stage, phi, task = source
  conditions = {'phi': (phi,), 'task': (task,)}
  return of_stage(sweep.stage(stage), conditions, metric).require()


def of_stage(
  stage: Stage,
  conditions: Mapping[str, Collection[str]],
  metric: str,
  cells: Sequence[Cell] | None = None,
) -> Measure:
  """The number of one row of `results.jsonl`, for each seed.

  Args:
    stage: stage whose runs are read.
    conditions: maps the name of a field to the values that it may have in the
      row.
    metric: name of the field that holds the number.
    cells: cells of the stage that are read; None reads all.
  """
  cells = stage.cells if cells is None else cells
  values, errors, problems = {}, {}, {}
  counts = []
  for cell in cells:
    try:
      value, error, count = _number(cell, conditions, metric)
    except _Absent as reason:
      problems[cell.name] = str(reason)
    else:
      seed = cell.point.get(SEED, _WITHOUT_SEED)
      values[seed], errors[seed] = value, error
      counts.append(count)
  finished_cells = [cell for cell in cells if cell.state == DONE]
  unknown = ''
  if (
    finished_cells
    and not values
    and not _has(finished_cells, conditions, metric)
  ):
    request = ', '.join(
      f'{name} {" or ".join(map(repr, names))}'
      for name, names in conditions.items()
    )
    known_values = '; '.join(
      f'{name} is one of {_known_values(finished_cells, name)}'
      for name in conditions
    )
    unknown = (
      f'{finished_cells[0].name}/results.jsonl: no {metric!r} with {request}; '
      f'{known_values}; numbers are {_known_numbers(finished_cells)}.'
    )
  # The reason of a failure is more useful than that other runs are missing.
  reasons = sorted(
    problems.values(), key=lambda text: not text.startswith(FAILED)
  )
  return Measure(
    values,
    errors,
    len(cells),
    questions(counts),
    reasons[0] if reasons else '',
    unknown,
    stage,
  )


def questions(counts: Sequence[object]) -> str:
  """Text for the numbers of questions behind several values.

  Args:
    counts: number of questions of each value; anything but an int is unknown.

  Returns:
    Text such as `400`, or `380 to 400` if the numbers differ; '' if all are
    unknown.
  """
  numbers = sorted({int(count) for count in counts if isinstance(count, int)})
  return ' to '.join(map(str, dict.fromkeys((*numbers[:1], *numbers[-1:]))))


def paired(*measures: Measure) -> list[list[float]]:
  """The numbers of all seeds that every measure has, one list per measure.

  A stage without the axis `seed` has a single number, which is paired with
  every seed.
  """
  seeded = [m for m in measures if SEED in m.stage.axes]
  first = (seeded or measures)[0]
  seeds = [s for s in first.values if all(s in m.values for m in seeded)]
  if any(not m.values for m in measures):
    seeds = []
  return [
    [m.values[seed if m in seeded else _WITHOUT_SEED] for seed in seeds]
    for m in measures
  ]


class _Absent(Exception):
  """Raised for a cell that has no number; the message says why."""


def _number(
  cell: Cell, conditions: Mapping[str, Collection[str]], metric: str
) -> tuple[float, float, object]:
  if cell.state != DONE:
    raise _Absent(cell.state_text)
  rows = [r for r in _rows(cell, conditions) if r.get(metric) is not None]
  if not rows:
    raise _Absent('not measured')
  if len(rows) > 1:
    raise _Absent(f'{FAILED}: results.jsonl has the row {len(rows)} times')
  value = rows[0][metric]
  if not is_number(value):
    raise _Absent(f'{FAILED}: {metric} is {value!r}')
  error = rows[0].get(f'{metric}_stderr', math.nan)
  error = float(error) if is_number(error) else math.nan
  return float(value), error, rows[0].get('questions')


def is_number(value: object) -> bool:
  """Whether this is a finite number."""
  return (
    isinstance(value, (int, float))
    and not isinstance(value, bool)
    and math.isfinite(value)
  )


def _rows(cell: Cell, conditions: Mapping[str, Collection[str]]) -> list[Row]:
  return [
    row
    for row in cell.tables.get('results', ())
    if all(row.get(name) in values for name, values in conditions.items())
  ]


def _has(
  cells: Sequence[Cell], conditions: Mapping[str, Collection[str]], metric: str
) -> bool:
  return any(
    row.get(metric) is not None
    for cell in cells
    for row in _rows(cell, conditions)
  )


def _known_values(cells: Sequence[Cell], field: str) -> str:
  values = {
    str(row[field]): None
    for cell in cells
    for row in cell.tables.get('results', ())
    if field in row
  }
  return ', '.join(values) or 'nothing'


def _known_numbers(cells: Sequence[Cell]) -> str:
  names = {
    name: None
    for cell in cells
    for row in cell.tables.get('results', ())
    for name, value in row.items()
    if is_number(value) and not name.endswith(tables.ERRORS)
  }
  return ', '.join(names) or 'nothing'
