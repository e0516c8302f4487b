"""Runs many commands from one gin file, and gathers one table of results.

    python -m hypertuning.sweep --gin_file=gin/sweeps/sweep.gin \\
      --gin_file=my_sweep.gin --gin.SWEEP_DIR="'runs/sweep'"

A sweep has stages and axes. A stage is one command, such as a training or an
evaluation, and may start from the results of another stage. An axis has points,
such as the seeds of an axis `seed`; a point is a set of bindings. A cell is a
stage at one point of each of its axes, and runs as a process of its own.

The same command, started again, continues where the sweep stopped: a finished
cell never runs twice, and a failed cell is tried again. When a cell fails, the
cells that do not need its results still run. If two sweeps are started with the
same folder, they divide the cells between them.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.sweep', 'sweep')

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from hypertuning.errors import UserError
from hypertuning.ranges import Count, Name, Path
from hypertuning.reporting import sweep_results as reporting
from hypertuning.reporting import sweep_table
from hypertuning.sweeping import cells, expansion, scheduler
from hypertuning.sweeping.cells import Cell


def sweep(
  *,
  output_dir: Path,
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
  num_workers: Count = 1,
  metric: Name = 'accuracy',
  phi: Name | None = None,
  average_over: Name = 'seed',
) -> Sequence[Cell]:
  """Runs the cells that are not done, and writes the tables.

  Args:
    output_dir: folder that gets `cells/STAGE/POINT`, `table.csv`, `table.md`,
      `table.png`, and `cells.csv` with the numbers of every cell.
    stages: maps the name of each stage to a dict with these fields:

      - `command`: module that runs, such as `hypertuning.train` or `t5x.eval`;
      - `gin_files`: gin files of the command;
      - `bindings` (optional): maps names to values;
      - `axes` (optional): names of the axes that the stage has; all by default;
      - `points` (optional): maps an axis to the labels of the points that the
        stage has on it; all by default;
      - `after` (optional): maps a binding to the stage whose folder is its
        value, at the same point. `STAGE/LABEL` names another point. In both
        forms, `{axis}` stands for the label of this stage's own point on that
        axis, as in `train/shared_{method}`.
    axes: maps the name of each axis to its points, and the label of each point
      to a dict of bindings: `{'seed': {'0': {'RANDOM_SEED': 0}}}`. In that
      dict, these names have a meaning of their own:

      - `gin_files`: files that are read before those of the stage;
      - `last_gin_files`: files that are read after those of the stage;
      - `after`: as in a stage; it adds to the stage's entries or replaces them;
      - `stages`: names of the stages that the dict applies to; all by default;
      - `per_stage`: maps the name of a stage to a dict of the same kind, which
        applies to that stage alone.

      If a name is bound more than once, a point wins over the stage, a later
      axis over an earlier one, and `per_stage` over the rest of its point.
    num_workers: number of cells that run at the same time on this machine.
    metric: metric that the Markdown table and the plot show; the CSV files have
      all metrics.
    phi: phi mode that the Markdown table and the plot show; None shows all.
    average_over: axis whose points are summarized by a mean and an interval.

  Returns:
    All cells of the sweep.

  Raises:
    UserError: the input is bad, or cells failed. Failed cells are reported once
      all other cells have ended.
  """
  axes = {} if axes is None else axes
  work = expansion.expand(output_dir, stages, axes)
  if average_over != reporting.SEED and average_over not in axes:
    raise UserError(
      f'AVERAGE_OVER = {average_over!r}: no such axis; AXES has '
      f'{", ".join(axes or ("none",))}.'
    )
  cells.claim(output_dir, work)
  # Which cells are done is asked before the results are read. In the other
  # order, a cell that another process finishes in between would look as if it
  # were done without results.
  finished_cells = [cell for cell in work if cell.is_done]
  broken = _unusable(reporting.read(output_dir))
  for cell in finished_cells:
    # A training that runs again finds its last checkpoint, has nothing to do,
    # and mends nothing.
    if cell.folder in broken and not cell.has_checkpoints:
      cell.reopen()
  num_done = sum(cell.is_done for cell in work)
  print(
    f'{len(work)} cells, {num_done} done before, '
    f'{len(work) - num_done} to run.',
    flush=True,
  )
  scheduler.run(work, num_workers)
  results = reporting.read(output_dir)
  sweep_table.write(results, metric, phi, average_over)
  reasons = _unusable(results)
  failed_cells = [cell for cell in work if cell.folder in reasons]
  if failed_cells:
    first = failed_cells[0]
    count = f'{len(failed_cells)} of {len(work)} cells failed, the first: '
    if first.is_done:
      raise UserError(
        f'{count}{first.folder} has run, but {reasons[first.folder]}; mend the '
        'file or delete the folder.'
      )
    raise UserError(
      f'{count}{reasons[first.folder]} (see '
      f'{first.folder / cells.LOG}). Run the same command again '
      'to try them once more.'
    )
  return work


def _unusable(results: reporting.Sweep) -> dict[epath.Path, str]:
  """Maps the folder of each cell without usable results to the reason."""
  return {
    results.folder / cell.name: cell.reason or cell.state
    for stage in results.stages.values()
    for cell in stage.cells
    if cell.state != reporting.DONE
  }
