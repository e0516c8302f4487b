"""Sweeps: what runs, what runs again, and the table of it."""

import csv
import json

import pytest
import runner

from hypertuning import sweep, sweep_table
from hypertuning.errors import UserError
from hypertuning.sweep_table import Cell

FILES = ('gin/models/hyper_t5_prefix.gin', 'gin/models/sizes/tiny.gin')
MODULE = """
from hypertuning.data import registry

def add(name='even_draws', draws=1):
  rows = [(str(n), 'yn'[n % 2]) for n in range(12)]
  registry.add_episodes(
    name, {s: lambda: {'even': rows} for s in ('train', 'validation')},
    shots=3, queries=2, visits=None, draws=draws,
  )
  return name
"""
GIN = """
from __gin__ import dynamic_registration
import drawn_tasks
MIXTURE_OR_TASK_NAME = @drawn_tasks.add()
"""


def write_cell(folder, name, rows):
  path = folder / 'cells' / name
  path.mkdir(parents=True)
  text = '\n'.join(json.dumps(row) for row in rows)
  (path / 'results.jsonl').write_text(text)
  return path


def row(accuracy, phi='generated', task='t'):
  return {
    'task': task,
    'phi': phi,
    'episodes': 3,
    'accuracy': accuracy,
    'accuracy_stderr': 2.0,
  }


def test_table_has_means_and_deviations_over_draws(tmp_path, capsys):
  cells = []
  for checkpoint, values in (('a', (50.0, 70.0)), ('b', (10.0, 10.0))):
    for draw, value in enumerate(values):
      rows = [row(value), row(99.0, 'none'), row(value, task='average')]
      folder = write_cell(tmp_path, f'{checkpoint}{draw}', rows)
      point = {'checkpoint': checkpoint, 'draw': str(draw)}
      cells.append(Cell(point, folder))
  failed = {'checkpoint': 'c', 'draw': '0'}
  cells.append(Cell(failed, tmp_path / 'none', 'no such | file'))
  sweep_table.write(str(tmp_path), cells, 'accuracy', 'generated', 'draw')
  table = (tmp_path / 'table.md').read_text()
  assert table in capsys.readouterr().out
  assert table.splitlines() == [
    '| checkpoint | task | accuracy | standard deviation | cells |',
    '| --- | --- | --- | --- | --- |',
    '| a | t | 60.0 | 14.1 | 2 |',
    '| a | average | 60.0 | 14.1 | 2 |',
    '| b | t | 10.0 | 0.0 | 2 |',
    '| b | average | 10.0 | 0.0 | 2 |',
    '| c |  | failed | no such / file |  |',
  ]
  with (tmp_path / 'table.csv').open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 4 * 3 + 1 and lines[-1]['failure'] == 'no such | file'
  assert {x['value'] for x in lines if x['phi'] == 'none'} == {'99.0'}
  assert lines[0]['stderr'] == '2.0'
  assert (tmp_path / 'table.png').read_bytes().startswith(b'\x89PNG')
  with pytest.raises(UserError, match="metric = 'f1'.*there is accuracy"):
    sweep_table.write(str(tmp_path), cells[:1], 'f1', 'generated', 'draw')


def test_results_of_t5x_are_read(tmp_path):
  folder = tmp_path / 'cells' / 'a' / 'inference_eval'
  folder.mkdir(parents=True)
  lines = [json.dumps({'step': n, 'accuracy': 10.0 * n}) for n in (1, 2)]
  (folder / 't-metrics.jsonl').write_text('\n'.join(lines))
  cells = [Cell({'checkpoint': 'a'}, folder.parent)]
  sweep_table.write(str(tmp_path), cells, 'accuracy', 'generated', 'draw')
  assert '| a | t | 20.0 |' in (tmp_path / 'table.md').read_text()


def test_slips(tmp_path):
  arguments = {'output_dir': str(tmp_path), 'gin_files': FILES}
  with pytest.raises(UserError, match="command = 'rm'"):
    sweep.sweep(**arguments, axes={}, command='rm')
  with pytest.raises(UserError, match="'task' has no points"):
    sweep.sweep(**arguments, axes={'task': {}})


@pytest.mark.slow
def test_a_finished_cell_never_runs_again(tmp_path, monkeypatch, capsys):
  (tmp_path / 'drawn_tasks.py').write_text(MODULE)
  (tmp_path / 'task.gin').write_text(GIN)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('PYTHONPATH', f'{runner.ROOT}:{tmp_path}')
  runner.train(tmp_path / 'run', total_steps=1)
  sizes = {
    name: value
    for name, value in runner.SMALL.items()
    if not name.startswith('MIXTURE')
  }
  sizes |= {  # as `runner.model` has them
    'PREFIX_SITES': ('encoder_self', 'decoder_self'),
    'QUERY_TOKENS': (),
  }
  arguments = {
    'output_dir': 'sweep',
    'axes': {
      'checkpoint': {
        'good': {'gin_files': FILES[:1], 'CHECKPOINT_PATH': 'run'},
        'bad': {'gin_files': FILES[:1], 'CHECKPOINT_PATH': 'nowhere'},
      },
      'draw': {str(n): {'drawn_tasks.add.draws': (n,)} for n in range(2)},
    },
    'gin_files': (FILES[1], 'gin/local/eval.gin', 'task.gin'),
    'bindings': sizes,
  }
  with pytest.raises(UserError, match=r"2 of 4 cells failed.*'nowhere'"):
    sweep.sweep(**arguments)
  table = (tmp_path / 'sweep/table.md').read_text()
  assert '| good | even_draws | ' in table and '| bad |  | failed | ' in table
  done = sorted(tmp_path.glob('sweep/cells/*/done'))
  assert [path.parent.name for path in done] == ['good__0', 'good__1']
  times = {path: path.stat().st_mtime_ns for path in done}
  arguments['axes']['checkpoint'].pop('bad')
  sweep.sweep(**arguments)
  assert '2 cells, 2 done before, 0 to run' in capsys.readouterr().out
  assert {path: path.stat().st_mtime_ns for path in done} == times
  with pytest.raises(UserError, match='good__0.*another command'):
    sweep.sweep(**{**arguments, 'bindings': {**sizes, 'BATCH_SIZE': 4}})
