"""Restarts: docs/restarts.md says what may change, and what may not."""

import json
import re
import shutil

import jax
import pytest
import runner

from hypertuning import gin_utils, train
from hypertuning.data import registry, row_digest
from hypertuning.engine import (
  checkpoint_folders,
  checkpoints,
  partitioning,
  restarts,
)
from hypertuning.errors import UserError

PAGE = (runner.ROOT / 'docs/restarts.md').read_text('utf-8')
GOLDEN = runner.ROOT / 'tests/golden'
ONE_DEVICE = partitioning.Partitioner(devices=tuple(jax.devices()[:1]))
# Another value for each setting of the table.
OTHER = {
  'TRAIN_STEPS': 99,
  'EVAL_PERIOD': 7,
  'EVAL_STEPS': 3,
  'EVAL_MIXTURE_OR_TASK_NAME': 'toy_strings',
  'EVAL_SPLIT': 'train',
  'CHECKPOINT_PERIOD': 9,
  'train.train.keep_checkpoints': 9,
  'SAVE_FROZEN': False,
  'MOVED_CHECKPOINTS': {'/old': '/new'},
  'train.train.log_period': 9,
  'BATCH_SIZE': 16,
  'NUM_MICROBATCHES': 2,
  'NUM_PARTITIONS': 2,
  'PARAMETER_PARTITIONING_DIMS': 2,
  'REMAT_POLICY': 'full',
  'ATTENTION': 'plain',
  'MATMUL_PRECISION': 'bfloat16',
  'LEARNING_RATE': 0.5,
  'WARMUP_STEPS': 2,
  'WEIGHT_DECAY': 0.5,
  'RANDOM_SEED': 1,
  'MIXTURE_OR_TASK_NAME': 'toy_strings',
  'USE_CACHED_TASKS': True,
  'TASK_FEATURE_LENGTHS': {**runner.LENGTHS, 'hyper_inputs': 40},
  'INITIAL_CHECKPOINT_PATH': str(GOLDEN / 'checkpoint'),
  'TEACHER_CHECKPOINT_PATH': str(GOLDEN / 'checkpoint'),
  'EMB_DIM': 32,
  'DROPOUT_RATE': 0.5,
  'ACTIVATION_DTYPE': 'bfloat16',
  'PREFIX_LENGTH': 3,
  'TRAINABLE_REGEX': '.*',
  'FROZEN_DTYPE': 'bfloat16',
  'DISTILLATION_WEIGHT': 0.5,
}
# Rows of the table whose tests are elsewhere in this file, or in train_test.
ELSEWHERE = {
  'RECORDING',  # tests/commands/record_test.py
  'OPTIMIZER',
  'the rows of the data',
  'the number of examples and queries, rates, prompts of a task',
}


def _table() -> dict[str, bool]:
  """Whether each setting of the page may change."""
  verdicts = {}
  for line in re.findall(r'^\| (.*) \|$', PAGE, flags=re.MULTILINE)[2:]:
    names, verdict, _ = line.split(' | ')
    assert verdict in ('may change', 'may not')
    for name in re.findall(r'`([\w.]+)`', names) or [names]:
      verdicts[name] = verdict == 'may change'
  return verdicts


def _settings(tmp_path, **changed) -> dict[str, str]:
  bindings = {**runner.TRAIN, 'MODEL_DIR': str(tmp_path), **changed}
  bindings.pop('DISTILLATION_WEIGHT', None)
  gin_utils.parse(
    runner.TRAIN_FILES, [f'{k} = {v!r}' for k, v in bindings.items()]
  )
  values = gin_utils.arguments(train.train)
  if 'DISTILLATION_WEIGHT' in changed:  # whose macro is in another gin file
    values['model']._distillation_weight = changed['DISTILLATION_WEIGHT']
  values['data'].check(values['model'])
  return restarts.settings(
    values['model'],
    values['data'],
    values['warm_start'],
    values['random_seed'],
  )


def test_the_table_of_the_page(tmp_path, monkeypatch):
  table = _table()
  assert set(table) == set(OTHER) | ELSEWHERE
  # There is no cache, which USE_CACHED_TASKS would read.
  monkeypatch.setattr(
    row_digest, 'describe', lambda *arguments: {'rows of all': 'same'}
  )
  restarts.record(str(tmp_path), _settings(tmp_path))
  for name, value in OTHER.items():
    values = _settings(tmp_path, **{name: value})
    if table[name]:
      restarts.check(str(tmp_path), values)
      continue
    with pytest.raises(UserError, match='cannot go on like this') as error:
      restarts.check(str(tmp_path), values)
    message = str(error.value)
    assert '\n' not in message and 'MODEL_DIR' in message
    last = name.split('_')[-1].lower()  # of the model: its field
    assert name in message or f'{last} = ' in message or 'rate = ' in message


def _add(rows, shots=3) -> str:
  splits = {s: lambda: {'letters': rows} for s in ('train', 'validation')}
  return registry.add_episodes('restarted', splits, shots=shots, queries=2)


def _digests(name) -> dict[str, str]:
  return row_digest.describe(name, runner.LENGTHS, 'train', 0, False)


def test_rows_and_what_is_drawn_from_them():
  rows = [(str(n), 'O') for n in range(9)]
  first = _digests(_add(rows))
  assert set(first) == {'rows of restarted', 'settings of restarted'}
  assert _digests(_add(list(rows))) == first
  for other in (
    [*rows[:-1], ('8', 'N')],
    rows[::-1],
    rows[:-1],
    [*rows[:-1], ('', '8O')],
  ):
    values = _digests(_add(other))
    assert values['rows of restarted'] != first['rows of restarted']
    assert values['settings of restarted'] == first['settings of restarted']
  values = _digests(_add(rows, shots=4))
  assert values['settings of restarted'] != first['settings of restarted']
  assert values['rows of restarted'] == first['rows of restarted']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of 7 steps: the golden checkpoint, and one step more."""
  folder = tmp_path_factory.mktemp('restarts') / 'run'
  shutil.copytree(GOLDEN / 'checkpoint', folder)
  _start(folder, TRAIN_STEPS=7)
  return folder


def _start(folder, **changed):
  record = json.loads((GOLDEN / 'checkpoint_losses.json').read_text())
  bindings = [
    binding.removeprefix('--gin.')
    for binding in record['bindings']
    if 'MODEL_DIR' not in binding
  ]
  changed = {'MODEL_DIR': str(folder), **changed}
  gin_utils.parse(
    [
      file.replace('gin/models/sizes/tiny.gin', 'gin/experiments/toy.gin')
      for file in record['gin_files']
    ],
    [*bindings, *(f'{k} = {v!r}' for k, v in changed.items())],
  )
  gin_utils.call(train.train, partitioner=ONE_DEVICE)


def _files(folder) -> dict[str, bytes]:
  return {
    path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
  }


def test_a_refused_restart_writes_nothing(run):
  contents = _files(run)
  assert b'TRAIN_STEPS = 7' in contents['config.gin']
  # The run of an earlier version had no record; its configuration is kept.
  config = (GOLDEN / 'checkpoint/config.gin').read_bytes()
  assert contents['config_until_6.gin'] == config
  for changed, message in (
    ({'RANDOM_SEED': 1}, 'RANDOM_SEED = 1: .* was started with 0'),
    ({'MIXTURE_OR_TASK_NAME': 'toy_symbols'}, '= toy_symbols: .* with toy '),
    # A finished run with other settings is not called finished either.
    ({'RANDOM_SEED': 1, 'TRAIN_STEPS': 7}, 'RANDOM_SEED = 1: '),
  ):
    with pytest.raises(UserError, match=message):
      _start(run, **{'TRAIN_STEPS': 8, **changed})
    assert _files(run) == contents
  (run / 'settings.json').write_text('{"RANDOM_SEED"')
  with pytest.raises(UserError, match='settings.json: is damaged'):
    _start(run, TRAIN_STEPS=8)
  (run / 'settings.json').write_bytes(contents['settings.json'])


def test_a_moved_checkpoint_is_no_other_one(run, tmp_path):
  values = {'INITIAL_CHECKPOINT_PATH': str(run)}
  old_values = {'INITIAL_CHECKPOINT_PATH': str(tmp_path / 'gone')}
  restarts.record(str(tmp_path), old_values)
  restarts.check(str(tmp_path), values)
  restarts.record(str(tmp_path), values)
  for other in (str(GOLDEN / 'checkpoint'), 'None'):
    with pytest.raises(UserError, match='INITIAL_CHECKPOINT_PATH'):
      restarts.check(str(tmp_path), {'INITIAL_CHECKPOINT_PATH': other})


def test_a_checkpoint_that_goes_while_it_is_read(run, tmp_path, monkeypatch):
  """The training deletes it: its newest one is read, or a line says so."""
  folder = tmp_path / 'run'
  shutil.copytree(run, folder)
  (oldest, newest) = sorted(folder.glob('checkpoint_*'))
  expected = checkpoints.restore_variables(str(newest))
  real = checkpoint_folders.find
  returned = []

  def find(*arguments):
    returned.append(oldest if not returned else real(*arguments))
    if len(returned) == 1:
      shutil.rmtree(oldest)
    return returned[-1]

  monkeypatch.setattr(checkpoint_folders, 'find', find)
  restored = checkpoints.restore_variables(str(folder))
  assert jax.tree.structure(restored) == jax.tree.structure(expected)
  returned.clear()
  shutil.copytree(newest, oldest)
  with pytest.raises(UserError, match='no checkpoint there'):
    checkpoints.restore_variables(str(oldest))
