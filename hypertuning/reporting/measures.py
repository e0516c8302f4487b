"""One number of every run of a stage, or why it is not there."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from hypertuning.engine import summaries
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
  """A number over seeds.

  Attributes:
    values: seed to number, of the runs that have it.
    errors: seed to the number's standard error over episodes, nan if unknown.
    planned: runs of the stage.
    problem: what a table says in place of a number.
    unknown: what no finished run has; empty if some has the number, or if none
      is finished.
    stage: that the runs are of.
  """

  values: Mapping[str, float]
  errors: Mapping[str, float]
  planned: int
  problem: str
  unknown: str
  stage: Stage

  @property
  def estimate(self) -> Estimate | None:
    """Mean and interval; of a stage with one run, over its episodes."""
    if not self.values:
      return None
    if self.planned == 1:
      ((seed, value),) = self.values.items()
      return statistics.from_standard_error(value, self.errors[seed])
    return statistics.mean(list(self.values.values()))

  def known(self) -> 'Measure':
    """Itself.

    Raises:
      UserError: the finished runs do not have the number.
    """
    if self.unknown:
      raise UserError(self.unknown)
    return self


def result(sweep: Sweep, source: Source, metric: str) -> Measure:
  """A number of `results.jsonl`, for each seed.

  Raises:
    UserError: there is no such stage, or the finished runs do not have the
      number.
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
  """A number of `results.jsonl`, for each seed.

  Args:
    stage: whose runs are asked.
    where: field to the values that the row may have there.
    metric: field of the number.
    cells: those of the stage to ask; None for all.
  """
  cells = stage.cells if cells is None else cells
  values, errors, problems = {}, {}, {}
  for cell in cells:
    try:
      value, error = _number(cell, where, metric)
    except _Absent as why:
      problems[cell.name] = str(why)
    else:
      seed = cell.point.get(SEED, _WITHOUT_SEED)
      values[seed], errors[seed] = value, error
  done = [cell for cell in cells if cell.state == DONE]
  unknown = ''
  if done and not values and not _has(done, where, metric):
    asked = ', '.join(
      f'{name} {" or ".join(map(repr, names))}' for name, names in where.items()
    )
    unknown = f'{done[0].name}/results.jsonl: no {metric!r} with {asked}; ' + (
      '; '.join(f'{name} is one of {_seen(done, name)}' for name in where)
      + f'; numbers are {_seen_numbers(done)}.'
    )
  # A failure says more than that others have not run.
  told = sorted(problems.values(), key=lambda text: not text.startswith(FAILED))
  return Measure(
    values, errors, len(cells), told[0] if told else '', unknown, stage
  )


def paired(*measures: Measure) -> list[list[float]]:
  """The numbers of the seeds that all have, one list a measure.

  A stage without seeds has the same number beside every seed.
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
  """A cell does not have a number; says why."""


def _number(
  cell: Cell, where: Mapping[str, Collection[str]], metric: str
) -> tuple[float, float]:
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
  return float(value), float(error) if is_number(error) else math.nan


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
    if is_number(value) and not name.endswith(summaries.ERRORS)
  }
  return ', '.join(found) or 'nothing'
