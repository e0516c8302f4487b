"""Curves: numbers against steps, one line for each run of a stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from hypertuning.errors import UserError
from hypertuning.reporting import measures, statistics
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import DONE, FAILED, Cell, Stage

Line = Mapping[float, Mapping[str, float]]  # step to the numbers there


@dataclasses.dataclass(frozen=True)
class Curves:
  """The lines of a stage's runs.

  Attributes:
    lines: one line for each run that has one.
    planned: number of runs that the stage has in the sweep.
    problem: why a run has no line; empty if all have one.
  """

  lines: Sequence[Line]
  planned: int
  problem: str

  @property
  def steps(self) -> list[float]:
    """Steps that all lines have; at others, the mean would jump."""
    if not self.lines:
      return []
    first, *rest = self.lines
    return sorted(step for step in first if all(step in r for r in rest))

  def at(self, step: float, field: str) -> list[float]:
    """The number of every line at a step."""
    return [line[step][field] for line in self.lines]

  def estimates(self, field: str) -> list[tuple[float, Estimate]]:
    """The mean over lines and its interval at every step."""
    return [
      (step, statistics.mean(self.at(step, field))) for step in self.steps
    ]


def read(
  stage: Stage, line_of: Callable[[Cell], Line], file: str, fields: str
) -> Curves:
  """The lines of a stage's finished runs.

  Args:
    stage: the stage whose runs are read.
    line_of: function from a finished run to its line, empty if it has none.
    file: name of the file that lines come from, for the message of an error.
    fields: the fields that a line needs, for the message of an error.

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
  if not lines and stage.done and set(problems) == {'not measured'}:
    raise UserError(f'{stage.done[0].name}/{file}: no rows with {fields}.')
  # A failure says more than that others have not run.
  problems.sort(key=lambda text: not text.startswith(FAILED))
  return Curves(lines, len(stage.cells), problems[0] if problems else '')
