"""A report is the numbers of several evaluations, side by side."""

import csv
import json

import pytest

from hypertuning import report as report_lib
from hypertuning.errors import UserError

METHODS = {
  'frozen': ('a', 'none'),
  'ours': ('a', 'generated'),
  'b': ('b', 'none'),
}


def write(folder, rows):
  folder.mkdir()
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  (folder / 'results.jsonl').write_text(text)


@pytest.fixture
def runs(tmp_path):
  def row(task, phi, accuracy, **more):
    return {'task': task, 'phi': phi, 'accuracy': accuracy, **more}

  write(
    tmp_path / 'a',
    [
      row('t', 'none', 10.25, accuracy_stderr=1.5),
      row('t', 'generated', 95.0, accuracy_stderr=0.5),
      row('u', 'generated', 80.0),
    ],
  )
  write(tmp_path / 'b', [row('t_in_context', 'none', 99.0)])
  return tmp_path


def test_table_csv_and_plot_agree(runs, capsys):
  tasks = {'t': 'tables', 't_in_context': 'tables'}
  cells = report_lib.report(
    runs_dir=str(runs),
    methods=METHODS,
    output_dir=str(runs / 'out'),
    tasks=tasks,
    title='Accuracy',
    highlighted=('ours',),
  )
  assert {m: row['tables'][0] for m, row in cells.items()} == {
    'frozen': 10.25,
    'ours': 95.0,
    'b': 99.0,
  }
  table = (runs / 'out/accuracy.md').read_text()
  assert table in capsys.readouterr().out
  assert table.splitlines() == [
    '| Accuracy | tables |',
    '| --- | --- |',
    '| frozen | 10.2 ± 1.5 |',
    '| ours | 95.0 ± 0.5 |',
    '| b | 99.0 |',
  ]
  with (runs / 'out/accuracy.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [(r['method'], float(r['value'])) for r in rows] == [
    ('frozen', 10.25),
    ('ours', 95.0),
    ('b', 99.0),
  ]
  assert (runs / 'out/accuracy.png').read_bytes().startswith(b'\x89PNG')


def test_all_tasks_under_their_names_without_a_choice(runs):
  methods = {'ours': METHODS['ours']}
  cells = report_lib.report(
    runs_dir=str(runs), methods=methods, output_dir=str(runs / 'out')
  )
  assert list(cells['ours']) == ['t', 'u']


@pytest.mark.parametrize(
  ('method', 'metric', 'words'),
  [
    (('missing', 'none'), 'accuracy', 'EVAL_OUTPUT_DIR'),
    (('a', 'other'), 'accuracy', "phi is one of .*'generated', 'none'"),
    (('a', 'none'), 'rouge', "no 'rouge'"),
  ],
)
def test_what_is_missing_is_named(runs, method, metric, words):
  with pytest.raises(UserError, match=words):
    report_lib.report(
      runs_dir=str(runs),
      methods={'m': method},
      output_dir=str(runs / 'out'),
      metric=metric,
    )
  assert not (runs / 'out').exists()
