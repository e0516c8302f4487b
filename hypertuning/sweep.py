"""Many commands from one gin file, and one table of what they found.

    python -m hypertuning.sweep --gin_file=gin/sweeps/sweep.gin \\
      --gin_file=my_sweep.gin --gin.SWEEP_DIR="'runs/sweep'"

A sweep has stages (a command each: training, evaluation, tuning), which may
start from one another's results, and axes (seeds, shots, sizes). A cell is a
stage at a point of its axes, and runs as a command of its own. Stopped and
started again, the sweep goes on where it was: a finished cell never runs twice,
one that failed is tried again. A cell that fails does not stop those that need
it not. Started twice over one folder, both work on it and share the cells.
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
  """Runs what is missing, and gathers the table.

  Args:
    output_dir: gets `cells/STAGE/POINT`, `table.csv`, `.md` and `.png`, and
      `cells.csv` with the numbers of every cell.
    stages: name to `command` (such as `hypertuning.train` or `t5x.eval`),
      `gin_files`, and where they are needed `bindings`, `axes` (names of those
      that concern the stage, all by default) and `after` (a binding to the
      stage whose folder it gets, at the same point).
    axes: name to points, and name of a point to the bindings that it means,
      such as `{'seed': {'0': {'RANDOM_SEED': 0}}}`. What is bound to
      `gin_files` stands before the stage's own; where there are `stages`, the
      bindings are those of the stages named there alone.
    num_workers: cells at a time, on this machine.
    metric: of Markdown table and plot; the CSV files have all.
    phi: mode of Markdown table and plot; all if None.
    average_over: axis whose points become a mean and an interval.

  Returns:
    All cells.

  Raises:
    UserError: bad input, or cells that failed, when all others are done.
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
  # Another process may end cells while these are read.
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
  found = reporting.read(output_dir)
  sweep_table.write(found, metric, phi, average_over)
  reasons = _unusable(found)
  failed = [cell for cell in work if cell.folder in reasons]
  if failed:
    first = failed[0]
    told = f'{len(failed)} of {len(work)} cells failed, the first: '
    if first.is_done:
      raise UserError(
        f'{told}{first.folder} has run, but {reasons[first.folder]}; mend the '
        'file or delete the folder.'
      )
    raise UserError(
      f'{told}{reasons[first.folder]} (see '
      f'{pathlib.Path(first.folder, cells.LOG)}). Run the same command again '
      'to try them once more.'
    )
  return work


def _unusable(found: reporting.Sweep) -> dict[pathlib.Path, str]:
  """Folders of cells that no table has numbers of, and why not."""
  return {
    found.folder / cell.name: cell.reason or cell.state
    for stage in found.stages.values()
    for cell in stage.cells
    if cell.state != reporting.DONE
  }
