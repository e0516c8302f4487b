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

# Columns that an estimate has in a CSV file.
ESTIMATE = ('mean', 'low', 'high', 'n', 'planned', 'note')


@dataclasses.dataclass(frozen=True)
class Text:
  """Text in one cell of a table.

  Attributes:
    text: the text.
    kind: `text`, `number`, `absent` (the text says why there is no number), or
      a verdict: `holds`, `fails`, `open`.
    small: remark in small letters below the text.
  """

  text: str
  kind: str = 'text'
  small: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """A table, and the same as numbers.

  Attributes:
    name: name of its files, `<name>.md` and `<name>.csv`.
    columns: head of each column.
    rows: rows of the table.
    records: rows of the CSV file, column to value.
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
  """A part of the page.

  Attributes:
    name: name of its anchor.
    title: heading.
    text: sentence that says what the section shows.
    figures: figures, above the tables.
    tables: tables.
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
  text = estimated(metric, estimate, measure.planned)
  count = f'{measure.questions} questions' if measure.questions else ''
  small = ' · '.join(filter(None, (text.small, count)))
  return dataclasses.replace(text, small=small)


def estimated(metric: str, estimate: Estimate, planned: int) -> Text:
  """A mean with half the width of its interval."""
  half = estimate.high - estimate.mean
  text = tables.number(metric, estimate.mean, half)
  return Text(text, 'number', few(estimate.n, planned))


def digits(metric: str) -> int:
  """Decimals of a number: nats need more of them than percent."""
  return 3 if metric in ('loss', 'gap') else 1


def label(metric: str, measure: Measure) -> str:
  """Label of a bar: the number, or a word that says why there is none."""
  estimate = measure.estimate
  if estimate is None:
    return measure.problem.partition(':')[0]
  text = tables.number(metric, estimate.mean)
  return f'{text} {few(estimate.n, measure.planned)}'.rstrip()


def line_label(name: str, lines: Curves) -> str:
  """A name, with the number of runs if some of them are missing."""
  remark = few(len(lines.lines), lines.planned)
  if not lines.lines:
    remark = lines.problem.partition(':')[0]
  return f'{name} ({remark})' if remark else name


def interval(estimate: Estimate, planned: int, digits: int = 2) -> Text:
  """A number with the ends of its interval."""
  if math.isnan(estimate.mean):
    return Text('undefined', 'absent')
  text = f'{estimate.mean:.{digits}f}'
  if math.isinf(estimate.low):
    text += ' [unbounded]'
  elif estimate.has_interval:
    text += f' [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]'
  return Text(text, 'number', few(estimate.n, planned))


def few(n: int, planned: int) -> str:
  """Says how many runs there are, if fewer than planned; else empty."""
  return f'n = {n} of {planned}' if n < planned else ''


def record(measure: Measure) -> dict[str, Any]:
  """The columns `ESTIMATE` for a measure, and `questions`."""
  return {
    **estimate_record(measure.estimate, measure.planned, measure.problem),
    'questions': measure.questions,
  }


def estimate_record(
  estimate: Estimate | None, planned: int, problem: str = ''
) -> dict[str, Any]:
  """The columns `ESTIMATE`; unknown values are empty."""
  if estimate is None:
    values: tuple[Any, ...] = ('', '', '', 0)
  else:
    ends = (estimate.low, estimate.high) if estimate.has_interval else ('', '')
    values = (estimate.mean, *ends, estimate.n)
  return dict(zip(ESTIMATE, (*values, planned, problem), strict=True))
