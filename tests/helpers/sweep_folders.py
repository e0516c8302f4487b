"""Writes the folder of a sweep, with numbers that tests make up."""

import itertools
import json
import pathlib

import numpy as np

SEEDS = ('0', '1', '2')
_MODES = {
  'generated': 60.0,
  'other': 8.0,
  'none': 6.0,
  'random': 5.0,
  'averaged': 20.0,
}
# Phi mode to accuracy, and how the evaluation's tasks end.
_METHODS = {
  **{
    method: ({**_MODES, 'generated': 60.0 + 4 * index}, '')
    for index, method in enumerate(
      (
        'prefix',
        'lora',
        'prefix_scratch',
        'lora_scratch',
        'prefix_joint',
        'prefix_distilled',
      )
    )
  },
  'shared_prefix': ({'generated': 25.0}, ''),
  'shared_lora': ({'generated': 25.0}, ''),
  'mtf': ({'none': 30.0}, ''),
  'mtf_in_context': ({'none': 95.0}, '_in_context'),
}
_LLAMA_METHODS = {
  'prefix': (_MODES, ''),
  'lora': ({**_MODES, 'generated': 64.0}, ''),
  **{name: _METHODS[name] for name in ('shared_prefix', 'mtf')},
  'mtf_in_context': _METHODS['mtf_in_context'],
}
_STARTS = {'random': 400, 'shared': 250, 'phi': 60, 'averaged': 200}


class Folder:
  """A sweep that is written cell by cell."""

  def __init__(self, root, axes=None):
    self.root = pathlib.Path(root)
    self.root.mkdir(parents=True, exist_ok=True)
    self._axes = {'seed': list(SEEDS)} if axes is None else axes
    self._stages = {}
    self._save()

  def stage(self, name, command='hypertuning.eval', axes=('seed',), points=()):
    """Plans a stage; without points, at all of its axes."""
    self._stages[name] = {
      'command': command,
      'gin_files': [f'gin/{name}.gin'],
      'axes': list(axes),
    }
    if points:
      self._stages[name]['points'] = [list(point) for point in points]
    self._save()

  def cell(self, stage, *names, seconds=1.5, **tables):
    """A finished cell, with files of rows; `failed` is a reason."""
    plan = self._stages[stage]
    folder = self.root / 'cells' / stage / ('__'.join(names) or 'all')
    folder.mkdir(parents=True, exist_ok=True)
    point = dict(zip(plan['axes'], names, strict=True))
    command = {k: plan[k] for k in ('command', 'gin_files')}
    command |= {'bindings': {'RANDOM_SEED': '0'}, 'point': point}
    (folder / 'command.json').write_text(json.dumps(command))
    failed = tables.pop('failed', None)
    for table, rows in tables.items():
      text = ''.join(json.dumps(row) + '\n' for row in rows)
      (folder / f'{table}.jsonl').write_text(text)
    if failed is not None:
      (folder / 'failed').write_text(json.dumps({'reason': failed}))
    elif seconds is not None:
      (folder / 'done').write_text(json.dumps({'seconds': seconds}))
    return folder

  def evaluation(self, stage, values, phi='generated', task='t'):
    """A stage of evaluations: seed to accuracy."""
    self.stage(stage)
    for seed, accuracy in values.items():
      self.cell(stage, seed, results=[result(phi, accuracy, task)])

  def _save(self):
    plan = {'axes': self._axes, 'stages': self._stages}
    (self.root / 'sweep.json').write_text(json.dumps(plan))


def result(phi, accuracy, task='t', **more):
  return {'task': task, 'phi': phi, 'accuracy': accuracy, **more}


def claims(root):
  """The whole claims sweep, all cells done."""
  axes = {'shots': ['1', '6'], 'seed': list(SEEDS)}
  axes |= {'method': [*_METHODS], 'start': list(_STARTS)}
  axes |= {'llama_method': [*_LLAMA_METHODS]}
  folder = Folder(root, axes)
  random = np.random.default_rng(0)

  def results(modes, suffix='', name='toy'):
    rows = []
    for phi, accuracy in modes.items():
      values = np.clip(accuracy + random.normal(0, 3, 2), 0, 100).tolist()
      names = (f'{name}_symbols{suffix}', f'{name}_strings{suffix}')
      for task, value in zip(
        (*names, 'average'), (*values, float(np.mean(values))), strict=True
      ):
        more = {'loss': 3 - value / 40, 'accuracy_stderr': 0.5}
        rows.append(result(phi, value, task, **more))
    return rows

  for stage, axis, methods, name in (
    ('eval', 'method', _METHODS, 'toy'),
    ('llama_eval', 'llama_method', _LLAMA_METHODS, 'toy_decoder'),
  ):
    folder.stage(stage, axes=(axis, 'seed'))
    for method, (modes, suffix) in methods.items():
      for seed in SEEDS:
        rows = results(modes, suffix, name)
        folder.cell(stage, method, seed, results=rows)
    in_context = results({'none': 80.0}, '_in_context', name)
    stage = stage.replace('eval', 'frozen_in_context_eval')
    folder.stage(stage, axes=())
    folder.cell(stage, results=in_context)
  folder.stage('eval_shots', axes=('shots', 'seed'))
  for shots in ('1', '6'):
    for seed in SEEDS:
      modes = {'generated': 20.0 + 5 * int(shots), 'other': 8.0}
      folder.cell('eval_shots', shots, seed, results=results(modes))
  hyper = ('prefix', 'lora')
  for stage, command, more in (
    ('hyperpretrain', 'hypertuning.train', {'seed': SEEDS}),
    ('adapt', 'hypertuning.adapt', {'start': _STARTS, 'seed': SEEDS}),
    ('cost', 'hypertuning.benchmarks.query_cost', {}),
  ):
    points = list(itertools.product(hyper, *more.values()))
    folder.stage(stage, command, ('method', *more), points)
  for method, worth in {'prefix': 0.05, 'lora': 0.1}.items():
    for seed in SEEDS:
      losses = _losses(random, worth)
      folder.cell('hyperpretrain', method, seed, metrics=losses)
      for start, steps in _STARTS.items():
        folder.cell('adapt', method, start, seed, **_tuning(random, steps))
    folder.cell('cost', method, results=costs())
  starts = ('random', 'shared', 'phi')
  points = list(itertools.product(('prefix',), starts, SEEDS))
  axes = ('llama_method', 'start', 'seed')
  folder.stage('llama_adapt', 'hypertuning.adapt', axes, points)
  for point in points:
    tuning = _tuning(random, _STARTS[point[1]])
    folder.cell('llama_adapt', *point, **tuning)
  return folder


def costs():
  """Rows of `hypertuning.benchmarks.query_cost`."""

  def row(way, flops, seconds, phi):
    return {
      'way': way,
      'flops': flops,
      'seconds': seconds,
      'seconds_low': seconds / 2,
      'seconds_high': seconds * 2,
      'phi_bytes': 4 * phi,
      'phi_bytes_bfloat16': 2 * phi,
    }

  return [
    row('making phi', 12_000_000, 0.006, 2560),
    row('query with phi', 1_000_000, 0.001, 2560),
    row('query in context', 5_000_000, 0.004, 0),
    {'way': 'break even', 'queries_by_flops': 3.0, 'queries_by_seconds': 2.0},
  ]


def _losses(random, worth):
  rows = []
  for step in range(50, 301, 50):
    own = 3 - 0.001 * step + random.normal(0, 0.01)
    rows.append({'step': step, 'train/loss': own})
    losses = {
      'generated': own,
      'other': own + worth * step / 300,
      'none': own + 2 * worth * step / 300,
    }
    rows.append(
      {'step': step, **{f'eval/loss/{k}': v for k, v in losses.items()}}
    )
  return rows


def _tuning(random, steps):
  curves = []
  for task in ('a', 'b'):
    scale = steps * random.uniform(0.8, 1.2)
    for step in range(0, 501, 50):
      left = float(np.exp(-step / scale))
      row = {'task': task, 'step': step, 'seconds': step / 100}
      curves.append({**row, 'loss': 2 * left, 'accuracy': 100 * (1 - left)})
  needed = steps * random.uniform(0.8, 1.2)
  more = {
    'target': 90.0,
    'reached': 0.75,
    'steps_to_target': needed,
    'seconds_to_target': needed / 100,
  }
  results = []
  for name in ('toy_few_strings', 'toy_few_symbols', 'average'):
    numbers = {'loss': 2.0, 'accuracy_stderr': 1.0}
    results.append(result('start', 10.0, name, **numbers))
    results.append(result('tuned', 95.0, name, **numbers, **more))
  return {'curves': curves, 'results': results}
