"""Sweeps: what runs, after what, what runs again, and the table of it."""

import csv
import dataclasses
import fcntl
import glob
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import runner
from etils import epath
from scipy import stats

from hypertuning import sweep
from hypertuning.errors import UserError
from hypertuning.reporting import sweep_results as reporting
from hypertuning.reporting import sweep_table
from hypertuning.sweeping import cells, expansion, launcher, scheduler
from hypertuning.sweeping.cells import Cell

FILES = ('gin/models/hyper_t5_prefix.gin', 'gin/experiments/toy.gin')
TRAIN = {
  'command': 'hypertuning.train',
  'gin_files': ('gin/optimizers/adamw.gin', 'gin/local/train.gin'),
}
EVAL = {'command': 'hypertuning.eval', 'gin_files': ('gin/local/eval.gin',)}
SEEDS = {'0': {'RANDOM_SEED': 0}, '1': {'RANDOM_SEED': 1}}


def write_cell(folder, point, rows, stage='eval'):
  path = (
    epath.Path(folder)
    / 'cells'
    / stage
    / cells.folder_name(list(point.values()))
  )
  cell = Cell(stage, point, path, 'hypertuning.eval', FILES)
  path.mkdir(parents=True)
  text = '\n'.join(json.dumps(row) for row in rows)
  (path / 'results.jsonl').write_text(text)
  cell.succeed(1.0)
  return cell


def table(folder, work, *arguments):
  """What a sweep of these cells writes."""
  cells.claim(str(folder), work)
  sweep_table.write(reporting.read(str(folder)), *arguments)
  return (folder / 'table.md').read_text()


def row(accuracy, phi='generated', task='t'):
  return {
    'task': task,
    'phi': phi,
    'episodes': 3,
    'questions': 5,
    'accuracy': accuracy,
    'accuracy_stderr': 2.0,
  }


def test_table_has_means_and_intervals_over_an_axis(tmp_path, capsys):
  work = []
  values = {'a': (50.0, 70.0, 66.0), 'b': (10.0, 10.0, 10.0)}
  for checkpoint, scores in values.items():
    for draw, value in enumerate(scores):
      rows = [row(value), row(99.0, 'none')]
      point = {'checkpoint': checkpoint, 'draw': str(draw)}
      work.append(write_cell(tmp_path, point, rows))
  bad = work[-1]
  (bad.folder / 'done').unlink()
  bad.fail('no such | file')
  found = table(tmp_path, work, 'accuracy', 'generated', 'draw')
  assert found in capsys.readouterr().out
  low, high = stats.t.interval(0.95, 2, 62.0, stats.sem(values['a']))
  assert found.splitlines() == [
    '| stage | checkpoint | phi | task | accuracy | 95% interval | cells | '
    'questions |',
    '| --- | --- | --- | --- | --- | --- | --- | --- |',
    f'| eval | a | generated | t | 62.0 | {low:.1f} to {high:.1f} | 3 | 5 |',
    '| eval | b | generated | t | 10.0 | 10.0 to 10.0 | 2 | 5 |',
    '| eval | b |  |  | failed: no such / file |  |  |  |',
  ]
  with (tmp_path / 'table.csv').open() as file:
    mean, *_, failure = csv.DictReader(file)
  assert failure['failure'] == 'failed: no such | file'
  assert mean['metric'] == 'accuracy'
  assert [float(mean[x]) for x in ('mean', 'low', 'high', 'cells')] == (
    pytest.approx([62.0, low, high, 3])
  )
  with (tmp_path / 'cells.csv').open() as file:
    lines = list(csv.DictReader(file))
  assert len(lines) == 5 * 2 + 1
  assert lines[-1]['failure'] == 'failed: no such | file'
  assert {x['value'] for x in lines if x['phi'] == 'none'} == {'99.0'}
  assert lines[0]['stderr'] == '2.0'
  assert (tmp_path / 'table.png').read_bytes().startswith(b'\x89PNG')
  one = tmp_path / 'one'
  with pytest.raises(UserError, match="METRIC = 'f1'.*there is accuracy"):
    cell = write_cell(one, {'seed': '0'}, [row(1.0)])
    table(one, [cell], 'f1', 'generated', 'seed')


def test_results_of_t5x_are_read(tmp_path):
  cell = write_cell(tmp_path, {'checkpoint': 'a'}, [])
  (cell.folder / 'results.jsonl').unlink()
  (cell.folder / 'inference_eval').mkdir()
  lines = [json.dumps({'step': n, 'accuracy': 10 * n}) for n in (1, 2)]
  path = cell.folder / 'inference_eval/t-metrics.jsonl'
  path.write_text('\n'.join(lines))
  found = table(tmp_path, [cell], 'accuracy', None, 'draw')
  assert '| eval | a | generated | t | 20.0 |  | 1 |  |' in found
  episodes = [
    {'target': [['a'], ['b', 'c']]},
    {'target': {'question': [0, 0, 1]}},
    {'target': {'question': 'of more options than seqio writes'}},
  ]
  path.with_name('t-000002.jsonl').write_text(
    '\n'.join(map(json.dumps, episodes))
  )
  found = table(tmp_path, [cell], 'accuracy', None, 'draw')
  assert '| eval | a | generated | t | 20.0 |  | 1 | 5 |' in found
  (cell.folder / 'config.gin').write_text('# Macros:\nHYPERMODEL = None\n')
  found = table(tmp_path, [cell], 'accuracy', None, 'draw')
  assert '| eval | a | none | t | 20.0 |  | 1 |' in found


def test_half_written_and_broken_results_are_in_no_table(tmp_path):
  work = [
    write_cell(tmp_path, {'seed': str(n)}, [row(value)])
    for n, value in enumerate((1.0, 99.0, 98.0))
  ]
  (work[1].folder / 'done').unlink()
  (work[2].folder / 'results.jsonl').write_text('{"task": "t", "phi')
  found = table(tmp_path, work, 'accuracy', None, 'seed')
  assert '| eval | generated | t | 1.0 |  | 1 |' in found
  assert '99' not in found and '98' not in found
  assert 'results.jsonl:1: not JSON' in (tmp_path / 'table.csv').read_text()


def test_what_is_no_number_is_in_no_mean(tmp_path):
  work = [
    write_cell(tmp_path, {'seed': str(n)}, [{**row(value), 'loss_low': 1.0}])
    for n, value in enumerate((50.0, float('nan'), 70.0))
  ]
  table(tmp_path, work, 'accuracy', None, 'seed')
  with (tmp_path / 'table.csv').open() as file:
    mean, failure = csv.DictReader(file)
  assert (mean['mean'], mean['cells'], mean['questions']) == ('60.0', '2', '5')
  why = 'failed: cells/eval/1: accuracy of t is nan'
  assert failure['failure'] == why
  assert why in (tmp_path / 'table.md').read_text()


def test_stages_start_from_one_another_at_the_same_point(tmp_path):
  work = expansion.expand(
    str(tmp_path),
    {
      'base': {**TRAIN, 'axes': ()},
      'tuned': {
        **TRAIN,
        'axes': ('seed',),
        'bindings': {'TRAIN_STEPS': 3},
        'after': {'INITIAL_CHECKPOINT_PATH': 'base'},
      },
      'eval': {**EVAL, 'after': {'CHECKPOINT_PATH': 'tuned'}},
    },
    {
      'seed': {**SEEDS, '1': {'RANDOM_SEED': 1, 'stages': ('eval',)}},
      'shots': {'2': {'SHOTS': 2, 'gin_files': ('x.gin',)}},
    },
  )
  # All of the first seed, then all of the second.
  assert [cell.name for cell in work] == [
    'base/all',
    'tuned/0',
    'eval/0__2',
    'tuned/1',
    'eval/1__2',
  ]
  last = work[-1]
  assert last.after['CHECKPOINT_PATH'] is work[3]
  assert work[3].after['INITIAL_CHECKPOINT_PATH'] is work[0]
  assert work[1].bindings == {'TRAIN_STEPS': 3, 'RANDOM_SEED': 0}
  assert work[3].bindings == {'TRAIN_STEPS': 3}  # the point means others
  assert last.flags() == [
    '--gin_file=x.gin',
    '--gin_file=gin/local/eval.gin',
    '--gin.RANDOM_SEED=1',
    '--gin.SHOTS=2',
    f"--gin.EVAL_OUTPUT_DIR='{last.folder}'",
    f"--gin.CHECKPOINT_PATH='{work[3].folder}'",
  ]


def test_what_most_stages_wait_for_comes_first(tmp_path):
  """Else the last point of an axis is one long chain, for one worker."""
  stages = {
    'pretrain': {'command': 'hypertuning.train', 'gin_files': ('x.gin',)},
    'probe': {
      'command': 'hypertuning.eval',
      'gin_files': ('x.gin',),
      'after': {'CHECKPOINT_PATH': 'pretrain'},
    },
    'train': {
      'command': 'hypertuning.train',
      'gin_files': ('x.gin',),
      'after': {'INITIAL_CHECKPOINT_PATH': 'pretrain'},
    },
    'eval': {
      'command': 'hypertuning.eval',
      'gin_files': ('x.gin',),
      'after': {'CHECKPOINT_PATH': 'train'},
    },
  }
  axes = {'seed': {'0': {'RANDOM_SEED': 0}}, 'method': {'a': {}, 'b': {}}}
  assert [
    cell.name for cell in expansion.expand(str(tmp_path), stages, axes)
  ] == [
    *('pretrain/0__a', 'pretrain/0__b', 'train/0__a', 'train/0__b'),
    *('probe/0__a', 'eval/0__a', 'probe/0__b', 'eval/0__b'),
  ]


METHODS = {
  'prefix': {
    'gin_files': ('prefix.gin',),
    'per_stage': {'eval': {'PHI_MODES': ('other',)}},
  },
  'shared_prefix': {
    'gin_files': ('prefix.gin', 'learned.gin'),
    'per_stage': {'tuned': {'after': {'INITIAL_CHECKPOINT_PATH': 'base'}}},
  },
  'mtf': {
    'gin_files': ('t5.gin',),
    'last_gin_files': ('in_context.gin',),
    'per_stage': {'tuned': {'INITIAL_CHECKPOINT_PATH': 't5'}},
  },
  'distilled': {
    'gin_files': ('prefix.gin',),
    'per_stage': {
      'tuned': {
        'gin_files': ('teacher.gin',),
        'last_gin_files': ('distill.gin',),
        'after': {
          'INITIAL_CHECKPOINT_PATH': 'pretrained/prefix',
          'TEACHER_CHECKPOINT_PATH': 'tuned/mtf',
        },
      },
    },
  },
}
METHOD_STAGES = {
  'base': {**TRAIN, 'axes': ()},
  'pretrained': {
    **TRAIN,
    'axes': ('method', 'seed'),
    'points': {'method': ('prefix',)},
    'after': {'INITIAL_CHECKPOINT_PATH': 'base'},
  },
  'tuned': {
    **TRAIN,
    'axes': ('method', 'seed'),
    'after': {'INITIAL_CHECKPOINT_PATH': 'pretrained'},
  },
  'eval': {
    **EVAL,
    'axes': ('method', 'seed'),
    'bindings': {'PHI_MODES': ('generated',)},
    'after': {'CHECKPOINT_PATH': 'tuned'},
  },
  'from_shared': {
    **EVAL,
    'axes': ('method', 'seed'),
    'points': {'method': ('prefix',)},
    'after': {'CHECKPOINT_PATH': 'tuned/shared_{method}'},
  },
}


def by_name(folder, stages=METHOD_STAGES, methods=METHODS):
  axes = {'seed': SEEDS, 'method': methods}
  work = expansion.expand(str(folder), stages, axes)
  return {cell.name: cell for cell in work}


def test_a_method_is_an_axis(tmp_path):
  """A point says where a stage starts, and which files stand where."""
  work = by_name(tmp_path)
  methods = ('prefix', 'shared_prefix', 'mtf', 'distilled')
  assert set(work) == {
    'base/all',
    *(f'pretrained/prefix__{seed}' for seed in SEEDS),
    *(
      f'{s}/{m}__{x}' for s in ('tuned', 'eval') for m in methods for x in SEEDS
    ),
    *(f'from_shared/prefix__{seed}' for seed in SEEDS),
  }
  for seed in SEEDS:
    starts = {
      method: {
        binding: cell.name
        for binding, cell in work[f'tuned/{method}__{seed}'].after.items()
      }
      for method in methods
    }
    pretrained = f'pretrained/prefix__{seed}'
    assert starts == {
      'prefix': {'INITIAL_CHECKPOINT_PATH': pretrained},
      'shared_prefix': {'INITIAL_CHECKPOINT_PATH': 'base/all'},
      'mtf': {},
      'distilled': {
        'INITIAL_CHECKPOINT_PATH': pretrained,
        'TEACHER_CHECKPOINT_PATH': f'tuned/mtf__{seed}',
      },
    }
    (other,) = work[f'from_shared/prefix__{seed}'].after.values()
    assert other is work[f'tuned/shared_prefix__{seed}']
  # A point's value takes the place of the stage's folder.
  assert work['tuned/mtf__1'].bindings == {
    'INITIAL_CHECKPOINT_PATH': 't5',
    'RANDOM_SEED': 1,
  }
  assert work['tuned/distilled__0'].gin_files == (
    *('prefix.gin', 'teacher.gin'),
    *TRAIN['gin_files'],
    'distill.gin',
  )
  for stage, own in (('tuned', TRAIN), ('eval', EVAL)):
    assert work[f'{stage}/mtf__0'].gin_files == (
      't5.gin',
      *own['gin_files'],
      'in_context.gin',
    )
  modes = {m: work[f'eval/{m}__0'].bindings['PHI_MODES'] for m in methods}
  assert modes.pop('prefix') == ('other',)
  assert set(modes.values()) == {('generated',)}


def test_cells_of_a_method_are_read_by_its_name(tmp_path):
  work = by_name(tmp_path)
  cells.claim(str(tmp_path), list(work.values()))
  found = reporting.read(str(tmp_path))
  assert {
    f'{cell.name.removeprefix("cells/")}'
    for stage in found.stages.values()
    for cell in stage.cells
  } == set(work)  # and not every method at every stage
  mtf = found.stage('eval/mtf')
  assert (mtf.name, list(mtf.axes)) == ('eval/mtf', ['seed'])
  assert [cell.name for cell in mtf.cells] == [
    f'cells/eval/mtf__{seed}' for seed in SEEDS
  ]
  assert len(found.stage('eval', ('method', 'seed')).cells) == 8
  for name, message in (
    ('eval', "differ along 'method' too; choose a label, eval/LABEL"),
    (
      'eval/lora',
      "'eval' has 0 axes with a point 'lora'; its points are prefix",
    ),
    ('base/0', "'base' has 0 axes with a point '0'; its points are none"),
    ('other/mtf', "no stage 'other'"),
  ):
    with pytest.raises(UserError, match=message):
      found.stage(name)


def test_points_of_an_earlier_start_stay(tmp_path):
  first = by_name(tmp_path, methods={'prefix': METHODS['prefix']} | METHODS)
  cells.claim(str(tmp_path), list(first.values()))
  stages = {
    name: stage
    for name, stage in METHOD_STAGES.items()
    if name != 'from_shared'
  }
  fewer = {name: METHODS[name] for name in ('prefix', 'mtf')}
  again = by_name(tmp_path, stages, fewer)
  cells.claim(str(tmp_path), list(again.values()))
  found = reporting.read(str(tmp_path)).stages
  assert len(found['tuned'].cells) == 8
  assert len(found['from_shared'].cells) == 2


@pytest.mark.parametrize(
  'point, stage, message',
  [
    (
      {'per_stage': ('eval',)},
      {},
      "'m' of 'method': per_stage must be a dict",
    ),
    ({'per_stage': {'evl': {}}}, {}, r"the stages \('evl',\) in 'per_stage'"),
    ({'last_gin_files': 'x.gin'}, {}, 'last_gin_files must be a tuple'),
    (
      {'per_stage': {'eval': {'gin_files': 'x.gin'}}},
      {},
      "point 'm' of 'method': gin_files must be a tuple",
    ),
    ({'after': 'base'}, {}, "point 'm' of 'method': after must be a dict"),
    (
      {'after': {'X': 'bse/m'}},
      {},
      "'m' of 'method': X comes from stage 'bse', which does not exist",
    ),
    (
      {'after': {'X': 'run/other'}},
      {},
      "'eval' starts from 'run/other' at the point method 'm', where 'run' has "
      '0 cells',
    ),
    ({'after': {'X': 'eval/m'}}, {}, "'eval' has 0 cells before it"),
    (
      {'after': {'X': 'run/{seed}'}},
      {},
      "after 'run/{seed}': give STAGE or STAGE/LABEL, where {axis} is one of",
    ),
    ({}, {'points': {'seed': ('0',)}}, "'eval': points of the axis 'seed'"),
    ({}, {'points': {'method': ('n',)}}, r"points \('n',\) of 'method'; give"),
    ({}, {'points': {'method': 'm'}}, "points.'method'. must be a tuple"),
    ({}, {'points': {'method': ()}}, "points.'method'. must not be empty"),
    ({}, {'points': ('m',)}, "'eval': points must be a dict"),
  ],
)
def test_slips_of_points(tmp_path, point, stage, message):
  given = {'run': TRAIN, 'eval': {**EVAL, **stage}}
  axes = {'method': {'m': {'stages': ('eval',), **point}}}
  with pytest.raises(UserError, match=message):
    expansion.expand(str(tmp_path), given, axes)


@pytest.mark.parametrize(
  'stages, axes, message',
  [
    ({}, {}, 'STAGES: there is none'),
    ((EVAL,), {}, 'STAGES must be a dict'),
    ({'a': EVAL}, (SEEDS,), 'AXES must be a dict'),
    ({'a': EVAL}, {'seed': ('0', '1')}, "AXES: 'seed' must be a dict"),
    ({'a': (EVAL,)}, {}, "STAGES: 'a' must be a dict"),
    ({'a': {**EVAL, 'after': 'b'}}, {}, "'a': after must be a dict"),
    ({'a': {**EVAL, 'bindings': ('X',)}}, {}, 'bindings must be a dict'),
    ({'a': EVAL}, {'seed': {}}, "AXES: 'seed' has no points"),
    ({'a': {**EVAL, 'command': 'rm'}}, {}, "'a': command 'rm'"),
    ({'a': {**EVAL, 'files': ()}}, {}, "'a' has a field 'files'"),
    ({'a': {'command': 'hypertuning.eval'}}, {}, "'a' has no 'gin_files'"),
    ({'a': {**EVAL, 'axes': ('sed',)}}, {'seed': SEEDS}, "no axis 'sed'"),
    ({'a b': EVAL}, {}, "'a b' cannot name a folder"),
    ({'a': {**EVAL, 'gin_files': 'x.gin'}}, {}, 'gin_files must be a tuple'),
    (
      {'a': EVAL},
      {'seed': {'0': {'gin_files': 'x.gin'}}},
      "point '0' of 'seed': gin_files must be a tuple",
    ),
    ({'a': EVAL}, {'seed': {0: {}}}, "point 0 of 'seed' must be a name"),
    ({'a': EVAL}, {'s': {'0': {'stages': ('b',)}}}, r"the stages \('b',\)"),
    ({'a': EVAL}, {'s': {'x y': {}, 'x_y': {}}}, 'two points have the folder'),
    ({'a': {**EVAL, 'after': {'X': 'b'}}}, {}, "stage 'b', which does not"),
    (
      {'a': {**EVAL, 'after': {'X': 'b'}}, 'b': TRAIN},
      {},
      "'a' comes before 'b'",
    ),
    (
      {'b': TRAIN, 'a': {**EVAL, 'axes': (), 'after': {'X': 'b'}}},
      {'seed': SEEDS},
      "'b', which has the axis 'seed'",
    ),
  ],
)
def test_slips(tmp_path, stages, axes, message):
  with pytest.raises(UserError, match=message):
    sweep.sweep(output_dir=str(tmp_path), stages=stages, axes=axes)
  assert not list(tmp_path.iterdir())


def test_slips_of_a_sweep(tmp_path):
  (tmp_path / 'file').touch()
  for slip, message in (
    ({'average_over': 'sed'}, "AVERAGE_OVER = 'sed': no such axis"),
    (
      {'output_dir': str(tmp_path / 'file')},
      "SWEEP_DIR = '.*/file': cannot be written .*file is not a folder",
    ),
    (
      {'output_dir': str(tmp_path / 'file/a')},
      "SWEEP_DIR = '.*/a': cannot be written .Not a dir",
    ),
  ):
    given = {'output_dir': str(tmp_path / 'out'), 'stages': {'run': TRAIN}}
    with pytest.raises(UserError, match=message):
      sweep.sweep(**{**given, **slip})
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_two_sweeps_in_one_folder(tmp_path):
  def claim(stages, seeds=SEEDS):
    work = expansion.expand(str(tmp_path), stages, {'seed': seeds})
    cells.claim(str(tmp_path), work)

  one = {'run': {**TRAIN, 'bindings': {'TRAIN_STEPS': 3}}}
  claim(one)
  # More of the same is welcome: another seed, a stage that starts from it.
  claim({**one, 'more': EVAL}, {'2': {'RANDOM_SEED': 2}})
  claim(one)
  said = json.loads((tmp_path / 'sweep.json').read_text())
  assert said['axes'] == {'seed': ['0', '1', '2']}
  assert list(said['stages']) == ['run', 'more']
  with pytest.raises(UserError, match="another sweep.*stage 'run'"):
    claim({'other': TRAIN})
  with pytest.raises(UserError, match='0/command.json: this cell was another'):
    claim({'run': {**TRAIN, 'bindings': {'TRAIN_STEPS': 4}}})
  (tmp_path / 'sweep.json').write_text('{')
  with pytest.raises(UserError, match='sweep.json: is damaged'):
    claim(one)


def test_results_of_other_gin_files_are_refused(tmp_path):
  file, part = tmp_path / 'mine.gin', tmp_path / 'part.gin'
  file.write_text(f"include '{part}'\nBATCH_SIZE = 4\n")
  stages = {'run': {**TRAIN, 'gin_files': (str(file),)}}

  def claim(text):
    part.write_text(text)
    work = expansion.expand(str(tmp_path / 'out'), stages, {})
    cells.claim(str(tmp_path / 'out'), work)
    return work[0]

  claim('TRAIN_STEPS = 3\n')
  cell = claim('TRAIN_STEPS = 4\n')  # there is nothing yet that it would change
  cell.succeed(1.0)
  claim('# A comment.\nTRAIN_STEPS = 4\n')
  with pytest.raises(
    UserError, match='mine.gin, or what they include, changed'
  ):
    claim('TRAIN_STEPS = 5\n')
  cell.reopen()
  claim('TRAIN_STEPS = 5\n')
  (cell.folder / 'checkpoint_3').mkdir()  # from where it would go on
  with pytest.raises(
    UserError, match='mine.gin, or what they include, changed'
  ):
    claim('TRAIN_STEPS = 6\n')


def test_a_seed_is_not_added_to_those_of_other_settings(tmp_path):
  file = tmp_path / 'mine.gin'

  def claim(seed, text, **bindings):
    file.write_text(text)
    stages = {'run': {**TRAIN, 'gin_files': (str(file),), 'bindings': bindings}}
    axes = {'seed': {seed: {'RANDOM_SEED': int(seed)}}}
    work = expansion.expand(str(tmp_path / 'out'), stages, axes)
    cells.claim(str(tmp_path / 'out'), work)
    return work[0]

  claim('0', 'TRAIN_STEPS = 3\n', BATCH_SIZE=4)
  claim('1', 'TRAIN_STEPS = 4\n', BATCH_SIZE=4)  # the first is not done
  claim('0', 'TRAIN_STEPS = 4\n', BATCH_SIZE=4).succeed(1.0)
  claim('1', 'TRAIN_STEPS = 4\n', BATCH_SIZE=4)
  for text, size in (('TRAIN_STEPS = 5\n', 4), ('TRAIN_STEPS = 4\n', 2)):
    with pytest.raises(UserError, match='run/0/command.json.*changed since'):
      claim('2', text, BATCH_SIZE=size)


def test_a_seed_is_not_added_to_those_of_another_sweep(tmp_path):
  files = [tmp_path / f'{name}.gin' for name in 'ab']
  for file in files:
    file.write_text('BATCH_SIZE = 4\n')

  def claim(seed, file=files[0], after='run', kind=tuple, **point):
    run = {**TRAIN, 'gin_files': kind([str(file)])}
    eval_ = {**EVAL, 'after': {'CHECKPOINT_PATH': after}}
    axes = {
      'steps': {'s': {'stages': ('run',), 'TRAIN_STEPS': 30, **point}},
      'seed': {seed: {'RANDOM_SEED': int(seed)}},
    }
    given = {'run': run, 'other': run, 'eval': eval_}
    work = expansion.expand(str(tmp_path / 'out'), given, axes)
    cells.claim(str(tmp_path / 'out'), work)
    return work

  for cell in claim('0'):
    cell.succeed(1.0)
  claim('1', kind=list)  # another way to write the same
  for more, said in (
    (
      {'file': files[1]},
      "run/s__0/command.json: stage 'run' of STAGES changed",
    ),
    ({'after': 'other'}, "eval/s__0/.*: stage 'eval' of STAGES changed"),
    ({'TRAIN_STEPS': 60}, "run/s__0/.*: point 's' of 'steps' in AXES changed"),
    (
      {'stages': ('other',)},
      "run/s__0/.*: point 's' of 'steps' in AXES changed",
    ),
  ):
    with pytest.raises(UserError, match=said):
      claim('2', **more)


def test_results_from_a_run_that_is_gone_are_refused(tmp_path):
  stages = {'run': TRAIN, 'eval': {**EVAL, 'after': {'CHECKPOINT_PATH': 'run'}}}
  work = expansion.expand(str(tmp_path), stages, {})
  cells.claim(str(tmp_path), work)
  for cell in work:
    (cell.folder / cells.LOG).touch()
    cell.succeed(1.0)
  cells.claim(str(tmp_path), work)
  work[0].reopen()
  with pytest.raises(UserError, match='eval/all: has been run from run/all'):
    cells.claim(str(tmp_path), work)


def test_broken_results_are_made_again(tmp_path, monkeypatch):
  cell = write_cell(tmp_path, {'seed': '0'}, [row(1.0)])
  monkeypatch.setattr(scheduler, 'run', lambda work, unused: None)
  stages = {'eval': {**EVAL, 'gin_files': FILES}}

  def run():
    axes = {'seed': {'0': {}}}
    sweep.sweep(output_dir=str(tmp_path), stages=stages, axes=axes)

  run()
  assert cell.is_done
  for break_it in (
    lambda path: path.write_text('{"task": "t", "phi'),
    lambda path: path.unlink(),
  ):
    cell.succeed(1.0)
    break_it(cell.folder / 'results.jsonl')
    with pytest.raises(UserError, match='1 of 1 cells failed'):
      run()
    assert not cell.is_done


def test_a_run_whose_log_is_broken_keeps_its_checkpoints(tmp_path, monkeypatch):
  monkeypatch.setattr(scheduler, 'run', lambda work, unused: None)

  def run():
    sweep.sweep(output_dir=str(tmp_path), stages={'run': TRAIN})

  with pytest.raises(UserError, match='1 of 1 cells failed'):
    run()
  cell = expansion.expand(str(tmp_path), {'run': TRAIN}, {})[0]
  (cell.folder / 'checkpoint_3').mkdir()
  (cell.folder / 'metrics.jsonl').write_text('{"step": 1}\n{"step')
  cell.succeed(1.0)
  with pytest.raises(
    UserError, match='run/all has run, but metrics.jsonl:2: not JSON; mend'
  ):
    run()
  assert cell.is_done
  (cell.folder / 'metrics.jsonl').write_text('{"step": 1}\n')
  run()


def test_a_killed_cell_says_so(tmp_path):
  command = [sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)']
  work = expansion.expand(str(tmp_path), {'run': TRAIN}, {})
  cells.claim(str(tmp_path), work)

  class Killed:
    def __init__(self, commands):
      pass

    def __call__(self, unused_command, unused_flags, log, *unused):
      log.write_text('90/100 loss=1.2')
      return subprocess.Popen(command)

    def close(self):
      pass

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(scheduler.launcher, 'Launcher', Killed)
    scheduler.run(work, 1)
  assert work[0].failure == 'killed by SIGKILL'


@pytest.mark.skipif(
  len(getattr(os, 'sched_getaffinity', lambda _: ())(0)) < 2,
  reason='one core, or no way to choose cores',
)
def test_cells_that_run_together_divide_the_cores(tmp_path, monkeypatch):
  """A cell beside which none can run has all."""
  (tmp_path / 'cores.py').write_text(
    'import os, time\ntime.sleep(3)\nprint(*os.sched_getaffinity(0))\n'
  )
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.setitem(cells.OUTPUTS, 'cores', 'MODEL_DIR')
  stages = {'first': TRAIN, **dict.fromkeys('ab', TRAIN)}
  for name in 'ab':
    stages[name] = {**TRAIN, 'after': {'INITIAL_CHECKPOINT_PATH': 'first'}}
  work = expansion.expand(str(tmp_path / 'sweep'), stages, {})
  cells.claim(str(tmp_path / 'sweep'), work)
  first, *others = (dataclasses.replace(x, command='cores') for x in work)
  after = {'INITIAL_CHECKPOINT_PATH': first}
  work = [first, *(dataclasses.replace(x, after=after) for x in others)]
  scheduler.run(work, 2)
  used = {
    cell.name: set(map(int, (cell.folder / cells.LOG).read_text().split()))
    for cell in work
  }
  cores = os.sched_getaffinity(0)
  assert used['first/all'] == cores
  assert used['a/all'] | used['b/all'] == cores
  assert not used['a/all'] & used['b/all']


@pytest.mark.skipif(
  bool(glob.glob('/dev/nvidia*')),
  reason='where there are NVIDIA devices, commands are not forked',
)
def test_a_forked_command_holds_the_lock(tmp_path):
  """A sweep that is killed leaves none free that is still written to."""
  path = tmp_path / '.lock'

  def lock():
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file

  launch = launcher.Launcher({'hypertuning.eval'})
  assert launch._forked
  file = lock()
  try:
    process = launch('hypertuning.eval', ['--help'], tmp_path / cells.LOG, file)
    os.close(file)
    with pytest.raises(BlockingIOError):
      lock()
    process.wait()
    os.close(lock())
  finally:
    launch.close()


def _small(**more):
  """Stages whose commands end in seconds."""
  bindings = {**runner.SMALL, 'WARMUP_STEPS': 1, 'TRAIN_STEPS': 2}
  train = {
    'command': 'hypertuning.train',
    'gin_files': runner.TRAIN_FILES,
    'bindings': {**bindings, 'EVAL_PERIOD': 0},
  }
  return {
    'run': train,
    'bad': {**train, 'after': {'INITIAL_CHECKPOINT_PATH': 'run'}, **more},
    'eval': {
      'command': 'hypertuning.eval',
      'gin_files': (*runner.MODEL_FILES, 'gin/local/eval.gin'),
      'bindings': {**runner.SMALL, 'EVAL_STEPS': 1},
      'after': {'CHECKPOINT_PATH': 'bad'},
    },
  }


@pytest.mark.slow
def test_a_failure_stops_only_what_needs_it_and_nothing_runs_twice(
  tmp_path, capsys
):
  arguments = {'output_dir': str(tmp_path), 'num_workers': 2}
  stages = _small(bindings={**_small()['run']['bindings'], 'PREFIX_LENGTH': 3})
  stages['bad']['after'] = {'INITIAL_CHECKPOINT_PATH': 'run'}
  stages['fine'] = {**stages['eval'], 'after': {'CHECKPOINT_PATH': 'run'}}
  with pytest.raises(UserError, match='2 of 4 cells failed.*queries'):
    sweep.sweep(**arguments, stages=stages)
  out = capsys.readouterr().out
  assert '4 cells, 0 done before, 4 to run' in out
  assert '| eval |  |  | failed: bad/all failed, which it starts from |' in out
  assert '| fine | generated | toy_symbols | ' in out
  done = sorted(tmp_path.glob('cells/*/*/done'))
  assert [path.parts[-3] for path in done] == ['fine', 'run']
  times = {path: path.stat().st_mtime_ns for path in done}
  log = tmp_path / 'cells/bad/all/log.txt'
  assert 'Traceback' not in log.read_text()
  with pytest.raises(UserError, match='2 of 4 cells failed'):
    sweep.sweep(**arguments, stages=stages)
  assert '2 done before, 2 to run' in capsys.readouterr().out
  assert {path: path.stat().st_mtime_ns for path in done} == times


def test_what_cannot_be_started_is_a_failure(tmp_path, monkeypatch):
  stages = {'run': TRAIN, 'eval': {**EVAL, 'after': {'CHECKPOINT_PATH': 'run'}}}
  work = expansion.expand(str(tmp_path), stages, {})
  cells.claim(str(tmp_path), work)

  class Full:
    def __init__(self, commands):
      pass

    def __call__(self, *arguments):
      raise OSError('no space left')

    def close(self):
      pass

  monkeypatch.setattr(scheduler.launcher, 'Launcher', Full)
  scheduler.run(work, 2)
  assert work[0].failure == 'OSError: no space left'
  assert work[1].failure == 'run/all failed, which it starts from'


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(tmp_path):
  """SIGTERM ends the cell that runs, which keeps its state."""
  gin = f'STAGES = {_small()!r}\n'.replace(
    "'TRAIN_STEPS': 2", "'TRAIN_STEPS': 9999"
  )
  (tmp_path / 'mine.gin').write_text(gin)
  command = [
    sys.executable,
    '-m',
    'hypertuning.sweep',
    '--gin_file=gin/sweeps/sweep.gin',
    '--gin_file=mine.gin',
    "--gin.SWEEP_DIR='out'",
  ]
  process = subprocess.Popen(
    command,
    cwd=tmp_path,
    env=runner.environment(),
    stderr=subprocess.PIPE,
    text=True,
  )
  metrics = tmp_path / 'out/cells/run/all/metrics.jsonl'
  deadline = time.monotonic() + 240
  while not metrics.exists() and time.monotonic() < deadline:
    time.sleep(0.5)
  process.send_signal(signal.SIGTERM)
  _, err = process.communicate(timeout=120)
  assert process.returncode == 128 + signal.SIGTERM, err
  assert 'the same command goes on from there' in err
  assert list(metrics.parent.glob('checkpoint_*'))
  assert not list(tmp_path.glob('out/cells/*/*/done'))
  assert not list(tmp_path.glob('out/cells/*/*/failed'))


def test_a_cell_that_another_process_runs_is_left_to_it(tmp_path, monkeypatch):
  work = expansion.expand(str(tmp_path), {'run': TRAIN}, {})
  cells.claim(str(tmp_path), work)
  other = os.open(work[0].folder / '.lock', os.O_RDWR | os.O_CREAT)
  fcntl.flock(other, fcntl.LOCK_EX)

  class Idle:
    """Nothing may be started."""

    def __init__(self, commands):
      assert commands == {'hypertuning.train'}

    def close(self):
      pass

  def finish(seconds):
    work[0].succeed(1.0)  # the other process ends it while we wait

  monkeypatch.setattr(scheduler.launcher, 'Launcher', Idle)
  monkeypatch.setattr(scheduler.time, 'sleep', finish)
  scheduler.run(work, 1)
  os.close(other)
  assert work[0].is_done and work[0].failure is None
