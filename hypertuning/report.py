"""One table and one plot from several evaluations.

    python -m hypertuning.report --gin_file=gin/quickstart/report.gin \\
      --gin.RUNS_DIR="'runs/quickstart'"

Reads the `results.jsonl` that `hypertuning.eval` wrote; writes `<name>.md`,
`<name>.csv` and `<name>.png`, a row a method and a column a task.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.report', 'report')  # see there why it comes first

import csv
import json
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np

from hypertuning import summaries
from hypertuning.errors import UserError

matplotlib.use('Agg')
from matplotlib import pyplot  # noqa: E402 the backend comes first

Cell = tuple[float, float]  # a value and its standard error (nan if unknown)
# Grey says that nothing was learnt from the examples, blue that phi was.
_COLOURS = ('#9aa5b1', '#2f6fb3')


def report(
  *,
  runs_dir: str,
  methods: Mapping[str, tuple[str, str]],
  output_dir: str,
  name: str = 'accuracy',
  metric: str = 'accuracy',
  title: str = '',
  tasks: Mapping[str, str] | None = None,
  highlighted: Sequence[str] = (),
) -> dict[str, dict[str, Cell]]:
  """Compares methods by one metric.

  Args:
    runs_dir: the folder that the methods' folders are in.
    methods: name of a method to the folder of its evaluation and the phi mode
      (`generated`, `other`, `none`) there.
    output_dir: where the report is written.
    name: of the files.
    metric: a number of `results.jsonl`, such as `accuracy`, `loss` or `gap`.
    title: of table and plot.
    tasks: name of a task in the results to its column, in order; tasks that are
      not named are left out. None shows all under their own names.
    highlighted: methods drawn in the accent colour.

  Returns:
    Method to task to (value, standard error).

  Raises:
    UserError: an evaluation is missing, or has not this mode or metric; names
      the file.
  """
  cells = {
    method: _read(pathlib.Path(runs_dir, folder), mode, metric, tasks)
    for method, (folder, mode) in methods.items()
  }
  found = (task for row in cells.values() for task in row)
  columns = list(dict.fromkeys(tasks.values() if tasks else found))
  table = _markdown(cells, columns, metric, title)
  summaries.write_text(output_dir, f'{name}.md', table)
  _write_csv(pathlib.Path(output_dir, f'{name}.csv'), cells, columns)
  plot = pathlib.Path(output_dir, f'{name}.png')
  _plot(plot, cells, columns, metric, title, highlighted)
  print(f'{table}\nPlot: {plot}')
  return cells


def _read(
  folder: pathlib.Path,
  mode: str,
  metric: str,
  tasks: Mapping[str, str] | None,
) -> dict[str, Cell]:
  """One method's numbers by column."""
  path = folder / 'results.jsonl'
  try:
    lines = path.read_text(encoding='utf-8').splitlines()
    rows = [json.loads(line) for line in lines]
  except FileNotFoundError as error:
    raise UserError(
      f'{path}: no such file; run hypertuning.eval with EVAL_OUTPUT_DIR = '
      f'{str(folder)!r} first.'
    ) from error
  except ValueError as error:
    raise UserError(f'{path}: not JSON lines ({error}).') from error
  chosen = [row for row in rows if row['phi'] == mode and metric in row]
  if not chosen:
    there = sorted({row['phi'] for row in rows})
    raise UserError(
      f'{path}: no {metric!r} with phi {mode!r}; phi is one of {there}.'
    )
  return {
    (tasks[row['task']] if tasks else row['task']): (
      row[metric],
      row.get(f'{metric}_stderr', np.nan),
    )
    for row in chosen
    if tasks is None or row['task'] in tasks
  }


def _markdown(
  cells: Mapping[str, Mapping[str, Cell]],
  columns: Sequence[str],
  metric: str,
  title: str,
) -> str:
  lines = [[title or metric, *columns], ['---'] * (1 + len(columns))]
  for method, row in cells.items():
    shown = [
      summaries.shown(metric, *row[task]) if task in row else ''
      for task in columns
    ]
    lines.append([method, *shown])
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _write_csv(
  path: pathlib.Path,
  cells: Mapping[str, Mapping[str, Cell]],
  columns: Sequence[str],
) -> None:
  with path.open('w', encoding='utf-8', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['method', 'task', 'value', 'stderr'])
    for method, row in cells.items():
      for task in columns:
        if task in row:
          writer.writerow([method, task, *row[task]])


def _plot(
  path: pathlib.Path,
  cells: Mapping[str, Mapping[str, Cell]],
  columns: Sequence[str],
  metric: str,
  title: str,
  highlighted: Sequence[str],
) -> None:
  """Horizontal bars with 95% intervals, a panel a task."""
  methods = list(cells)
  figure, axes = pyplot.subplots(
    1,
    len(columns),
    figsize=(2.2 + 2.8 * len(columns), 1.2 + 0.42 * len(methods)),
    sharey=True,
    squeeze=False,
    layout='constrained',
  )
  for axis, task in zip(axes[0], columns, strict=True):
    values = [cells[m].get(task, (np.nan, np.nan)) for m in methods]
    bars = axis.barh(
      methods,
      [value for value, _ in values],
      xerr=[1.96 * error for _, error in values],
      color=[_COLOURS[method in highlighted] for method in methods],
      error_kw={'capsize': 3, 'elinewidth': 1},
    )
    labels = [summaries.shown(metric, value) for value, _ in values]
    axis.bar_label(bars, labels, padding=4, fontsize=8)
    axis.set_title(task, fontsize=9)
    axis.set_xlabel(metric, fontsize=8)
    axis.margins(x=0.18)
    axis.spines[['top', 'right']].set_visible(False)
  axes[0][0].invert_yaxis()  # the first method on top
  figure.suptitle(title, fontsize=10)
  figure.savefig(path, dpi=150)
  pyplot.close(figure)
