"""Checkpoints: rotation, resume, warm start, and what does not fit."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner

from hypertuning import trees
from hypertuning.engine import checkpoint_folders, checkpoints
from hypertuning.errors import UserError

POSITION = {'next_episode': np.int64(24)}


def _tree(seed: int = 0, width: int = 4) -> dict:
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)

  return {
    'encoder': {
      'norm': {'scale': draw(width)},
      'wi': {'kernel': draw(width, 3)},
    },
    'token_embedder': {'embedding': draw(5, width)},
  }


def _state(step: int = 1) -> dict:
  return {
    'target': {'hypermodel': _tree(step)},
    'flax_mutables': {
      'frozen': {
        'downstream': jax.tree.map(lambda x: x.astype('bfloat16'), _tree(99))
      }
    },
    'state': {
      'step': jnp.asarray(step, jnp.int32),
      # As optax's states look: tuples by number, some of them empty.
      'param_states': {'0': {}, '1': {'mu': {'hypermodel': _tree(7)}}},
    },
  }


def _save(folder, steps=(1,), keep=3):
  checkpointer = checkpoints.Checkpointer(str(folder), keep)
  for step in steps:
    checkpointer.save(step, _state(step), POSITION)
  checkpointer.close()
  return str(folder)


def _equal(a, b):
  a, b = trees.flatten_paths(a), trees.flatten_paths(b)
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name], name)


def test_state_and_position_come_back_as_they_were(tmp_path):
  _save(tmp_path, [5])
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  assert checkpointer.latest_step == 5
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    _state(5),
  )
  state, position = checkpointer.restore(5, abstract)
  checkpointer.close()
  _equal(state, _state(5))
  assert position.keys() == POSITION.keys()
  for name, value in POSITION.items():
    np.testing.assert_array_equal(position[name], value)


def test_factors_with_heads_apart_come_back_flat(tmp_path):
  """Learned LoRA of older runs: `[layers, rank, heads, head_dim]`."""
  name = 'phi_decoder_self_query_b'
  old = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
  state = {
    'target': {'hypermodel': {name: jnp.asarray(old)}},
    'state': {'step': jnp.asarray(1, jnp.int32)},
  }
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  checkpointer.save(1, state, POSITION)
  checkpointer.close()
  new = jax.tree.map(
    lambda x: jnp.zeros((2, 3, 20) if x.ndim == 4 else x.shape, x.dtype), state
  )
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), new
  )
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  restored, _ = checkpointer.restore(1, abstract)
  checkpointer.close()
  filled = checkpoints.fill(new['target'], str(tmp_path), 'CHECKPOINT_PATH')
  for tree in (restored['target'], filled):
    found = tree['hypermodel'][name]
    np.testing.assert_array_equal(found, old.reshape(2, 3, 20))


def test_only_the_newest_are_kept_and_have_t5x_names(tmp_path):
  _save(tmp_path, [1, 2, 10], keep=2)
  names = {path.name for path in tmp_path.iterdir()}
  assert names == {'checkpoint_2', 'checkpoint_10'}
  assert checkpoint_folders.latest_step(str(tmp_path)) == 10
  assert checkpoint_folders.find(str(tmp_path)).name == 'checkpoint_10'
  older = checkpoint_folders.find(str(tmp_path / 'checkpoint_2'))
  assert older.name == 'checkpoint_2'


def test_half_written_checkpoint_is_none(tmp_path):
  _save(tmp_path, [3])
  (tmp_path / 'checkpoint_9.orbax-checkpoint-tmp').mkdir()
  assert checkpoint_folders.latest_step(str(tmp_path)) == 3


def test_saving_a_step_again_changes_nothing(tmp_path):
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  checkpointer.save(1, _state(1), POSITION)
  checkpointer.save(1, _state(2), POSITION)
  checkpointer.close()
  saved = checkpoints.restore_variables(str(tmp_path))
  _equal({'hypermodel': saved['hypermodel']}, _state(1)['target'])


def test_variables_of_both_parts_are_joined(tmp_path):
  state = _state(1)
  saved = checkpoints.restore_variables(_save(tmp_path))
  _equal(saved, state['target'] | state['flax_mutables']['frozen'])


@pytest.mark.parametrize('name', ['missing', 'empty', 'checkpoint_7'])
def test_missing_checkpoint_is_named(tmp_path, name):
  (tmp_path / 'empty').mkdir()
  path = str(tmp_path / name)
  with pytest.raises(UserError, match='INITIAL_CHECKPOINT_PATH.*no checkpoint'):
    checkpoints.fill(_tree(), path, 'INITIAL_CHECKPOINT_PATH')
  assert checkpoint_folders.latest_step(path) is None
  assert (tmp_path / name).exists() == (name == 'empty')


def test_another_model_in_the_same_folder_is_refused(tmp_path):
  _save(tmp_path)
  other = _state()
  other['target']['hypermodel'] = _tree(width=6)
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), other
  )
  checkpointer = checkpoints.Checkpointer(str(tmp_path))
  with pytest.raises(UserError, match=r'is \(4,\) there, \(6,\) here.*MODEL_'):
    checkpointer.restore(1, abstract)
  checkpointer.close()


@pytest.fixture(scope='module')
def downstream(tmp_path_factory):
  """A checkpoint of a downstream model alone."""
  folder = tmp_path_factory.mktemp('down')
  checkpointer = checkpoints.Checkpointer(str(folder))
  state = {'target': {'downstream': _tree(3)}, 'state': {'step': jnp.int32(1)}}
  checkpointer.save(1, state, POSITION)
  checkpointer.close()
  return str(folder)


def _fill(target, path, fresh='hypermodel/head/.*'):
  return checkpoints.fill(
    target, path, 'INITIAL_CHECKPOINT_PATH', runner.WARM_START_RULES, fresh
  )


def test_both_towers_start_from_one_checkpoint_without_sharing(downstream):
  head = {'head': {'kernel': jnp.full((2, 2), 7.0)}}
  target = {'hypermodel': _tree(1) | head, 'downstream': _tree(2)}
  filled = _fill(target, downstream)
  _equal(filled['downstream'], jax.tree.map(np.asarray, _tree(3)))
  _equal(
    filled['hypermodel'],
    jax.tree.map(np.asarray, _tree(3)) | head,
  )
  # A step that donates one tower's buffers must not free the other's.
  leaves = [x for x in jax.tree.leaves(filled) if isinstance(x, np.ndarray)]
  for i, a in enumerate(leaves):
    assert not any(np.shares_memory(a, b) for b in leaves[i + 1 :])


def test_types_are_those_of_the_target(downstream):
  target = {'downstream': jax.tree.map(lambda x: x.astype('bfloat16'), _tree())}
  filled = _fill(target, downstream)
  assert {str(x.dtype) for x in jax.tree.leaves(filled)} == {'bfloat16'}


def test_missing_names_are_listed_unless_they_may_be_fresh(downstream):
  target = {'hypermodel': _tree() | {'queries': jnp.ones((3, 4))}}
  with pytest.raises(UserError, match=r'hypermodel/queries \(3, 4\) is not'):
    _fill(target, downstream)
  filled = _fill(target, downstream, fresh='hypermodel/queries')
  np.testing.assert_array_equal(filled['hypermodel']['queries'], 1)


def test_other_shapes_are_listed_with_both(downstream):
  """Also where the name may be fresh: a size is then wrong, not missing."""
  with pytest.raises(UserError, match=r'is \(6,\), but .* is \(4,\)'):
    _fill({'downstream': _tree(width=6)}, downstream, fresh='.*')


def test_first_rule_that_is_found_wins(downstream):
  target = {'other': {'scale': jnp.zeros(4)}}
  rules = (
    (r'other/scale', 'downstream/nowhere'),
    (r'other/(.*)', r'downstream/encoder/norm/\1'),
  )
  filled = checkpoints.fill(target, downstream, 'X', rules)
  expected = _tree(3)['encoder']['norm']['scale']
  np.testing.assert_array_equal(filled['other']['scale'], expected)


def test_relative_paths_are_understood(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  _save(pathlib.Path('run'))
  assert 'hypermodel' in checkpoints.restore_variables('run')
