"""Writes the results of a sweep as tables (CSV, Markdown) and a plot (PNG)."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
from etils import epath

from hypertuning import files, tables
from hypertuning.errors import UserError
from hypertuning.reporting import measures, statistics
from hypertuning.reporting.sweep_results import DONE, FAILED, Cell, Row, Sweep

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402 the backend comes first

Key = tuple[str, ...]


def write(
  sweep: Sweep, metric: str, phi: str | None, average_over: str
) -> None:
  """Writes `cells.csv`, `table.csv`, `table.md` and `table.png`.

  The Markdown table is printed as well.

  Args:
    sweep: sweep whose cells are shown; failed cells are listed too.
    metric: metric that the Markdown table and the plot show.
    phi: phi mode that the Markdown table and the plot show; None shows all.
    average_over: name of the axis whose points are summarized by a mean and a
      95% interval.

  Raises:
    UserError: no cell has the metric in this phi mode.
  """
  folder = sweep.folder
  files.write_text(folder, 'cells.csv', _numbers(sweep))
  axes = [axis for axis in sweep.axes if axis != average_over]
  groups: dict[Key, list[float]] = {}
  counts: dict[Key, list[object]] = {}
  failures: dict[Key, list[str]] = {}
  for stage, cell, row in _results(sweep):
    for name, value in _metrics(row):
      place = _place(stage, cell, axes)
      if measures.is_number(value):
        key = (*place, row['phi'], row['task'], name)
        groups.setdefault(key, []).append(value)
        counts.setdefault(key, []).append(row.get('questions'))
      else:
        reason = f'{FAILED}: {cell.name}: {name} of {row["task"]} is {value}'
        failures.setdefault(place, []).append(reason)
  for stage, cell in _cells(sweep):
    if cell.state != DONE:
      failures.setdefault(_place(stage, cell, axes), []).append(cell.state_text)
  questions = {
    key: measures.questions(values) for key, values in counts.items()
  }
  files.write_text(folder, 'table.csv', _csv(axes, groups, questions, failures))
  selected = {
    key[:-1]: values
    for key, values in groups.items()
    if key[-1] == metric and phi in (None, key[-3])
  }
  if not selected and groups:
    raise UserError(
      f'METRIC = {metric!r}, PHI = {phi!r}: no cell has it; there is '
      f'{", ".join(sorted({key[-1] for key in groups}))}, with '
      f'{", ".join(sorted({key[-3] for key in groups}))}.'
    )
  questions = {key[:-1]: n for key, n in questions.items() if key[-1] == metric}
  table = _markdown(axes, selected, questions, failures, metric)
  files.write_text(folder, 'table.md', table)
  if selected:
    _plot(sweep.folder / 'table.png', selected, metric)
  print(table)


def _cells(sweep: Sweep) -> Iterator[tuple[str, Cell]]:
  for stage in sweep.stages.values():
    for cell in stage.cells:
      yield stage.name, cell


def _results(sweep: Sweep) -> Iterator[tuple[str, Cell, Row]]:
  for stage, cell in _cells(sweep):
    for row in cell.tables.get('results', ()):
      if 'task' in row and 'phi' in row:
        yield stage, cell, row


def _place(stage: str, cell: Cell, axes: Sequence[str]) -> Key:
  return (stage, *(cell.point.get(axis, '') for axis in axes))


def _metrics(row: Row) -> Iterator[tuple[str, float]]:
  for name, value in row.items():
    if isinstance(value, float) and not name.endswith(tables.ERRORS):
      yield name, value


def _numbers(sweep: Sweep) -> str:
  """A CSV file with one line per number of a cell, and one per failure."""
  axes = list(sweep.axes)
  lines: list[Sequence[Any]] = [
    [
      *('stage', *axes, 'phi', 'task', 'metric'),
      *('value', 'stderr', 'questions', 'failure'),
    ]
  ]
  for stage, cell, row in _results(sweep):
    for name, value in _metrics(row):
      error = row.get(f'{name}_stderr', '')
      questions = row.get('questions', '')
      number = [row['phi'], row['task'], name, value, error, questions, '']
      lines.append([*_place(stage, cell, axes), *number])
  for stage, cell in _cells(sweep):
    if cell.state != DONE:
      lines.append([*_place(stage, cell, axes), *[''] * 6, cell.state_text])
  return _lines(lines)


def _csv(
  axes: Sequence[str],
  groups: Mapping[Key, Sequence[float]],
  questions: Mapping[Key, str],
  failures: Mapping[Key, Sequence[str]],
) -> str:
  """A CSV file with one line per mean, and one per failure."""
  lines: list[Sequence[Any]] = [
    [
      *('stage', *axes, 'phi', 'task', 'metric'),
      *('mean', 'low', 'high', 'cells', 'questions', 'failure'),
    ]
  ]
  for key, values in groups.items():
    estimate = statistics.mean(values)
    ends = (estimate.low, estimate.high) if estimate.has_interval else ('', '')
    lines.append([*key, estimate.mean, *ends, estimate.n, questions[key], ''])
  for place, reasons in failures.items():
    lines += [[*place, *[''] * 8, reason] for reason in reasons]
  return _lines(lines)


def _lines(lines: Sequence[Sequence[Any]]) -> str:
  text = io.StringIO()
  csv.writer(text, lineterminator='\n').writerows(lines)
  return text.getvalue()


def _markdown(
  axes: Sequence[str],
  groups: Mapping[Key, Sequence[float]],
  questions: Mapping[Key, str],
  failures: Mapping[Key, Sequence[str]],
  metric: str,
) -> str:
  head = ['stage', *axes, 'phi', 'task', metric, '95% interval', 'cells']
  head.append('questions')
  lines = [head]
  for key, values in groups.items():
    estimate = statistics.mean(values)
    interval = ''
    if estimate.has_interval:
      ends = (tables.number(metric, x) for x in (estimate.low, estimate.high))
      interval = ' to '.join(ends)
    text = tables.number(metric, estimate.mean)
    lines.append([*key, text, interval, f'{estimate.n}', questions[key]])
  for place, reasons in failures.items():
    for reason in reasons:
      lines.append([*place, '', '', re.sub(r'\|', '/', reason), '', '', ''])
  return tables.markdown(lines)


def _plot(
  path: epath.Path, groups: Mapping[Key, Sequence[float]], metric: str
) -> None:
  """Draws one bar per group, the mean of its cells, and the cells as dots."""
  labels = [' · '.join(filter(None, key)) for key in groups]
  figure, axis = pyplot.subplots(
    # Matplotlib draws at most 2^16 pixels per side.
    figsize=(7, min(1 + 0.32 * len(labels), 400)),
    layout='constrained',
  )
  for i, values in enumerate(groups.values()):
    axis.barh(i, statistics.mean(values).mean, color='#c5d6e8')
    axis.plot(values, [i] * len(values), 'o', color='#2f6fb3', markersize=4)
  axis.set_yticks(range(len(labels)), labels, fontsize=8)
  axis.set_xlabel(metric, fontsize=8)
  axis.invert_yaxis()  # the first group on top
  axis.spines[['top', 'right']].set_visible(False)
  with files.atomic_file(path) as temporary:
    figure.savefig(temporary, dpi=150)
  pyplot.close(figure)
