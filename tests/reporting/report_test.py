"""A report says what the runs say, and what it does not know."""

import csv
import json
import re

import numpy as np
import pytest
import sweep_folders
from sweep_folders import Folder, result

from hypertuning import gin_utils
from hypertuning import report as report_lib
from hypertuning.errors import UserError
from hypertuning.reporting import (
  against_axis,
  claims,
  cost,
  gap,
  losses,
  methods,
  published,
  runs,
  starts,
  statistics,
  sweep_results,
)

_PUBLISHED = """benchmark,size,method,task,value,metric,source
P3,XL,HyperT5-Prefix,RTE,65.1,accuracy,table 1
P3,XL,HyperT5-Prefix,CB,54.2,accuracy,table 1
P3,XL,T0,CB,78.6,accuracy,table 2
S-NI,XL,TAGI,Def,48.4,rouge_l,table 3
"""


@pytest.fixture
def folder(tmp_path):
  return Folder(tmp_path / 'sweep')


def sweep(folder):
  return sweep_results.read(str(folder.root))


def texts(table):
  return [[cell.text for cell in row] for row in table.rows]


def only(section):
  (table,) = section.tables
  return table


def test_methods_have_a_mean_and_an_interval_over_seeds(folder):
  folder.evaluation('a_eval', {'0': 91.0, '1': 94.5, '2': 99.0})
  table = only(
    methods.methods(sweep(folder), methods={'a': ('a_eval', 'generated')})
  )
  expected = statistics.mean([91.0, 94.5, 99.0])
  assert table.columns == ['method', 't']
  assert texts(table) == [
    ['a', f'{expected.mean:.1f} ± {expected.high - expected.mean:.1f}']
  ]
  (record,) = table.records
  assert (record['mean'], record['low']) == (expected.mean, expected.low)
  assert (record['n'], record['planned'], record['note']) == (3, 3, '')


def test_tasks_of_several_names_share_a_column(folder):
  folder.evaluation('a_eval', dict.fromkeys('012', 90.0))
  folder.evaluation('b_eval', dict.fromkeys('012', 80.0), task='t_in_context')
  folder.evaluation('c_eval', dict.fromkeys('012', 70.0), task='u')
  table = only(
    methods.methods(
      sweep(folder),
      methods={name: (f'{name}_eval', 'generated') for name in 'abc'},
      tasks={'t': 'tables', 't_in_context': 'tables', 'u': 'other'},
    )
  )
  assert texts(table) == [
    ['a', '90.0 ± 0.0', ''],
    ['b', '80.0 ± 0.0', ''],
    ['c', '', '70.0 ± 0.0'],
  ]


def test_a_method_that_has_not_run_can_have_a_text(folder):
  folder.evaluation('some', {'0': 90.0, '1': 80.0, '2': 85.0})
  places = {'a': ('nope', 'generated'), 'b': ('some', 'generated')}
  optional = {'a': 'not trained yet', 'b': 'not shown'}
  table = only(
    methods.methods(sweep(folder), methods=places, optional=optional)
  )
  (absent, number) = texts(table)
  assert absent == ['a', 'not trained yet']
  assert number[0] == 'b' and number[1].startswith('85.0 ± ')


def test_one_run_has_its_interval_over_episodes(folder):
  folder.stage('a_eval', axes=())
  folder.cell('a_eval', results=[result('none', 50.0, accuracy_stderr=2.0)])
  table = only(
    methods.methods(sweep(folder), methods={'a': ('a_eval', 'none')})
  )
  assert texts(table) == [['a', '50.0 ± 3.9']]


def test_one_seed_of_several_has_no_interval(folder):
  folder.stage('a_eval')
  rows = [result('none', 50.0, accuracy_stderr=2.0)]
  folder.cell('a_eval', '1', results=rows)
  table = only(
    methods.methods(sweep(folder), methods={'a': ('a_eval', 'none')})
  )
  assert texts(table) == [['a', '50.0']]
  assert table.rows[0][1].small == 'n = 1 of 3'


def test_what_is_not_done_is_said_and_not_counted(folder):
  folder.evaluation('some', {'0': 90.0, '1': 80.0})
  folder.evaluation('none', {})
  folder.evaluation('bad', {})
  folder.cell('bad', '1', failed='error: no <memory>')
  folder.evaluation('half', {'0': 90.0, '1': 80.0, '2': 1.0})
  half = folder.root / 'cells/half/2'
  (half / 'done').unlink()
  folder.evaluation('torn', {'0': 90.0, '1': 80.0, '2': 1.0})
  with (folder.root / 'cells/torn/2/results.jsonl').open('a') as file:
    file.write('{"task": "u", "phi": "gener')
  names = ('some', 'none', 'bad', 'half', 'torn')
  section = methods.methods(
    sweep(folder), methods={name: (name, 'generated') for name in names}
  )
  table = only(section)
  (_, some), (_, none), (_, bad), (_, half), (_, torn) = table.rows
  assert (none.text, none.kind) == ('missing', 'absent')
  assert bad.text == 'failed: error: no <memory>'
  for cell in (some, half, torn):
    assert cell.text.startswith('85.0 ± ')
    assert cell.small == 'n = 2 of 3'
  (figure,) = section.figures
  for label in ('85.0 n = 2 of 3', '>missing<', '>failed<'):
    assert label in figure.svg
  states = {
    row[0].text: row[1].text for row in only(runs.runs(sweep(folder))).rows
  }
  assert states['cells/some/0'] == 'done'
  assert states['cells/half/2'] == 'missing'
  assert states['cells/torn/2'] == 'failed: results.jsonl:2: not JSON'


@pytest.mark.parametrize(
  ('name', 'text', 'state'),
  [
    ('done', '', 'failed: done: not JSON'),
    ('done', '{"seconds": null}', 'failed: done: seconds are None'),
    ('done', '[]', 'failed: done: not an object'),
    ('done', '{}', "failed: done: no 'seconds'"),
    ('command.json', '{"comm', 'failed: command.json: not JSON'),
    ('results.jsonl', '7\n', 'failed: results.jsonl:1: not an object'),
    (
      'results.jsonl',
      '\udcff',
      'failed: results.jsonl:1: not UTF-8 at byte 0; convert it.',
    ),
  ],
)
def test_broken_files_are_failures(folder, name, text, state):
  folder.evaluation('a_eval', {'0': 90.0})
  path = folder.root / 'cells/a_eval/0' / name
  path.write_text(text, errors='surrogateescape')
  cell = sweep(folder).stage('a_eval').cells[0]
  assert cell.state_text == state
  assert not cell.tables


@pytest.mark.parametrize(
  ('rows', 'told'),
  [
    ([result('generated', float('nan'))], 'failed: accuracy is nan'),
    ([result('generated', '9')], "failed: accuracy is '9'"),
    (
      [result('generated', 9.0), result('generated', 8.0)],
      'failed: results.jsonl has the row 2 times',
    ),
  ],
)
def test_no_number_is_made_of_what_is_none(folder, rows, told):
  folder.stage('a_eval')
  folder.cell('a_eval', '0', results=rows)
  table = only(
    methods.methods(sweep(folder), methods={'a': ('a_eval', 'generated')})
  )
  assert texts(table) == [['a', told]]


def test_claims_are_judged_by_paired_differences_and_ratios(folder):
  folder.evaluation('a_eval', {'0': 10.0, '1': 20.0, '2': 30.0})
  folder.evaluation('b_eval', {'0': 9.0, '1': 18.9, '2': 29.1})
  folder.evaluation('c_eval', {'0': 11.0})
  folder.stage('fixed', axes=())
  folder.cell('fixed', results=[result('none', 100.0)])
  a, b, c = ((f'{name}_eval', 'generated', 't') for name in 'abc')
  fixed = ('fixed', 'none', 't')
  table = only(
    claims.claims(
      sweep(folder),
      claims=(
        ('a > b', a, b, 'accuracy'),
        ('b > a', b, a, 'accuracy'),
        ('a > c', a, c, 'accuracy'),
        ('fixed > a', fixed, a, 'accuracy'),
      ),
      ratios=(('a > b', a, b, 'accuracy'),),
    )
  )
  said = [(row[0], row[4], row[5]) for row in texts(table)]
  difference = statistics.difference([10, 20, 30], [9, 18.9, 29.1])
  assert said[0] == (
    'a > b',
    f'1.0 [{difference.low:.1f}, {difference.high:.1f}]',
    'holds',
  )
  assert said[1][2] == 'does not hold'
  assert said[2] == ('a > c', '-1.0', 'undecided')  # one seed has both
  assert table.rows[2][4].small == 'difference · n = 1 of 3'
  assert said[3][1].startswith('80.0 [') and said[3][2] == 'holds'
  ratio = statistics.ratio([10, 20, 30], [9, 18.9, 29.1])
  assert table.records[4]['low'] == ratio.low
  assert table.records[4]['compared by'] == 'ratio'


def test_less_steps_are_better(folder):
  for name, steps in {'phi': 50.0, 'random': 400.0}.items():
    folder.stage(name, 'hypertuning.adapt')
    for seed in '012':
      row = {'task': 'average', 'phi': 'tuned', 'accuracy': 99.0}
      row |= {'steps_to_target': steps + int(seed)}
      folder.cell(name, seed, results=[row])
  phi, random = (('phi', 'tuned', 'average'), ('random', 'tuned', 'average'))
  table = only(
    claims.claims(
      sweep(folder),
      claims=(('phi', phi, random, 'steps_to_target'),),
      ratios=(('phi', phi, random, 'steps_to_target'),),
    )
  )
  assert [row[-1].text for row in table.rows] == ['holds', 'holds']


def test_claim_on_what_has_not_run_is_undecided(folder):
  folder.evaluation('a_eval', {'0': 10.0})
  folder.evaluation('b_eval', {})
  a, b = (('a_eval', 'generated', 't'), ('b_eval', 'generated', 't'))
  table = only(
    claims.claims(sweep(folder), claims=(('a > b', a, b, 'accuracy'),))
  )
  assert texts(table)[0][3:] == ['missing', 'missing', 'undecided']


def test_share_of_the_gap(folder):
  folder.evaluation('floor', {'0': 10.0, '1': 12.0, '2': 8.0})
  folder.evaluation('top', {'0': 90.0, '1': 92.0, '2': 88.0})
  folder.evaluation('half', {'0': 50.0, '1': 52.0, '2': 48.0})
  section = gap.gap_closed(
    sweep(folder),
    methods={'half': ('half', 'generated', 't')},
    floor=('floor', 'generated', 't'),
    ceiling=('top', 'generated', 't'),
  )
  assert texts(only(section))[0][2] == '50.0 [50.0, 50.0]'
  assert section.text.startswith('Percent of the way from the frozen model')


def test_losses_of_hyperpretraining(folder):
  folder.stage('pretrain', 'hypertuning.train')
  for seed in '012':
    rows = [
      {
        'step': step,
        'eval/loss/generated': 2.0 + int(seed),
        'eval/loss/other': 2.5 + int(seed),
        'eval/loss/none': 3.0 + int(seed),
      }
      # Seed 0 has a later step, which the others do not have.
      for step in (10, 20, *((30,) if seed == '0' else ()))
    ]
    folder.cell('pretrain', seed, metrics=[{'step': 1, 'x': 1.0}, *rows])
  section = losses.losses(sweep(folder), stages={'Prefix': 'pretrain'})
  assert texts(only(section))[0][1:3] == ['20', '3.000 ± 2.484']
  assert texts(only(section))[0][5:] == ['0.500 ± 0.000', '1.000 ± 0.000']


def test_curves_say_how_many_runs_they_are_of(folder):
  row = {'step': 10, 'eval/loss/other': 2.5, 'eval/loss/none': 3.0}
  for name, runs_done in {'some': '01', 'none': '', 'odd': '0'}.items():
    folder.stage(name, 'hypertuning.train')
    for seed in runs_done:
      own = float('nan') if name == 'odd' else 2.0
      rows = [{**row, 'eval/loss/generated': own}]
      folder.cell(name, seed, metrics=rows)
  folder.stage('half', 'hypertuning.train')
  folder.cell('half', '0')  # its log is gone
  folder.cell('half', '1', metrics=[{**row, 'eval/loss/generated': 2.0}])
  stages = {'A': 'some', 'B': 'none', 'C': 'odd', 'D': 'half'}
  section = losses.losses(sweep(folder), stages=stages)
  table = only(section)
  assert table.rows[0][2].small == 'n = 2 of 3'
  assert texts(table)[1][1] == 'missing'
  assert texts(table)[2][1].startswith('failed: cells/odd/0 has steps without')
  assert table.rows[3][2].small == 'n = 1 of 3'
  for title in ('A (n = 2 of 3)', 'B (missing)', 'C (failed)'):
    assert title in section.figures[0].svg


def test_starts_compare_steps_with_those_of_the_reference(folder):
  for name, steps in {'phi': 50.0, 'random': 200.0}.items():
    folder.stage(name, 'hypertuning.adapt')
    for seed in '012':
      tuned = result('tuned', 95.0, 'average', reached=0.5)
      tuned |= {'steps_to_target': steps, 'seconds_to_target': steps / 10}
      curves = [
        {'task': task, 'step': step, 'loss': 1.0, 'accuracy': step + offset}
        for task, offset in (('a', 0.0), ('b', 20.0))
        for step in (0, 50)
      ]
      results = [result('start', 10.0, 'average'), tuned]
      folder.cell(name, seed, results=results, curves=curves)
  section = starts.starts(
    sweep(folder), stages={'phi': 'phi', 'random': 'random'}, reference='random'
  )
  phi, random = texts(only(section))
  assert phi[1:4] == ['10.0 ± 0.0', '95.0 ± 0.0', '0.50 [0.50, 0.50]']
  assert phi[4:] == [
    '50.0 ± 0.0',
    '5.0 ± 0.0',
    '0.25 [0.25, 0.25]',
    '0.25 [0.25, 0.25]',
  ]
  assert random[6] == '1.00 [1.00, 1.00]'
  line = starts.mean_over_tasks(sweep(folder).stage('phi').cells[0])
  assert line[50]['accuracy'] == 60.0


def test_accuracy_against_an_axis(tmp_path):
  axes = {'seed': ['0', '1'], 'shots': ['16', '2']}  # 2 was added later
  folder = Folder(tmp_path / 'sweep', axes)
  folder.stage('a_eval', axes=('shots', 'seed'))
  for shots in ('2', '16'):
    for seed in ('0', '1'):
      if (shots, seed) != ('16', '1'):
        row = result('generated', float(shots) + int(seed), 'average')
        folder.cell('a_eval', shots, seed, results=[row])
  section = against_axis.against_axis(
    sweep(folder),
    axis='shots',
    methods={'a': ('a_eval', 'generated')},
    name='shots',
    title='Shots',
  )
  table = only(section)
  assert table.columns == ['method', 'shots 2', 'shots 16']
  assert texts(table) == [['a', '2.5 ± 6.4', '16.0']]
  assert table.rows[0][2].small == 'n = 1 of 2'


# A method, the stage and the way of its cost, and its evaluation.
WITH_PHI = {
  'phi': ('cost', 'query with phi', ('a_eval', 'generated', 'average'))
}


def test_cost_and_when_phi_has_paid_for_itself(folder):
  folder.evaluation('a_eval', dict.fromkeys('012', 90.0), task='average')
  folder.stage('cost', 'hypertuning.benchmarks.query_cost', ())
  folder.cell('cost', results=sweep_folders.costs())
  section = cost.cost(
    sweep(folder),
    methods=WITH_PHI,
    models={'Prefix': 'cost'},
  )
  costs, even, cached = section.tables
  assert texts(costs) == [['phi', '90.0 ± 0.0', '1', '1']]
  assert texts(even)[0][-2:] == ['3.0', '2.0']
  # An earlier version did not measure a cache.
  assert texts(cached)[0][-2:] == ['not measured'] * 2
  size = cost.phi_size(sweep(folder), models={'Prefix': 'cost'})
  assert texts(only(size)) == [['Prefix', '10,240', '5,120']]


def test_phi_that_saves_nothing_never_pays(folder):
  rows = sweep_folders.costs()
  rows[2] |= {'flops': rows[1]['flops'], 'seconds': rows[1]['seconds'] / 2}
  folder.evaluation('a_eval', dict.fromkeys('012', 90.0), task='average')
  folder.stage('cost', 'hypertuning.benchmarks.query_cost', ())
  folder.cell('cost', results=rows)
  section = cost.cost(sweep(folder), methods={}, models={'Prefix': 'cost'})
  assert texts(section.tables[1])[0][-2:] == ['never', 'never']


def test_phi_beside_a_cache_or_the_reason_why_there_is_none(folder):
  rows = sweep_folders.costs()
  other = {'seconds': 0.002, 'flops': 3_000_000}
  cached = {**rows[2], **other, 'way': 'query in context, cached'}
  cheap = {**rows[0], 'flops': 8_000_000, 'way': 'making the cache'}
  none = {'way': cached['way'], 'reason': 'T5 reads its whole input'}
  folder.stage('llama', 'hypertuning.benchmarks.query_cost', ())
  folder.cell('llama', results=[*rows, cached, cheap])
  folder.stage('t5', 'hypertuning.benchmarks.query_cost', ())
  folder.cell('t5', results=[*rows, none])
  section = cost.cost(
    sweep(folder), methods={}, models={'Llama': 'llama', 'T5': 't5'}
  )
  table = section.tables[2]
  assert texts(table)[0][-2:] == ['2.0', '0.0']
  assert texts(table)[1][-2:] == ['cannot: T5 reads its whole input'] * 2


def test_flops_without_seconds(folder):
  rows = [{**row, 'seconds': None} for row in sweep_folders.costs()]
  folder.stage('cost', 'hypertuning.benchmarks.query_cost', ())
  folder.cell('cost', results=rows)
  section = cost.cost(sweep(folder), methods={}, models={'Prefix': 'cost'})
  assert texts(section.tables[1])[0][-2:] == ['3.0', 'not measured']
  assert section.tables[1].name == 'cost_break_even'


def test_costs_that_were_not_measured(folder):
  folder.evaluation('a_eval', dict.fromkeys('012', 90.0), task='average')
  folder.stage('cost', 'hypertuning.benchmarks.query_cost', ())
  folder.cell('cost', failed='error: no memory')
  section = cost.cost(
    sweep(folder),
    methods=WITH_PHI,
    models={'Prefix': 'cost'},
  )
  costs, even, _ = section.tables
  failed = 'failed: error: no memory'
  assert texts(costs) == [['phi', '90.0 ± 0.0', failed, failed]]
  assert texts(even) == [['Prefix', *[failed] * 8]]
  (record,) = even.records
  assert set(record.values()) == {'Prefix', '', failed}


def test_published_numbers_stay_in_their_column(folder, tmp_path):
  file = tmp_path / 'published.csv'
  file.write_text(_PUBLISHED)
  folder.evaluation('a_eval', dict.fromkeys('012', 60.0))
  method = ('P3', 'XL', 'HyperT5-Prefix')
  source = ('a_eval', 'generated', {'t': 'RTE'})
  p3, ni = published.published(
    sweep(folder), file=str(file), measured={method: source}
  ).tables
  assert (p3.name, ni.name) == (
    'published_p3_xl_accuracy',
    'published_s_ni_xl_rouge_l',
  )
  assert [p3.columns, *texts(p3)] == [
    ['P3, XL, accuracy', 'RTE', 'CB', 'RTE, measured here', 'source'],
    ['HyperT5-Prefix', '65.1', '54.2', '60.0 ± 0.0', 'table 1'],
    ['T0', '', '78.6', '', 'table 2'],
  ]
  assert p3.records[0]['value'] == '65.1'
  assert p3.records[0]['measured mean'] == 60.0
  assert texts(ni) == [['TAGI', '48.4', '', 'table 3']]
  # A number that was not found has a row where it is measured.
  file.write_text(f'{_PUBLISHED}P3,7B,HyperLlama,RTE,,accuracy,no table\n')
  assert len(published.published(sweep(folder), file=str(file)).tables) == 2
  llama = ('P3', '7B', 'HyperLlama')
  section = published.published(
    sweep(folder), file=str(file), measured={llama: source}, text='None found.'
  )
  assert section.text == 'None found.'
  assert texts(section.tables[2]) == [
    ['HyperLlama', '', '60.0 ± 0.0', 'no table']
  ]
  for options, words in (
    ({'benchmarks': ('P4',)}, "no 'P4'; there is P3, S-NI"),
    ({'measured': {method: (*source[:2], {'t': 'WiC'})}}, 'WiC'),
  ):
    with pytest.raises(UserError, match=words):
      published.published(sweep(folder), file=str(file), **options)
  file.write_text('a,b\n')
  with pytest.raises(UserError, match='columns must be benchmark,size'):
    published.published(sweep(folder), file=str(file))


@pytest.mark.parametrize(
  ('section', 'words'),
  [
    (
      lambda s: methods.methods(s, methods={'m': ('nope', 'generated')}),
      "no stage 'nope'; there is a_eval, b_eval",
    ),
    (
      lambda s: methods.methods(s, methods={'m': ('a_eval', 'other')}),
      "with phi 'other'.*phi is one of generated",
    ),
    (
      lambda s: methods.methods(
        s, methods={'m': ('a_eval', 'generated')}, metric='rouge'
      ),
      "a_eval/0/results.jsonl: no 'rouge'.*numbers are accuracy",
    ),
    (
      lambda s: methods.methods(
        s, methods={'m': ('a_eval', 'generated')}, tasks={'t': 'T', 'x': 'X'}
      ),
      "task 'x'; .*task is one of t",
    ),
    (
      lambda s: methods.methods(
        s, methods={'m': ('a_eval', 'generated')}, drawn=('x',)
      ),
      "methods.drawn: no column 'x'; there is t",
    ),
    (
      lambda s: gap.gap_closed(
        s,
        methods={},
        floor=('a_eval', 'generated', 't'),
        ceiling=('a_eval', 'generated', 'u'),
      ),
      "task 'u'",
    ),
    (
      lambda s: against_axis.against_axis(
        s, axis='rank', methods={}, name='rank', title=''
      ),
      "no axis 'rank'; there is seed, shots",
    ),
    (
      lambda s: against_axis.against_axis(
        s,
        axis='shots',
        methods={'m': ('a_eval', 'generated')},
        name='shots',
        title='',
      ),
      "cells of 'a_eval' do not differ along 'shots'",
    ),
    (
      lambda s: methods.methods(s, methods={'m': ('b_eval', 'generated')}),
      "cells of 'b_eval' differ along 'shots' too",
    ),
    (
      lambda s: losses.losses(s, stages={'Prefix': 'a_eval'}),
      'a_eval/0/metrics.jsonl: no rows with eval/loss/generated',
    ),
    (
      lambda s: starts.starts(s, stages={'a': 'a_eval'}, reference='a'),
      'a_eval/0/curves.jsonl: no rows with task, step',
    ),
    (
      lambda s: starts.starts(s, stages={'a': 'a_eval'}, reference='b'),
      "starts.reference = 'b': .* which are a",
    ),
    (
      lambda s: cost.phi_size(s, models={'m': 'a_eval'}),
      "no 'phi_bytes' with way 'query with phi'",
    ),
  ],
)
def test_what_no_run_has_is_named_in_a_line(tmp_path, section, words):
  folder = Folder(tmp_path / 'sweep', {'seed': ['0'], 'shots': ['2']})
  folder.evaluation('a_eval', {'0': 90.0})
  folder.stage('b_eval', axes=('seed', 'shots'))
  with pytest.raises(UserError, match=words) as raised:
    section(sweep(folder))
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    (None, 'no such file; SWEEP_DIR'),
    ('{', 'not the plan of a sweep'),
    ('{"axes": {}}', 'not the plan of a sweep'),
    ('[]', 'not the plan of a sweep'),
    (
      '{"axes": {}, "stages": {"a": {"axes": ["seed"]}}}',
      "not the plan of a sweep .*'seed'",
    ),
  ],
)
def test_a_folder_that_is_no_sweep(tmp_path, text, words):
  if text is not None:
    (tmp_path / 'sweep.json').write_text(text)
  with pytest.raises(UserError, match=words):
    sweep_results.read(str(tmp_path))
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='no such file; SWEEP_DIR'):
    sweep_results.read(str(tmp_path / 'file'))


def test_names_of_sections_are_files_and_differ(folder):
  folder.evaluation('a_eval', {'0': 90.0})

  def report(*names):
    def section(name):
      return lambda sweep: runs.runs(sweep, name=name)

    report_lib.report(
      sweep_dir=str(folder.root),
      sections=[section(name) for name in names],
      title='T',
    )

  with pytest.raises(UserError, match="two sections are called 'a'"):
    report('a', 'a')
  with pytest.raises(UserError, match='no name for a file'):
    report('../a')
  assert not (folder.root / 'report.html').exists()


@pytest.fixture(scope='module')
def page(tmp_path_factory):
  """The report of the claims sweep, by its gin file, some runs missing."""
  root = tmp_path_factory.mktemp('claims')
  folder = sweep_folders.claims(root / 'sweep')
  cells = folder.root / 'cells/eval'
  (cells / 'prefix_joint__1/done').unlink()
  for seed in sweep_folders.SEEDS:
    (cells / f'lora_scratch__{seed}/done').unlink()
  reason = 'error: <b>memory</b> | & co'
  folder.cell('eval', 'lora_scratch', '0', failed=reason)
  (root / 'published.csv').write_text(_PUBLISHED)
  gin_utils.parse(
    ['gin/experiments/claims/report.gin'],
    [
      f'SWEEP_DIR = {str(folder.root)!r}',
      f'published.published.file = {str(root / "published.csv")!r}',
    ],
  )
  path = gin_utils.call(report_lib.report)
  assert path == folder.root / 'report.html'
  return path


def test_page_is_whole_and_escaped(page):
  text = page.read_text()
  assert '&lt;b&gt;memory&lt;/b&gt; | &amp; co' in text
  assert '<b>' not in text
  assert '<script' not in text
  # Nothing is loaded: links go to anchors, and the icon is empty.
  links = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', text)
  for link in map(''.join, links):
    assert link.startswith('#') or link == 'data:,', link
  ids = re.findall(r'\bid="([^"]*)"', text)
  assert len(ids) == len(set(ids))
  used = re.findall(r'(?:href="|url\()#([^")]*)', text)
  assert set(used) <= set(ids)


def test_every_table_names_its_runs_and_gin_files(page):
  text = page.read_text()
  for name in ('claims', 'gap_closed', 'methods', 'starts_lora', 'cost'):
    part = text[text.index(f'id="table-{name}"') :]
    caption = part[part.index('<figcaption>') : part.index('</figcaption>')]
    assert re.search(r'cells/\w+/(\w+__)?(0|all|prefix)', caption), name
    assert re.search(r'gin/\w+\.gin', caption), name
  # What is not done has made nothing.
  assert 'cells/eval/prefix_joint__0, cells/eval/prefix_joint__2<' in text


def test_tables_are_files_too(page):
  table = (page.parent / 'methods.md').read_text().splitlines()
  assert table[0] == '| method | average | symbol tables | string functions |'
  joint = next(line for line in table if line.startswith('| HyperT5-Prefix+ '))
  assert joint.count('(n = 2 of 3)') == 3
  distilled = next(
    x for x in table if x.startswith('| HyperT5-LoRA, no hyperpretraining')
  )
  assert r'failed: error: <b>memory</b> \| & co' in distilled
  with (page.parent / 'methods.csv').open() as file:
    rows = list(csv.DictReader(file))
  ours = [r for r in rows if r['method'] == 'HyperT5-Prefix']
  path = page.parent / 'cells/eval'
  values = [
    json.loads(line)['accuracy']
    for seed in sweep_folders.SEEDS
    for line in (path / f'prefix__{seed}/results.jsonl')
    .read_text()
    .splitlines()
    if '"average", "phi": "generated"' in line
  ]
  assert float(ours[0]['mean']) == pytest.approx(np.mean(values))
  absent = [
    r for r in rows if r['method'] == 'HyperT5-LoRA, no hyperpretraining'
  ]
  assert {r['mean'] for r in absent} == {''}
