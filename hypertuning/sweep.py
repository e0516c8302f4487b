"""Many evaluations from one gin file, and one table of them.

    python -m hypertuning.sweep --gin_file=gin/sweeps/eval.gin \\
      --gin_file=my_sweep.gin --gin.SWEEP_DIR="'runs/sweep'"

A cell of the sweep is a point of every axis, and runs as a command of its own.
Stopped and started again, the sweep goes on where it was: a finished cell never
runs twice, one that failed is tried again. A cell that fails does not stop the
others.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.sweep', 'sweep')  # see there why it comes first

import dataclasses
import itertools
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning import paths, summaries, sweep_table
from hypertuning.errors import UserError
from hypertuning.sweep_table import Cell

Bindings = Mapping[str, Any]
_DONE, _COMMAND, _LOG = 'done', 'command.json', 'log.txt'
_COMMANDS = ('hypertuning.eval', 't5x.eval')


def sweep(
  *,
  output_dir: str,
  axes: Mapping[str, Mapping[str, Bindings]],
  gin_files: Sequence[str],
  bindings: Bindings | None = None,
  command: str = 'hypertuning.eval',
  metric: str = 'accuracy',
  phi: str = 'generated',
  average_over: str = 'draw',
) -> list[Cell]:
  """Runs what is missing, and gathers the table.

  Args:
    output_dir: gets a folder a cell, and `table.csv`, `.md` and `.png`.
    axes: name of an axis to its points, and name of a point to the bindings
      that it means, such as `{'checkpoint': {'prefix': {'CHECKPOINT_PATH':
      'runs/prefix'}}, 'draw': {'0': {'p3.held_out.draws': (0,)}}}`. What is
      bound to `gin_files` stands before the following.
    gin_files: of every cell's command.
    bindings: of every cell.
    command: `hypertuning.eval` or `t5x.eval`.
    metric: of Markdown table and plot; the CSV file has all.
    phi: mode of Markdown table and plot.
    average_over: axis whose points become a mean and a standard deviation.

  Returns:
    All cells.

  Raises:
    UserError: bad input, or cells that failed, when all others are done.
  """
  if command not in _COMMANDS:
    raise UserError(
      f'sweep.command = {command!r}: give one of {", ".join(_COMMANDS)}.'
    )
  for axis, points in axes.items():
    if not points:
      raise UserError(f'sweep.axes: {axis!r} has no points.')
  work = []
  for point in _points(axes):
    folder = pathlib.Path(output_dir, 'cells', _folder_name(point))
    files, bound = [], dict(bindings or {})
    for axis, name in point.items():
      meant = dict(axes[axis][name])
      files += meant.pop('gin_files', ())
      bound |= meant
    work.append(_Job(folder, point, command, (*files, *gin_files), bound))
  for job in work:
    job.claim()
  missing = [job for job in work if not job.is_done]
  print(
    f'{len(work)} cells, {len(work) - len(missing)} done before, '
    f'{len(missing)} to run.',
    flush=True,
  )
  progress = summaries.Progress(len(missing), label='cells')
  failures: dict[pathlib.Path, str] = {}
  for job in missing:
    failure = job.run()
    if failure:
      failures[job.folder] = failure
      progress.say(f'{job.folder.name} failed: {failure}')
    progress.update()
  progress.close()
  cells = [
    Cell(job.point, job.folder, failures.get(job.folder)) for job in work
  ]
  sweep_table.write(output_dir, cells, metric, phi, average_over)
  if failures:
    folder, failure = next(iter(failures.items()))
    raise UserError(
      f'{len(failures)} of {len(work)} cells failed, the first: {failure} (see '
      f'{folder / _LOG}). Run the same command again to try them once more.'
    )
  return cells


@dataclasses.dataclass(frozen=True)
class _Job:
  """A cell's command.

  Attributes:
    folder: of the cell.
    point: axis to the name of the point.
    command: module that runs.
    gin_files: of the command.
    bindings: of the command.
  """

  folder: pathlib.Path
  point: Mapping[str, str]
  command: str
  gin_files: Sequence[str]
  bindings: Bindings

  @property
  def is_done(self) -> bool:
    return (self.folder / _DONE).exists()

  def claim(self) -> None:
    """Notes what the cell is.

    Raises:
      UserError: the folder is of a cell with another command.
    """
    path = self.folder / _COMMAND
    told = json.dumps(
      {
        'command': self.command,
        'gin_files': list(self.gin_files),
        'bindings': {k: repr(v) for k, v in sorted(self.bindings.items())},
      },
      indent=1,
    )
    if not path.exists():
      summaries.write_text(str(self.folder), _COMMAND, told)
    elif path.read_text('utf-8') != told:
      raise UserError(
        f'{path}: this cell was another command in an earlier sweep; use '
        'another SWEEP_DIR, or delete the folder.'
      )

  def run(self) -> str | None:
    """Runs the command; says in a line why it failed, if it did."""
    arguments = [sys.executable, '-m', self.command]
    # t5x does not know where ours are.
    arguments.append(f'--gin_search_paths={paths.data_root()}')
    arguments += [f'--gin_file={file}' for file in self.gin_files]
    where = {'EVAL_OUTPUT_DIR': str(self.folder.absolute())}
    arguments += [
      f'--gin.{name}={value!r}'
      for name, value in {**self.bindings, **where}.items()
    ]
    log = self.folder / _LOG
    with log.open('wb') as file:
      code = subprocess.run(
        arguments, stdout=file, stderr=subprocess.STDOUT, check=False
      ).returncode
    if code == 0:
      summaries.write_text(str(self.folder), _DONE, '')
      return None
    lines = log.read_text('utf-8', 'replace').strip().splitlines()
    return lines[-1] if lines else f'exit code {code}'


def _points(
  axes: Mapping[str, Mapping[str, Bindings]],
) -> list[dict[str, str]]:
  return [
    dict(zip(axes, names, strict=True))
    for names in itertools.product(*axes.values())
  ]


def _folder_name(point: Mapping[str, str]) -> str:
  """Names of the points, as a folder can be called."""
  return '__'.join(re.sub(r'[^\w.=-]+', '_', name) for name in point.values())
