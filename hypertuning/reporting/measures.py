"""Measures: one number from every run of a stage, or why it is missing."""

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
    values: seed to number, for the runs that have it.
    errors: seed to the number's standard error over episodes, nan if unknown.
    planned: number of runs that the stage has in the sweep.
    questions: number of questions that the numbers are of, as a table shows it:
      `400`, `380 to 400` if the runs differ; empty if they do not say it.
    problem: why a run has no number, as a table shows it; empty if all have
      one.
    unknown: message that finished runs exist but do not know this number, with
      the names that they do know; empty otherwise.
    stage: the stage that the runs belong to.
  """

  values: Mapping[str, float]
  errors: Mapping[str, float]
  planned: int
  questions: str
  problem: str
  unknown: str
  stage: Stage

  @property
  def estimate(self) -> Estimate | None:
    """Mean and interval over seeds, or over episodes if one run is planned."""
    if not self.values:
      return None
    if self.planned == 1:
      ((seed, value),) = self.values.items()
      return statistics.from_standard_error(value, self.errors[seed])
    return statistics.mean(list(self.values.values()))

  def known(self) -> 'Measure':
    """This measure, if some finished run can have it.

    Raises:
      UserError: the finished runs do not have the number.
    """
    if self.unknown:
      raise UserError(self.unknown)
    return self


def result(sweep: Sweep, source: Source, metric: str) -> Measure:
  """The number of a source in `results.jsonl`, for each seed.

  Raises:
    UserError: the sweep lacks the stage, or the finished runs the number.
  """
  stage, phi, task = source
  where = {'phi': (phi,), 'task': (task,)}
  return of_stage(sweep.stage(stage), where, metric).known()


def of_stage(
  stage: Stage,
  where: Mapping[str, Collection[str]],
  metric: str,
  cells: Sequence[Cell] | None = None,
) -> Measure:
  """The number of one row of `results.jsonl`, for each seed.

  Args:
    stage: the stage whose runs are read.
    where: field to the values that it may have in the row.
    metric: the field that holds the number.
    cells: the cells of the stage to read; all if None.
  """
  cells = stage.cells if cells is None else cells
  values, errors, problems = {}, {}, {}
  counts = []
  for cell in cells:
    try:
      value, error, count = _number(cell, where, metric)
    except _Absent as why:
      problems[cell.name] = str(why)
    else:
      seed = cell.point.get(SEED, _WITHOUT_SEED)
      values[seed], errors[seed] = value, error
      counts.append(count)
  done = [cell for cell in cells if cell.state == DONE]
  unknown = ''
  if done and not values and not _has(done, where, metric):
    sought = ', '.join(
      f'{name} {" or ".join(map(repr, names))}' for name, names in where.items()
    )
    known = '; '.join(f'{name} is one of {_seen(done, name)}' for name in where)
    unknown = (
      f'{done[0].name}/results.jsonl: no {metric!r} with {sought}; {known}; '
      f'numbers are {_seen_numbers(done)}.'
    )
  # A failure says more than that others have not run.
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
  """How many questions numbers are of: `400`, `380 to 400`, or unknown ('')."""
  known = sorted({int(count) for count in counts if isinstance(count, int)})
  return ' to '.join(map(str, dict.fromkeys((*known[:1], *known[-1:]))))


def paired(*measures: Measure) -> list[list[float]]:
  """The numbers of the seeds that all measures have, one list per measure.

  A stage without a seed axis has one number, which stands beside every seed.
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
  """A cell has no number; the text says why."""


def _number(
  cell: Cell, where: Mapping[str, Collection[str]], metric: str
) -> tuple[float, float, object]:
  if cell.state != DONE:
    raise _Absent(cell.state_text)
  rows = [r for r in _rows(cell, where) if r.get(metric) is not None]
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


def _rows(cell: Cell, where: Mapping[str, Collection[str]]) -> list[Row]:
  return [
    row
    for row in cell.tables.get('results', ())
    if all(row.get(name) in values for name, values in where.items())
  ]


def _has(
  cells: Sequence[Cell], where: Mapping[str, Collection[str]], metric: str
) -> bool:
  return any(
    row.get(metric) is not None for cell in cells for row in _rows(cell, where)
  )


def _seen(cells: Sequence[Cell], field: str) -> str:
  found = {
    str(row[field]): None
    for cell in cells
    for row in cell.tables.get('results', ())
    if field in row
  }
  return ', '.join(found) or 'nothing'


def _seen_numbers(cells: Sequence[Cell]) -> str:
  found = {
    name: None
    for cell in cells
    for row in cell.tables.get('results', ())
    for name, value in row.items()
    if is_number(value) and not name.endswith(tables.ERRORS)
  }
  return ', '.join(found) or 'nothing'
