"""The cells of a sweep as a table: CSV, Markdown, PNG."""

import csv
import io
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import matplotlib

from hypertuning import summaries
from hypertuning.errors import UserError
from hypertuning.reporting import statistics
from hypertuning.reporting.cells import DONE, Cell, Row, Sweep

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402 the backend comes first

Key = tuple[str, ...]


def write(
  sweep: Sweep, metric: str, phi: str | None, average_over: str
) -> None:
  """Writes `table.csv`, `table.md` and `table.png`, and prints the second.

  Args:
    sweep: whose cells are gathered, those that failed as well.
    metric: of Markdown and plot.
    phi: mode of Markdown and plot; all if None.
    average_over: axis whose points become a mean and a 95% interval.

  Raises:
    UserError: no cell has the metric with this phi.
  """
  folder = str(sweep.folder)
  summaries.write_text(folder, 'table.csv', _csv(sweep))
  axes = [axis for axis in sweep.axes if axis != average_over]
  groups: dict[Key, list[float]] = {}
  for stage, cell, row in _results(sweep):
    if metric in row and (phi is None or row['phi'] == phi):
      key = (*_place(stage, cell, axes), row['phi'], row['task'])
      groups.setdefault(key, []).append(row[metric])
  failed = {
    (*_place(stage, cell, axes), '', ''): cell.told
    for stage, cell in _cells(sweep)
    if cell.state != DONE
  }
  if not groups and not failed and any(_results(sweep)):
    there = sorted({name for _, _, row in _results(sweep) for name in row})
    raise UserError(
      f'METRIC = {metric!r}, PHI = {phi!r}: no cell has it; there is '
      f'{", ".join(there)}.'
    )
  table = _markdown(axes, groups, failed, metric)
  summaries.write_text(folder, 'table.md', table)
  if groups:
    _plot(sweep.folder / 'table.png', groups, metric)
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


def _csv(sweep: Sweep) -> str:
  """A line a number; a line a failure."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  axes = list(sweep.axes)
  writer.writerow(
    ['stage', *axes, 'task', 'phi', 'metric', 'value', 'stderr', 'failure']
  )
  for stage, cell, row in _results(sweep):
    for name, value in row.items():
      if isinstance(value, float) and not name.endswith('_stderr'):
        error = row.get(f'{name}_stderr', '')
        told = [row['task'], row['phi'], name, value, error, '']
        writer.writerow([*_place(stage, cell, axes), *told])
  for stage, cell in _cells(sweep):
    if cell.state != DONE:
      writer.writerow([*_place(stage, cell, axes), *[''] * 5, cell.told])
  return text.getvalue()


def _markdown(
  axes: Sequence[str],
  groups: Mapping[Key, Sequence[float]],
  failed: Mapping[Key, str],
  metric: str,
) -> str:
  head = ['stage', *axes, 'phi', 'task', metric, '95% interval', 'cells']
  lines = [head]
  for key, values in groups.items():
    found = statistics.mean(values)
    between = ''
    if found.has_interval:
      ends = (summaries.shown(metric, x) for x in (found.low, found.high))
      between = ' to '.join(ends)
    shown = summaries.shown(metric, found.mean)
    lines.append([*key, shown, between, f'{found.n}'])
  for key, why in failed.items():
    lines.append([*key, re.sub(r'\|', '/', why), '', ''])
  return summaries.markdown(lines)


def _plot(
  path: pathlib.Path, groups: Mapping[Key, Sequence[float]], metric: str
) -> None:
  """A line a group: its cells as dots, their mean as a bar."""
  labels = [' · '.join(filter(None, key)) for key in groups]
  figure, axis = pyplot.subplots(
    figsize=(7, 1 + 0.32 * len(labels)), layout='constrained'
  )
  for i, values in enumerate(groups.values()):
    axis.barh(i, statistics.mean(values).mean, color='#c5d6e8')
    axis.plot(values, [i] * len(values), 'o', color='#2f6fb3', markersize=4)
  axis.set_yticks(range(len(labels)), labels, fontsize=8)
  axis.set_xlabel(metric, fontsize=8)
  axis.invert_yaxis()  # the first group on top
  axis.spines[['top', 'right']].set_visible(False)
  temporary = path.with_name(f'.{path.name}')
  figure.savefig(temporary, dpi=150)
  temporary.replace(path)
  pyplot.close(figure)
