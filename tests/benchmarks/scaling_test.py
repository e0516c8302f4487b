"""The table of steps on slices: its cells, its rows, and a real plan."""

import dataclasses
import json

import pytest
import runner

from hypertuning import paths
from hypertuning.benchmarks import scaling
from hypertuning.errors import UserError
from hypertuning.planning import report, topologies
from hypertuning.planning.step import Costs

CELLS = paths.data_root() / 'gin/benchmarks/scaling.json'
ONE = {
  **{'model': 'tiny', 'mesh': 'divided', 'topology': 'h100-2'},
  **{'episodes': 8, 'queries': 2, 'examples': 48},
}
SOURCE = {
  'inputs': 6,
  'targets': 4,
  'models': {
    'tiny': {
      'gin_files': list(runner.PLAN_FILES),
      'bindings': {
        name: value
        for name, value in runner.SMALL.items()
        if isinstance(value, int) and name != 'BATCH_SIZE'
      },
    }
  },
  'meshes': {'divided': {'PARAMETER_PARTITIONING_DIMS': 2}},
  'cells': [ONE, {**ONE, 'episodes': 16, 'like': 'tiny_h100-2_divided_8x2x48'}],
}
COSTS = Costs(
  params_bytes=1,
  optimizer_bytes=1,
  frozen_bytes=1,
  executed_flops=4e14,
  useful_flops=2e14,
  queries=16,
  peak_bytes=3 << 30,
  collective_bytes={'all-gather': 45 << 30},
  waited_bytes=1 << 30,
)


def rows(*costs) -> list[list[str]]:
  """The rows of the cells of SOURCE, with the columns that costs fill."""
  cells = scaling.read('cells.json', SOURCE)
  topology = topologies.find('h100-2')
  results = {
    cell: report.as_json(values, topology)
    for cell, values in zip(cells, costs, strict=True)
  }
  return [list(line)[6:] for line in scaling.lines(results)]


def test_a_traced_cell_receives_what_its_like_does():
  traced = dataclasses.replace(
    COSTS, compiled=False, executed_flops=2e14, collective_bytes={}
  )
  compiled, other = rows(COSTS, traced)
  seconds = (45 << 30) / 450e9
  matmul = 4e14 / 989e12 / 0.7
  assert compiled == [
    *('3.0', '2.000', '45.0', '1.0'),
    f'{matmul:.2f} to {matmul + seconds:.2f}',
    f'{2e14 / (matmul + seconds) / 989e12:.0%} to {0.7 / 2:.0%}',
    f'{16 / (matmul + seconds) / 2:.2f}',
    'compiled',
  ]
  assert other[:4] == ['', '1.000', '45.0', ''] and other[-1] == 'roofline'
  assert other[4] == f'{matmul / 2:.2f} to {matmul / 2 + seconds:.2f}'


@pytest.mark.parametrize(
  'field, words', [('error', 'does not fit'), ('failure', 'does not compile')]
)
def test_a_cell_that_cannot_run_says_so(field, words):
  refused = dataclasses.replace(COSTS, **{field: '34G of 30G.'})
  # What is `like` such a cell has no bytes to take over.
  (row,) = rows(refused, COSTS)
  assert row[0] == f'{words}: 34G of 30G.' and row[-1] == 'compiled'


def test_the_cells_of_the_page_are_real():
  source = json.loads(CELLS.read_text())
  cells = scaling.read(str(CELLS), source)
  assert len({cell.name for cell in cells}) == len(cells) > 0
  for cell in cells:
    assert topologies.find(cell.topology).chips % 32 == 0
    for file in source['models'][cell.model]['gin_files']:
      assert (paths.data_root() / file).is_file()


@pytest.mark.parametrize(
  'change, message',
  [
    ({'mesh': 'none'}, "'none'"),
    ({'episode': 1}, "'episode'"),
    ({'like': 'other'}, 'no compiled cell other'),
  ],
)
def test_a_wrong_cell_is_one_line(change, message):
  source = {**SOURCE, 'cells': [{**ONE, **change}]}
  with pytest.raises(UserError, match=message) as error:
    scaling.read('cells.json', source)
  assert 'cells.json: ' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.slow
def test_cells_are_planned_once(tmp_path, capsys):
  """In processes of their own; a slice of GPUs needs no libtpu."""
  path = tmp_path / 'cells.json'
  path.write_text(json.dumps(SOURCE))
  arguments = [f'--cells={path}', f'--folder={tmp_path / "runs"}']
  scaling.main(arguments)
  first = capsys.readouterr()
  assert len(first.err.splitlines()) == 2, first.err
  _, _, small, large = first.out.splitlines()
  assert small.endswith('| compiled |') and large.endswith('| roofline |')
  found = [json.loads(x.read_text()) for x in (tmp_path / 'runs').iterdir()]
  one, two = sorted(x['costs']['useful_flops'] for x in found)
  assert two == 2 * one
  scaling.main(arguments)
  assert capsys.readouterr() == (first.out, '')
