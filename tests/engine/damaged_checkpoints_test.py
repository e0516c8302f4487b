"""Checkpoints with parts missing, and disks that are full during a save."""

import contextlib
import pathlib
import shutil

import disks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypertuning.engine import checkpoint_folders, checkpoints
from hypertuning.errors import UserError

POSITION = {'next_episode': np.int64(24)}


def _state(step, numbers=20_000):
  rng = np.random.default_rng(step)
  values = jnp.asarray(rng.standard_normal(numbers), jnp.float32)
  return {
    'target': {'hypermodel': {'kernel': values}},
    'state': {'step': jnp.asarray(step, jnp.int32)},
  }


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A run with two checkpoints."""
  folder = tmp_path_factory.mktemp('saved')
  checkpointer = checkpoints.Checkpointer(str(folder))
  for step in (2, 4):
    checkpointer.save(step, _state(step), POSITION)
  checkpointer.close()
  return folder


def _empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


def _data(folder):
  """The file with the values of the arrays."""
  files = (folder / 'state').glob('**/d/*')
  return max(files, key=lambda x: x.stat().st_size)


def _cut(path, size=None):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2 if size is None else size])


DAMAGES = {
  "no folder 'state'": _empty,
  "no folder 'dataset'": lambda x: shutil.rmtree(x / 'dataset'),
  'no file state/_METADATA': lambda x: (x / 'state/_METADATA').unlink(),
  'state/_METADATA is damaged': lambda x: _cut(x / 'state/_METADATA'),
  'no file state/manifest': lambda x: (x / 'state/manifest.ocdbt').unlink(),
  'no file dataset/manifest': lambda x: (x / 'dataset/manifest.ocdbt').unlink(),
  'state/.*/d/.* is empty': lambda x: _cut(_data(x), 0),
}


@pytest.mark.parametrize('what', DAMAGES)
def test_a_checkpoint_without_a_part_is_named(saved, tmp_path, what):
  """And is not taken for the end of the run."""
  run = shutil.copytree(saved, tmp_path / 'run')
  DAMAGES[what](run / 'checkpoint_4')
  message = (
    rf'checkpoint_4 is not a complete checkpoint \({what}.*is checkpoint_2:'
  )
  with pytest.raises(UserError, match=f'^MODEL_DIR = .*{message}'):
    checkpoint_folders.latest_step(str(run))
  for path in (run, run / 'checkpoint_4'):
    with pytest.raises(UserError, match=f'^CHECKPOINT_PATH = .*{message}'):
      checkpoint_folders.find(str(path))
  assert checkpoint_folders.find(str(run / 'checkpoint_2'))
  shutil.rmtree(run / 'checkpoint_4')
  assert checkpoint_folders.latest_step(str(run)) == 2


@pytest.mark.parametrize('cut', [_cut, pathlib.Path.unlink])
def test_arrays_that_were_cut_short_are_named(saved, tmp_path, cut, capfd):
  run = shutil.copytree(saved, tmp_path / 'run')
  cut(_data(run / 'checkpoint_4'))
  message = 'checkpoint_4 is not a complete .*complete one there is check.*_2'
  with pytest.raises(UserError, match=message) as error:
    checkpoints.restore_variables(str(run))
  assert '\n' not in str(error.value)
  checkpointer = checkpoints.Checkpointer(str(run))
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    _state(4),
  )
  with pytest.raises(UserError, match=message):
    checkpointer.restore(4, abstract)
  checkpointer.close()
  assert 'Traceback' not in capfd.readouterr().err


def test_without_a_whole_checkpoint_none_is_promised(tmp_path):
  (tmp_path / 'checkpoint_4').mkdir()
  with pytest.raises(UserError, match='no other checkpoint there is complete'):
    checkpoint_folders.find(str(tmp_path))


@pytest.mark.parametrize('name', ['run[1]', 'run[', 'a]/run'])
def test_folders_that_orbax_cannot_search_are_refused(tmp_path, name):
  path = str(tmp_path / name)
  for binding, call in {
    'MODEL_DIR': lambda: checkpoint_folders.latest_step(path),
    'CHECKPOINT_PATH': lambda: checkpoint_folders.find(path),
  }.items():
    with pytest.raises(UserError, match=rf'^{binding} = .*with \[ or \]'):
      call()
  assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_while_a_checkpoint_is_saved(tmp_path):
  """The last whole checkpoint stays, and the run goes on from it."""
  with disks.small_disk(tmp_path / 'disk', '600k') as disk:
    run = str(disk / 'run')
    checkpointer = checkpoints.Checkpointer(run)
    checkpointer.save(2, _state(2, 10**5), POSITION)
    checkpointer._manager.wait_until_finished()
    with pytest.raises(UserError, match='No space left.*from checkpoint_2'):
      checkpointer.save(4, _state(4, 10**5), POSITION)
      checkpointer.save(6, _state(6, 10**5), POSITION)
    with contextlib.suppress(UserError):
      checkpointer.close()
    assert checkpoint_folders.latest_step(run) == 2
    found = checkpoints.restore_variables(run)['hypermodel']['kernel']
    want = _state(2, 10**5)['target']['hypermodel']['kernel']
    np.testing.assert_array_equal(found, want)
