"""Adapting beside gradient tuning: what is counted; how fast, no test says."""

import json
import statistics
import subprocess
import sys

import pytest
import runner
import tiny_runs

import hypertuning
from hypertuning import command_line
from hypertuning.benchmarks import adapt, adapting, held_out
from hypertuning.data import tuning_files
from hypertuning.data.tuning_files import TuningTask
from hypertuning.tasks import toy

# Their runs are trained first, for half a minute and more.
pytestmark = pytest.mark.slow

pytest.importorskip('peft', reason='needs the extra `hf`')

STEPS = 4
_FLAGS = (f'--steps={STEPS}', '--eval_period=2', '--rounds=1', '--num_tasks=2')


def _tasks(path) -> None:
  """Three tasks, of which the command reads two."""
  tables = list(toy.symbol_tables('validation', held_out=3).items())
  with path.open('w') as file:
    for name, rows in tables:
      pairs = [{'inputs': x, 'targets': y} for x, y in rows]
      task = {'name': name, 'examples': pairs[::10], 'test': pairs[1:9]}
      file.write(json.dumps(task) + '\n')


@pytest.fixture(scope='module', params=['lora', 'hyper_llama'])
def measured(request, tmp_path_factory):
  """A tiny run's folder, and what the command wrote about it."""
  root = tmp_path_factory.mktemp(request.param)
  tiny_runs.make(root / 'run', request.param)
  _tasks(root / 'tasks.jsonl')
  flags = [f'--model={root}/run', f'--tasks={root}/tasks.jsonl']
  flags += [f'--output={root}/out', *_FLAGS]
  assert command_line.run(adapt.main, flags) == 0
  return root, json.loads((root / 'out/results.json').read_text())


def test_rows_follow_from_the_tasks(measured):
  from hypertuning.benchmarks import peft_tuning

  root, found = measured
  ways = {row['way']: row for row in found['ways']}
  assert set(ways) == {
    *(adapting.FROZEN, adapting.IN_CONTEXT, adapting.AT_ONCE),
    *peft_tuning.METHODS,
  }
  unit = ways[adapting.AT_ONCE]['seconds']
  for way, whole in ways.items():
    rows = [row for row in found['tasks'] if row['way'] == way]
    assert len(rows) == whole['tasks'] == 2
    assert whole['accuracy'] == statistics.fmean(x['accuracy'] for x in rows)
    if 'seconds' in whole:
      assert whole['ratio'] == pytest.approx(whole['seconds'] / unit)
      assert 0 < whole['low'] <= whole['seconds'] <= whole['high']
      assert whole['flops'] > 0 and whole['bytes'] > 0
    if 'reached' in whole:
      assert whole['reached'] == sum(x['reached'] for x in rows)
  assert {'machine', 'versions', 'steps', 'model'} <= set(found)


def _loss(model, pairs) -> float:
  """Our loss per target token."""
  form = model.text_format
  scores = sum(model.score(x, [y])[0] for x, y in pairs)
  tokens = sum(
    len(form.encode(y, 'targets')) + len(form.target_end) for _, y in pairs
  )
  return -scores / tokens


def test_tuning_starts_from_the_same_model(measured):
  """LoRA is 0 at first: its loss is that of our frozen model."""
  from hypertuning.benchmarks import peft_tuning

  root, found = measured
  model = hypertuning.load(root / 'run')
  tasks = tuning_files.read(str(root / 'tasks.jsonl'))
  starts = {
    row['task']: row['start_loss']
    for row in found['tasks']
    if row['way'] == peft_tuning.LORA
  }
  for task in tasks[:2]:
    wanted = _loss(model, task.examples)
    assert starts[task.name] == pytest.approx(wanted, abs=1e-4)


def test_ids_that_have_changed_places_are_changed_back(tmp_path):
  import bpe
  import exported

  from hypertuning.api import frozen_source
  from hypertuning.benchmarks import peft_tuning

  ends = {'bos_token_id': 0, 'eos_token_id': 0, 'vocab_size': bpe.SIZE}
  base = exported.base('llama', tmp_path, **ends)
  source = frozen_source.read(base.folder, '--model')
  assert source.swapped_ids
  model = hypertuning.load(base.folder)
  pairs = [('Is 1 even?', 'no'), ('Is 2 even?', 'yes')]
  task = TuningTask('even', pairs, pairs)
  tuner = peft_tuning.Tuner(str(base.public), model, source.swapped_ids, 2, 2)
  for method in peft_tuning.METHODS:
    row = tuner.tune(method, task, 101.0)
    assert row['steps'] == 2 and not row['reached']
    if method == peft_tuning.LORA:
      # Ours has one token more: padding, in the place of their id 0.
      wanted = _loss(model, pairs)
      assert row['start_loss'] == pytest.approx(wanted, abs=2e-3)


def test_a_curve_ends_at_the_target_or_the_last_step(measured):
  _, found = measured
  curves = [row for row in found['tasks'] if 'curve' in row]
  assert len(curves) == 4
  for row in curves:
    steps = [test['steps'] for test in row['curve']]
    assert steps == [2, 4][: len(steps)]
    assert row['reached'] or steps[-1] == STEPS
    seconds = [test['seconds'] for test in row['curve']]
    assert seconds == sorted(seconds)
    best = max(test['accuracy'] for test in row['curve'])
    assert row['accuracy'] == best


def test_a_cache_stands_where_the_network_has_one(measured):
  root, found = measured
  costs = {row['way']: row for row in found['costs']}
  model = hypertuning.load(root / 'run')
  assert costs[adapting.IN_CONTEXT]['bytes'] == 0
  assert costs[adapting.IN_CONTEXT]['make'] is None
  assert costs[adapting.WITH_PHI]['bytes'] == found['ways'][2]['bytes']
  if 'llama' in type(model.base.config).__name__.lower():
    assert costs[adapting.CACHED]['bytes'] > costs[adapting.WITH_PHI]['bytes']
  else:
    assert 'reads its whole input' in costs[adapting.CACHED]['reason']


def test_tables_have_a_cell_per_column(measured):
  root, found = measured
  text = (root / 'out/table.md').read_text()
  tables = [part.splitlines() for part in text.strip().split('\n\n')]
  assert [len(lines) - 2 for lines in tables] == [5, 3]
  for lines in tables:
    assert len({line.count('|') for line in lines}) == 1


def test_without_torch_the_rest_goes_on(measured, tmp_path):
  root, _ = measured
  code = (
    'import sys\nsys.modules.update(torch=None)\nimport runpy\n'
    'sys.argv = sys.argv[1:]\n'
    'runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)\n'
  )
  done = subprocess.run(
    [
      *(sys.executable, '-c', code, 'hypertuning.benchmarks.adapt'),
      *(f'--model={root}/run', f'--tasks={root}/tasks.jsonl'),
      *(f'--output={tmp_path}/out', *_FLAGS),
    ],
    env=runner.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert "pip install '.[hf]'" in done.stderr
  found = json.loads((tmp_path / 'out/results.json').read_text())
  assert len(found['ways']) == 3


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (('--tasks=no.jsonl', '--output=out'), 'no such file'),
    (('--tasks=no.jsonl',), 'required: --output'),
    (('--output=out', '--steps=0'), '--steps = 0'),
    (('--output=.', '--steps=1'), 'is there already'),
  ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capfd, flags, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine').touch()
  assert command_line.run(adapt.main, flags) == 2
  err = capfd.readouterr().err
  assert message in err and err.count('\n') == 1


def test_held_out_tasks_of_knowledge():
  pytest.importorskip('num2words', reason='needs the extra `knowledge`')
  tasks = held_out.tasks(3, 16, 32)
  assert [task.name for task in tasks] == [
    task.name for task in held_out.tasks(4, 16, 32)[:3]
  ]
  for task in tasks:
    assert len(task.examples) == 16 and 0 < len(task.test) <= 32
    assert not {x for x, _ in task.examples} & {x for x, _ in task.test}
