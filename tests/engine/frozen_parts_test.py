"""SAVE_FROZEN = False: checkpoints whose frozen part is another checkpoint."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import runner
import tiny_llama

from hypertuning import trees
from hypertuning.engine import (
  checkpoint_folders,
  checkpoints,
  frozen_parts,
  warm_start,
)
from hypertuning.engine.frozen_parts import FrozenPart
from hypertuning.errors import UserError
from hypertuning.networks import t5


def _equal(a, b):
  a, b = trees.flatten_paths(a), trees.flatten_paths(b)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], name, strict=True)


def _saved_arrays(folder) -> dict:
  """The shape and dtype of every array that a checkpoint holds, by name.

  Sizes of files say nothing: for states of one shape, Orbax wrote 427 to 655
  kB, by how its threads happened to merge what they write.
  """
  reader = ocp.PyTreeCheckpointer()
  tree = reader.metadata(folder / 'state').item_metadata.tree
  return {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for name, leaf in trees.flatten_paths(tree).items()
    if hasattr(leaf, 'shape')
  }


def _bytes(arrays) -> int:
  return sum(x.size * np.dtype(x.dtype).itemsize for x in arrays.values())


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """A downstream model, and runs from it with and without frozen weights."""
  root = tmp_path_factory.mktemp('frozen')
  runner.train(root / 'base', runner.model(hyper=False), total_steps=1)
  start = {'initial_checkpoint_path': str(root / 'base')}
  model = runner.model(frozen_dtype='bfloat16')
  runner.train(root / 'full', model, total_steps=4, **start)
  bare = {**start, 'save_frozen': False}
  runner.train(root / 'bare', model, total_steps=2, **bare)
  runner.train(root / 'bare', model, total_steps=4, **bare)
  return root


def test_a_stopped_run_is_the_same_and_smaller(runs):
  assert runner.losses(runs / 'bare') == runner.losses(runs / 'full')
  for step in (2, 4):
    full, bare = (runs / x / f'checkpoint_{step}' for x in ('full', 'bare'))
    values = checkpoints.restore_variables(str(full))
    _equal(checkpoints.restore_variables(str(bare)), values)
    frozen = sum(x.nbytes for x in jax.tree.leaves(values['downstream']))
    arrays, bare_arrays = map(_saved_arrays, (full, bare))
    assert _bytes(arrays) - _bytes(bare_arrays) == frozen
    prefix = 'flax_mutables/frozen/'
    assert any(name.startswith(prefix) for name in arrays)
    assert not any(name.startswith(prefix) for name in bare_arrays)
  record = json.loads((bare / 'frozen/metadata').read_text('utf-8'))
  assert record['initial']['path'] == str(runs / 'base/checkpoint_1')
  assert record['initial']['relative'] == '../base/checkpoint_1'


def test_an_evaluation_is_the_same_bit_for_bit(runs):
  rows = [
    runner.evaluate(
      model=runner.model(),
      checkpoint_path=str(runs / name),
      output_dir=str(runs / f'eval_{name}'),
      num_batches=1,
    )
    for name in ('full', 'bare')
  ]
  assert rows[0] == rows[1]


def test_the_next_run_names_the_checkpoint_that_holds_the_part(runs):
  """So that the run in between may be deleted."""
  shutil.copytree(runs / 'bare', runs / 'between')
  model = runner.model(frozen_dtype='bfloat16')
  start = {'initial_checkpoint_path': str(runs / 'between')}
  for name, save_frozen in (('next_full', True), ('next', False)):
    arguments = {**start, 'save_frozen': save_frozen}
    runner.train(runs / name, model, total_steps=2, **arguments)
  shutil.rmtree(runs / 'between')
  _equal(
    checkpoints.restore_variables(str(runs / 'next')),
    checkpoints.restore_variables(str(runs / 'next_full')),
  )


@pytest.fixture
def copy(runs, tmp_path):
  """A copy of the base and of the run, without the originals."""
  for name in ('base', 'bare'):
    shutil.copytree(runs / name, tmp_path / 'new' / name)
  path = tmp_path / 'new/bare/checkpoint_4/frozen/metadata'
  record = json.loads(path.read_text('utf-8'))
  record['initial']['path'] = '/nowhere/base/checkpoint_1'
  path.write_text(json.dumps(record), encoding='utf-8')
  settings = tmp_path / 'new/bare/settings.json'
  values = json.loads(settings.read_text('utf-8'))
  values['INITIAL_CHECKPOINT_PATH'] = '/nowhere/base'
  settings.write_text(json.dumps(values), encoding='utf-8')
  return tmp_path / 'new'


def test_runs_that_move_together_find_each_other(runs, copy, tmp_path):
  values = checkpoints.restore_variables(str(runs / 'full'))
  _equal(checkpoints.restore_variables(str(copy / 'bare')), values)
  os.rename(copy / 'base', tmp_path / 'other')
  with pytest.raises(UserError) as error:
    checkpoints.restore_variables(str(copy / 'bare'))
  text = str(error.value)
  assert "MOVED_CHECKPOINTS = {'/nowhere/base/checkpoint_1': FOLDER}" in text
  assert '\n' not in text
  moved = {'/nowhere/base/checkpoint_1': str(tmp_path / 'other')}
  found = checkpoints.restore_variables(str(copy / 'bare'), 'X', moved)
  _equal(found, values)
  # At a restart, the new place of INITIAL_CHECKPOINT_PATH will do, and is the
  # one that the next checkpoints name.
  runner.train(
    copy / 'bare',
    runner.model(frozen_dtype='bfloat16'),
    total_steps=5,
    initial_checkpoint_path=str(tmp_path / 'other'),
    save_frozen=False,
  )
  part = FrozenPart.read(checkpoint_folders.find(str(copy / 'bare')))
  assert part.initial.path == str(tmp_path / 'other/checkpoint_1')


def test_other_values_are_refused_before_anything_is_written(copy):
  """Also if they differ in one bit."""
  shutil.rmtree(copy / 'base')
  changed = runner.model(hyper=False)
  runner.train(copy / 'base', changed, total_steps=1, random_seed=1)
  before = sorted(copy.rglob('*'))
  with pytest.raises(UserError, match='base.* other values.*MOVED_CHECK'):
    checkpoints.restore_variables(str(copy / 'bare'))
  with pytest.raises(UserError, match='has other values'):
    runner.train(
      copy / 'bare',
      runner.model(frozen_dtype='bfloat16'),
      initial_checkpoint_path=str(copy / 'base'),
      save_frozen=False,
    )
  assert sorted(copy.rglob('*')) == before
  value = np.arange(6, dtype=np.float32)
  one_bit = value.copy()
  one_bit.view(np.uint8)[3] ^= 1
  digests = [frozen_parts.describe({'x': x})['x'] for x in (value, one_bit)]
  assert digests[0] != digests[1]


@pytest.mark.parametrize('save_frozen', [True, False])
def test_a_restart_may_change_it(runs, tmp_path, save_frozen):
  name = 'bare' if save_frozen else 'full'
  shutil.copytree(runs / name, tmp_path / name)
  runner.train(
    tmp_path / name,
    runner.model(frozen_dtype='bfloat16'),
    total_steps=5,
    initial_checkpoint_path=str(runs / 'base'),
    save_frozen=save_frozen,
  )
  folder = tmp_path / name / 'checkpoint_5'
  assert (FrozenPart.read(folder) is None) == save_frozen
  _equal(
    checkpoints.restore_variables(str(folder))['downstream'],
    checkpoints.restore_variables(str(runs / 'full'))['downstream'],
  )


def test_a_frozen_part_at_random_is_refused(runs, tmp_path):
  with pytest.raises(UserError, match='SAVE_FROZEN = False.*INITIAL_CHECK'):
    runner.train(tmp_path / 'run', save_frozen=False)
  # Of HyperT5's own tower, only the head trains: the queries start at random.
  model = runner.model(trainable_regex='hypermodel/head/.*')
  with pytest.raises(UserError, match='queries is frozen and starts at random'):
    runner.train(
      tmp_path / 'run',
      model,
      initial_checkpoint_path=str(runs / 'base'),
      save_frozen=False,
    )
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_teacher_is_another_checkpoint(runs, tmp_path):
  """Both are named, and both are read."""
  down = runner.model(hyper=False)
  runner.train(tmp_path / 'teacher', down, total_steps=1, random_seed=3)
  arguments = {
    'total_steps': 1,
    'initial_checkpoint_path': str(runs / 'base'),
    'teacher_checkpoint_path': str(tmp_path / 'teacher'),
    'mixture_or_task_name': 'toy_symbols_taught',
    'task_feature_lengths': {**runner.LENGTHS, 'teacher_inputs': (2, 56)},
  }
  teacher = t5.T5(runner.model().module.downstream.config)
  model = runner.model(teacher=teacher, distillation_weight=0.5)
  for name, save_frozen in (('full', True), ('bare', False)):
    all_arguments = {**arguments, 'save_frozen': save_frozen}
    runner.train(tmp_path / name, model, **all_arguments)
  values = checkpoints.restore_variables(str(tmp_path / 'bare'))
  _equal(values, checkpoints.restore_variables(str(tmp_path / 'full')))
  shutil.rmtree(tmp_path / 'teacher')
  with pytest.raises(UserError, match='teacher/checkpoint_1, where there'):
    checkpoints.restore_variables(str(tmp_path / 'bare'))


def test_llama_from_layers_that_are_not_scanned(tmp_path):
  cfg = tiny_llama.config()
  position = {'next_episode': np.int64(0)}

  def save(name, target, frozen=None, part=None):
    checkpointer = checkpoints.Checkpointer(str(tmp_path / name))
    checkpointer.frozen_part = part
    mutables = {'frozen': frozen or {}}
    state = {'target': target, 'flax_mutables': mutables, 'state': {'step': 1}}
    checkpointer.save(1, jax.tree.map(jnp.asarray, state), position)
    checkpointer.close()

  save('base', {'downstream': tiny_llama.params(cfg)})
  start = warm_start.WarmStart(str(tmp_path / 'base'))
  stacked = tiny_llama.params(cfg.replace(scan_layers=True))
  frozen = {'downstream': jax.tree.map(lambda x: x.astype('bfloat16'), stacked)}
  part = start.frozen_part(frozen, str(tmp_path / 'run'))
  target = {'hypermodel': {'gists': jnp.ones((2, 20))}}
  save('run', target, frozen, part)
  values = checkpoints.restore_variables(str(tmp_path / 'run'))
  _equal(values, jax.tree.map(np.asarray, target | frozen))
