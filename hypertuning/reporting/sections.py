"""The parts of a section: tables, figures, and the texts of their cells."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning import tables
from hypertuning.reporting.curves import Curves
from hypertuning.reporting.measures import Measure
from hypertuning.reporting.statistics import Estimate
from hypertuning.reporting.sweep_results import Stage

# Columns of an estimate in a CSV file.
ESTIMATE = ('mean', 'low', 'high', 'n', 'planned', 'note')


@dataclasses.dataclass(frozen=True)
class Text:
  """The text in one cell of a table.

  Attributes:
    text: text in letters of the usual size.
    kind: kind of the text, which decides its style: `text`, `number`, `absent`
      (a reason why there is no number), or a verdict: `holds`, `fails`, `open`.
    small: remark in small letters below the text.
  """

  text: str
  kind: str = 'text'
  small: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, with its numbers for a CSV file.

  Attributes:
    name: name of its files, `<name>.md` and `<name>.csv`.
    columns: heads of the columns.
    rows: rows of the table, each with one text per column.
    records: rows of the CSV file; each maps columns to values.
    note: remark that helps to read the table.
    stages: stages whose runs the numbers come from.
  """

  name: str
  columns: Sequence[str]
  rows: Sequence[Sequence[Text]]
  records: Sequence[Mapping[str, Any]]
  note: str = ''
  stages: Sequence[Stage] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure.

  Attributes:
    svg: an `<svg>` element.
    note: remark that helps to read the figure.
    stages: stages whose runs the numbers come from.
  """

  svg: str
  note: str = ''
  stages: Sequence[Stage] = ()


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the page.

  Attributes:
    name: name of the section's anchor.
    title: heading of the section.
    text: sentence that says what the section shows.
    figures: figures of the section, which are above its tables.
    tables: tables of the section.
  """

  name: str
  title: str
  text: str
  figures: Sequence[Figure]
  tables: Sequence[Table]


INTERVALS = (
  '± and brackets: 95% intervals over seeds (Student’s t); of a stage that is '
  'one run, over its episodes as if they were independent, which says nothing '
  'of other tasks and other runs.'
)


def number(metric: str, measure: Measure) -> Text:
  """A mean with its interval, or the reason why there is none."""
  estimate = measure.estimate
  if estimate is None:
    return Text(measure.problem, 'absent')
  text = estimate_text(metric, estimate, measure.planned_runs)
  count = f'{measure.questions} questions' if measure.questions else ''
  small = ' · '.join(filter(None, (text.small, count)))
  return dataclasses.replace(text, small=small)


def estimate_text(metric: str, estimate: Estimate, planned_runs: int) -> Text:
  """A mean with half the width of its interval."""
  half = estimate.high - estimate.mean
  text = tables.number(metric, estimate.mean, half)
  return Text(text, 'number', run_count(estimate.n, planned_runs))


def digits(metric: str) -> int:
  """The number of decimals: nats need more of them than percent."""
  return 3 if metric in ('loss', 'gap') else 1


def label(metric: str, measure: Measure) -> str:
  """The label of a bar: the number, or a word that says why there is none."""
  estimate = measure.estimate
  if estimate is None:
    return measure.problem.partition(':')[0]
  text = tables.number(metric, estimate.mean)
  return f'{text} {run_count(estimate.n, measure.planned_runs)}'.rstrip()


def line_label(name: str, lines: Curves) -> str:
  """A name, with the number of runs if some of them are missing."""
  remark = run_count(len(lines.lines), lines.planned_runs)
  if not lines.lines:
    remark = lines.problem.partition(':')[0]
  return f'{name} ({remark})' if remark else name


def interval(estimate: Estimate, planned_runs: int, digits: int = 2) -> Text:
  """A number with the ends of its interval.

  Args:
    estimate: number and its interval.
    planned_runs: number of runs that the stage has in the sweep.
    digits: number of decimals.
  """
  if math.isnan(estimate.mean):
    return Text('undefined', 'absent')
  text = f'{estimate.mean:.{digits}f}'
  if math.isinf(estimate.low):
    text += ' [unbounded]'
  elif estimate.has_interval:
    text += f' [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]'
  return Text(text, 'number', run_count(estimate.n, planned_runs))


def run_count(n: int, planned_runs: int) -> str:
  """A remark on the number of runs; empty if all planned runs have a number.

  Args:
    n: number of runs that have a number.
    planned_runs: number of runs that the stage has in the sweep.
  """
  return f'n = {n} of {planned_runs}' if n < planned_runs else ''


def record(measure: Measure) -> dict[str, Any]:
  """Maps the columns `ESTIMATE` and `questions` to the values of a measure."""
  return {
    **estimate_record(measure.estimate, measure.planned_runs, measure.problem),
    'questions': measure.questions,
  }


def estimate_record(
  estimate: Estimate | None, planned_runs: int, problem: str = ''
) -> dict[str, Any]:
  """Maps the columns `ESTIMATE` to values; unknown values are empty.

  Args:
    estimate: number and its interval; None if there is none.
    planned_runs: number of runs that the stage has in the sweep.
    problem: reason why a run has no number.
  """
  if estimate is None:
    values: tuple[Any, ...] = ('', '', '', 0)
  else:
    ends = (estimate.low, estimate.high) if estimate.has_interval else ('', '')
    values = (estimate.mean, *ends, estimate.n)
  return dict(zip(ESTIMATE, (*values, planned_runs, problem), strict=True))
