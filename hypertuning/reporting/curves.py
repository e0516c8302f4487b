"""Curves: numbers against steps, with one line per run of a stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from hypertuning.errors import UserError
from hypertuning.reporting import measures, statistics
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import DONE, FAILED, Cell, Stage

# Maps each step to the numbers that were measured there, by name.
Line = Mapping[float, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Curves:
  """The lines of a stage's runs.

  Attributes:
    lines: lines of the runs, one per run that has a line.
    planned_runs: number of runs that the stage has in the sweep.
    problem: reason why a run has no line; empty if all runs have one.
  """

  lines: Sequence[Line]
  planned_runs: int
  problem: str

  @property
  def steps(self) -> list[float]:
    """The steps that all lines have.

    At other steps, the mean would be over fewer lines, and would jump.
    """
    if not self.lines:
      return []
    first, *rest = self.lines
    return sorted(step for step in first if all(step in r for r in rest))

  def values_at(self, step: float, field: str) -> list[float]:
    """The numbers of all lines at a step.

    Args:
      step: step that all lines have.
      field: name of the number.
    """
    return [line[step][field] for line in self.lines]

  def estimates(self, field: str) -> list[tuple[float, Estimate]]:
    """The mean over lines, with its interval, at every step."""
    return [
      (step, statistics.mean(self.values_at(step, field)))
      for step in self.steps
    ]


def read(
  stage: Stage, line_of: Callable[[Cell], Line], file: str, fields: str
) -> Curves:
  """Reads the lines of a stage's finished runs.

  Args:
    stage: stage whose runs are read.
    line_of: function from a finished run to its line, which is empty if the run
      has none.
    file: name of the file that lines are read from, for an error message.
    fields: names of the fields that a line needs, for an error message.

  Raises:
    UserError: no finished run has a line.
  """
  lines, problems = [], []
  for cell in stage.cells:
    line = line_of(cell) if cell.state == DONE else {}
    numbers = [number for values in line.values() for number in values.values()]
    if cell.state != DONE:
      problems.append(cell.state_text)
    elif not line:
      problems.append('not measured')
    elif not all(map(measures.is_number, [*line, *numbers])):
      problems.append(f'{FAILED}: {cell.name} has steps without a number')
    else:
      lines.append(line)
  if not lines and stage.finished_cells and set(problems) == {'not measured'}:
    raise UserError(
      f'{stage.finished_cells[0].name}/{file}: no rows with {fields}.'
    )
  # The reason of a failure is more useful than that other runs are missing.
  problems.sort(key=lambda text: not text.startswith(FAILED))
  return Curves(lines, len(stage.cells), problems[0] if problems else '')
