"""What do steps of large models cost on many chips, on paper?

    python -m hypertuning.benchmarks scaling \\
      --cells=gin/benchmarks/scaling.json --folder=runs/scaling

CELLS is a JSON file of models, meshes and cells; a cell is one model on one
slice. Each is planned by `hypertuning.plan` in a process of its own, one after
the other, and leaves a JSON file in FOLDER; a cell that has one is not planned
again. A cell that is `like` a compiled one is not compiled: its FLOPs are
counted, and its chips receive what those of that cell do. Prints a Markdown
table of all cells that have a file; `--most=0` does no more.
"""

import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypertuning import command_line, files, tables, text_files
from hypertuning.errors import UserError, last_line, one_line

_GIB = 2**30
_HEAD = (
  *('model', 'slice', 'chips', 'mesh', 'episodes x queries', 'examples'),
  *('peak, GiB', 'executed / useful', 'received, GiB', 'waited for, GiB'),
  *('step, s', 'utilisation', 'queries / chip-second', 'how'),
)


@dataclasses.dataclass(frozen=True)
class Cell:
  """A step that is planned.

  Attributes:
    model: name of the model in the table.
    mesh: name of the mesh in the table.
    topology: name of the slice.
    episodes: number of episodes in a step.
    queries: number of queries per episode.
    examples: number of tokens that the source of phi reads.
    like: name of the compiled cell whose chips receive as many bytes; None if
      the cell is compiled itself.
  """

  model: str
  mesh: str
  topology: str
  episodes: int
  queries: int
  examples: int
  like: str | None = None

  @property
  def name(self) -> str:
    """The name of the cell, and of its file."""
    size = f'{self.episodes}x{self.queries}x{self.examples}'
    text = f'{self.model} {self.topology} {self.mesh} {size}'
    text += '' if self.like is None else ' traced'
    return ''.join(c if c.isalnum() or c in '.-' else '_' for c in text)


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag or the file of cells is at fault.
  """
  options = _parser().parse_args(arguments)
  source = text_files.read_json(pathlib.Path(options.cells))
  cells = read(options.cells, source)
  folder = files.check_writable(options.folder, '--folder')
  paths = {cell: folder / f'{cell.name}.json' for cell in cells}
  left = [cell for cell, path in paths.items() if not path.exists()]
  for number, cell in enumerate(left[: options.most]):
    print(f'{number + 1} of {len(left)}: {cell.name}', file=sys.stderr)
    if failure := _plan(cell, source, str(paths[cell])):
      print(f'  {failure}', file=sys.stderr)
  results = {
    cell: text_files.read_json(path)
    for cell, path in paths.items()
    if path.exists()
  }
  print(tables.markdown([_HEAD, *lines(results)]), end='')


def read(path: str, source: Mapping[str, Any]) -> list[Cell]:
  """The cells of a file.

  Args:
    path: path of the file, for messages.
    source: content of the file: `models` maps names to `gin_files` and
      `bindings`, `meshes` maps names to bindings, `cells` is a list of the
      fields of `Cell`, `inputs` and `targets` are lengths of a query's texts.

  Raises:
    UserError: names the cell or field at fault.
  """
  try:
    cells = [Cell(**fields) for fields in source['cells']]
    for cell in cells:
      command(cell, source, '')
  except (KeyError, TypeError) as error:
    raise UserError(f'{path}: {one_line(error)}.') from error
  names = {cell.name for cell in cells if cell.like is None}
  for cell in cells:
    if cell.like is not None and cell.like not in names:
      raise UserError(f'{path}: {cell.name}: no compiled cell {cell.like}.')
  return cells


def command(cell: Cell, source: Mapping[str, Any], path: str) -> list[str]:
  """The arguments of Python that plan a cell.

  Args:
    cell: cell of the file.
    source: content of the file.
    path: path of the JSON file that the command writes.
  """
  model, mesh = source['models'][cell.model], source['meshes'][cell.mesh]
  bindings = {
    **model['bindings'],
    **mesh,
    'BATCH_SIZE': cell.episodes,
    'TASK_FEATURE_LENGTHS': {
      'hyper_inputs': cell.examples,
      'inputs': (cell.queries, source['inputs']),
      'targets': (cell.queries, source['targets']),
    },
  }
  return [
    *('-m', 'hypertuning.plan', f'--topology={cell.topology}'),
    *(f'--json={path}', f'--compile={cell.like is None}'.lower()),
    *(f'--gin_file={file}' for file in model['gin_files']),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  ]


def _plan(cell: Cell, source: Mapping[str, Any], path: str) -> str | None:
  """Plans a cell; the last line of its stderr, if it did not fit or failed."""
  done = subprocess.run(
    [sys.executable, *command(cell, source, path)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  return last_line(done.stderr) if done.returncode else None


def lines(results: Mapping[Cell, Mapping[str, Any]]) -> Iterator[Sequence[str]]:
  """The lines of the table, without its head.

  Args:
    results: maps each cell to what its plan wrote.
  """
  # jax takes a second to import: wrong flags are refused before.
  from hypertuning.planning import roofline, topologies
  from hypertuning.planning.step import Costs

  by_name = {cell.name: values for cell, values in results.items()}
  for cell, values in results.items():
    costs = Costs(**values['costs'])
    topology = topologies.find(cell.topology)
    first = (
      *(cell.model, cell.topology, str(topology.chips), cell.mesh),
      *(f'{cell.episodes} x {cell.queries}', str(cell.examples)),
    )
    if not costs.fits:
      words = 'does not compile' if costs.failure else 'does not fit'
      reason = f'{words}: {costs.failure or costs.error}'
      yield *first, reason, *[''] * 6, 'compiled'
      continue
    if cell.like is not None:
      if cell.like not in by_name:
        continue
      like = Costs(**by_name[cell.like]['costs'])
      if not like.fits:
        continue
      costs = dataclasses.replace(costs, collective_bytes=like.collective_bytes)
    times = roofline.estimate(costs, topology)
    yield (
      *first,
      f'{costs.peak_bytes / _GIB:.1f}' if costs.compiled else '',
      f'{costs.executed_flops / costs.useful_flops:.3f}',
      f'{sum(costs.collective_bytes.values()) / _GIB:.1f}',
      f'{costs.waited_bytes / _GIB:.1f}' if costs.compiled else '',
      f'{times.best_seconds:.2f} to {times.worst_seconds:.2f}',
      f'{times.worst_utilisation:.0%} to {times.best_utilisation:.0%}',
      f'{times.queries_per_chip_second:.2f}',
      'compiled' if costs.compiled else 'roofline',
    )


def _parser() -> command_line.Parser:
  """The flags of the command."""
  made = command_line.Parser('hypertuning.benchmarks scaling', __doc__)
  made.add_argument('--cells', required=True, help='a JSON file of cells')
  made.add_argument(
    '--folder', required=True, help='folder of a JSON file per cell'
  )
  made.add_argument(
    '--most', type=int, default=None, help='number of cells to plan (all)'
  )
  return made


if __name__ == '__main__':
  command_line.run_process(main)
