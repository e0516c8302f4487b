"""The cells of a sweep as a table: CSV, Markdown, PNG."""

import csv
import io
import json
import pathlib
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from scipy import stats

from hypertuning import summaries
from hypertuning.errors import UserError
from hypertuning.sweeping.cells import Cell

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402 the backend comes first

Row = dict[str, Any]
Key = tuple[str, ...]


def write(
  output_dir: str,
  cells: Sequence[Cell],
  metric: str,
  phi: str | None,
  average_over: str,
) -> None:
  """Writes `table.csv`, `table.md` and `table.png`, and prints the second.

  Args:
    output_dir: of the sweep.
    cells: of the sweep, those that failed as well.
    metric: of Markdown and plot.
    phi: mode of Markdown and plot; all if None.
    average_over: axis whose points become a mean and a 95% interval.

  Raises:
    UserError: no cell has the metric with this phi.
  """
  rows = [(cell, row) for cell in cells for row in _results(cell)]
  summaries.write_text(output_dir, 'table.csv', _csv(cells, rows))
  axes = [axis for axis in _axes(cells) if axis != average_over]
  groups: dict[Key, list[float]] = {}
  for cell, row in rows:
    if metric in row and (phi is None or row['phi'] == phi):
      key = _key(cell, axes, row['phi'], row['task'])
      groups.setdefault(key, []).append(row[metric])
  failed = {
    _key(cell, axes, '', ''): cell.failure for cell in cells if not cell.is_done
  }
  if not groups and not failed:
    there = sorted({name for _, row in rows for name in row})
    raise UserError(
      f'sweep.metric = {metric!r}, sweep.phi = {phi!r}: no cell has it; there '
      f'is {", ".join(there)}.'
    )
  table = _markdown(axes, groups, failed, metric)
  summaries.write_text(output_dir, 'table.md', table)
  if groups:
    _plot(pathlib.Path(output_dir, 'table.png'), groups, metric)
  print(table)


def _axes(cells: Sequence[Cell]) -> list[str]:
  return list(dict.fromkeys(axis for cell in cells for axis in cell.point))


def _key(cell: Cell, axes: Sequence[str], phi: str, task: str) -> Key:
  return (cell.stage, *(cell.point.get(axis, '') for axis in axes), phi, task)


def _results(cell: Cell) -> Iterator[Row]:
  """Rows of an evaluation of ours, or of t5x, which has one mode of phi."""
  if not cell.is_done:
    return
  path = cell.folder / 'results.jsonl'
  if path.exists():
    yield from map(json.loads, path.read_text('utf-8').splitlines())
    return
  for path in sorted(cell.folder.glob('inference_eval/*-metrics.jsonl')):
    newest = path.read_text('utf-8').splitlines()[-1]
    task = path.name.removesuffix('-metrics.jsonl')
    yield {'task': task, 'phi': 'generated', **json.loads(newest)}


def _csv(cells: Sequence[Cell], rows: Sequence[tuple[Cell, Row]]) -> str:
  """A line a number; a line a failure."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  axes = _axes(cells)

  def place(cell: Cell) -> list[str]:
    return [cell.stage, *(cell.point.get(axis, '') for axis in axes)]

  writer.writerow(
    ['stage', *axes, 'task', 'phi', 'metric', 'value', 'stderr', 'failure']
  )
  for cell, row in rows:
    for name, value in row.items():
      if isinstance(value, float) and not name.endswith('_stderr'):
        error = row.get(f'{name}_stderr', '')
        told = [row['task'], row['phi'], name, value, error, '']
        writer.writerow([*place(cell), *told])
  for cell in cells:
    if not cell.is_done:
      writer.writerow([*place(cell), *[''] * 5, cell.failure])
  return text.getvalue()


def _markdown(
  axes: Sequence[str],
  groups: Mapping[Key, Sequence[float]],
  failed: Mapping[Key, str | None],
  metric: str,
) -> str:
  head = ['stage', *axes, 'phi', 'task', metric, '95% interval', 'cells']
  lines = [head, ['---'] * len(head)]
  for key, values in groups.items():
    mean = statistics.fmean(values)
    between = ' to '.join(
      summaries.shown(metric, end) for end in _interval(values)
    )
    shown = summaries.shown(metric, mean)
    lines.append([*key, shown, between, f'{len(values)}'])
  for key, why in failed.items():
    lines.append([*key, 'failed', re.sub(r'\|', '/', why or ''), ''])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _interval(values: Sequence[float]) -> tuple[float, ...]:
  """The 95% interval of the mean by Student's t; none of a single value."""
  if len(values) < 2:
    return ()
  error = statistics.stdev(values) / np.sqrt(len(values))
  return stats.t.interval(
    0.95, len(values) - 1, statistics.fmean(values), error
  )


def _plot(
  path: pathlib.Path, groups: Mapping[Key, Sequence[float]], metric: str
) -> None:
  """A line a group: its cells as dots, their mean as a bar."""
  labels = [' · '.join(filter(None, key)) for key in groups]
  figure, axis = pyplot.subplots(
    figsize=(7, 1 + 0.32 * len(labels)), layout='constrained'
  )
  for i, values in enumerate(groups.values()):
    axis.barh(i, statistics.fmean(values), color='#c5d6e8')
    axis.plot(values, [i] * len(values), 'o', color='#2f6fb3', markersize=4)
  axis.set_yticks(range(len(labels)), labels, fontsize=8)
  axis.set_xlabel(metric, fontsize=8)
  axis.invert_yaxis()  # the first group on top
  axis.spines[['top', 'right']].set_visible(False)
  temporary = path.with_name(f'.{path.name}')
  figure.savefig(temporary, dpi=150)
  temporary.replace(path)
  pyplot.close(figure)
