"""Runs many commands from one gin file, and gathers one table of results.

    python -m hypertuning.sweep --gin_file=gin/sweeps/sweep.gin \\
      --gin_file=my_sweep.gin --gin.SWEEP_DIR="'runs/sweep'"

A sweep has stages and axes. A stage is one command: a training, an evaluation,
a tuning. It may start from the results of another stage. An axis has points,
such as seeds, shots or methods, and a point is a set of bindings. A cell is a
stage at one point of each of its axes; it runs as a process of its own.

The same command, started again, goes on where it stopped: a finished cell
never runs twice, and a failed one is tried again. When a cell fails, those that
do not need its results still run. Two sweeps that are started over one folder
share the cells.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.sweep', 'sweep')  # see there why it comes first

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning.errors import UserError
from hypertuning.reporting import sweep_results as reporting
from hypertuning.reporting import sweep_table
from hypertuning.sweeping import cells, expansion, scheduler
from hypertuning.sweeping.cells import Cell


def sweep(
  *,
  output_dir: str,
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
  num_workers: int = 1,
  metric: str = 'accuracy',
  phi: str | None = None,
  average_over: str = 'seed',
) -> Sequence[Cell]:
  """Runs the cells that are not done, and writes the tables.

  Args:
    output_dir: folder that gets `cells/STAGE/POINT`, `table.csv`, `table.md`,
      `table.png`, and `cells.csv` with the numbers of every cell.
    stages: name of a stage to a dict with

      - `command`, such as `hypertuning.train` or `t5x.eval`;
      - `gin_files` of the command;
      - `bindings` (optional);
      - `axes` (optional): names of the axes that concern the stage, all by
        default;
      - `points` (optional): axis to the labels of those points that the stage
        has, all by default;
      - `after` (optional): a binding to the stage whose folder it gets, at the
        same point. `STAGE/LABEL` means another point, and `{axis}` in it is the
        label on that axis: `train/shared_{method}`.
    axes: name of an axis to its points; label of a point to a dict of bindings,
      such as `{'seed': {'0': {'RANDOM_SEED': 0}}}`. Some names are no bindings:

      - `gin_files` stand before those of the stage, `last_gin_files` behind;
      - `after` replaces or adds to the stage's;
      - `stages`: names of the only stages that the dict is for;
      - `per_stage`: name of a stage to a dict of the same kind, for it alone.

      Where a name is bound twice, a point wins over the stage, a later axis
      over an earlier one, and `per_stage` over the rest of its point.
    num_workers: number of cells that run at a time, on this machine.
    metric: metric in the Markdown table and the plot; the CSV files have all.
    phi: phi mode in the Markdown table and the plot; all modes if None.
    average_over: axis whose points become a mean and an interval.

  Returns:
    All cells.

  Raises:
    UserError: the input is wrong, or cells failed; the latter is raised when
      all others are done.
  """
  if not isinstance(num_workers, int) or num_workers < 1:
    raise UserError(f'NUM_WORKERS = {num_workers!r}: give 1 or more.')
  axes = {} if axes is None else axes
  work = expansion.expand(output_dir, stages, axes)
  if average_over != reporting.SEED and average_over not in axes:
    raise UserError(
      f'AVERAGE_OVER = {average_over!r}: no such axis; AXES has '
      f'{", ".join(axes or ("none",))}.'
    )
  cells.claim(output_dir, work)
  # Asked before the results are read: another process may finish a cell in
  # between, and would seem to have left no results.
  ended = [cell for cell in work if cell.is_done]
  broken = _unusable(reporting.read(output_dir))
  for cell in ended:
    # What has checkpoints would only find that it is finished.
    if cell.folder in broken and not cell.has_checkpoints:
      cell.reopen()
  done = sum(cell.is_done for cell in work)
  print(
    f'{len(work)} cells, {done} done before, {len(work) - done} to run.',
    flush=True,
  )
  scheduler.run(work, num_workers)
  results = reporting.read(output_dir)
  sweep_table.write(results, metric, phi, average_over)
  reasons = _unusable(results)
  failed = [cell for cell in work if cell.folder in reasons]
  if failed:
    first = failed[0]
    count = f'{len(failed)} of {len(work)} cells failed, the first: '
    if first.is_done:
      raise UserError(
        f'{count}{first.folder} has run, but {reasons[first.folder]}; mend the '
        'file or delete the folder.'
      )
    raise UserError(
      f'{count}{reasons[first.folder]} (see '
      f'{pathlib.Path(first.folder, cells.LOG)}). Run the same command again '
      'to try them once more.'
    )
  return work


def _unusable(results: reporting.Sweep) -> dict[pathlib.Path, str]:
  """Folder of each cell without usable results, and what is wrong with it."""
  return {
    results.folder / cell.name: cell.reason or cell.state
    for stage in results.stages.values()
    for cell in stage.cells
    if cell.state != reporting.DONE
  }
