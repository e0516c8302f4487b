"""t5x's own format, written here as its `checkpoints.py` lays it out.

tests/t5x/engine_test.py reads what t5x itself writes.
"""

import flax
import jax
import numpy as np
import pytest
import runner
import tensorstore as ts
import tiny
from etils import epath

from hypertuning import trees
from hypertuning.engine import checkpoints, t5x_format
from hypertuning.errors import UserError


def write(folder, params):
  """Matrices as zarr arrays, vectors in the msgpack file."""
  saved = {}
  for name, value in trees.flatten_paths(params).items():
    value = np.asarray(value)
    saved[name] = value
    if value.ndim > 1:
      path = f'target.{name.replace("/", ".")}'
      store = {'driver': 'file', 'path': str(folder / path)}
      ts.open(
        {'driver': 'zarr', 'kvstore': store},
        create=True,
        dtype=value.dtype,
        shape=value.shape,
      ).result().write(value).result()
      # What t5x wrote on a bucket names the bucket's driver.
      saved[name] = {
        'driver': 'zarr',
        'dtype': 'float32',
        'kvstore': {'driver': 'gfile', 'path': path},
        'metadata': {'shape': list(value.shape)},
      }
  contents = {
    'version': 3,
    'optimizer': {
      'target': trees.unflatten_paths(saved),
      'state': {'step': np.int32(7)},
    },
  }
  data = flax.serialization.msgpack_serialize(contents)
  (folder / 'checkpoint').write_bytes(data)
  return str(folder)


def equal(a, b):
  a, b = trees.flatten_paths(a), trees.flatten_paths(b)
  assert a.keys() == b.keys()
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], name)


CONFIG = tiny.config()


def test_a_public_t5_fills_both_towers(tmp_path):
  params = tiny.t5_params(CONFIG)
  path = write(tmp_path, params)
  equal(checkpoints.restore_variables(path), params)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params
  )
  encoder = {'encoder': shapes['encoder']}
  filled = checkpoints.fill(
    {'downstream': shapes, 'hypermodel': encoder},
    path,
    'X',
    runner.WARM_START_RULES,
    unused='',
  )
  equal(filled['downstream'], params)
  equal(filled['hypermodel']['encoder'], params['encoder'])


def test_layers_are_stacked_for_a_scanned_model_and_back(tmp_path):
  params = tiny.t5_params(CONFIG)
  stacked = tiny.stack_layers(params)
  for there, here in ((params, stacked), (stacked, params)):
    folder = tmp_path / str(len(trees.flatten_paths(there)))
    folder.mkdir()
    path = write(folder, there)
    filled = checkpoints.fill(
      {'downstream': here}, path, 'X', runner.WARM_START_RULES, unused=''
    )
    equal(filled['downstream'], here)
  assert len(list(tmp_path.iterdir())) == 2


def test_what_is_left_is_listed(tmp_path):
  params = tiny.t5_params(CONFIG)
  path = write(tmp_path, params)
  target = {'downstream': {'encoder': params['encoder']}}
  with pytest.raises(UserError, match=r'decoder/\S+ .* has no place here'):
    checkpoints.fill(target, path, 'X', runner.WARM_START_RULES, unused='')
  rest = '(decoder|token_embedder)/.*'
  checkpoints.fill(target, path, 'X', runner.WARM_START_RULES, unused=rest)


def test_damaged_files_are_named(tmp_path):
  path = write(tmp_path, tiny.t5_params(CONFIG))
  folder = epath.Path(path)
  assert t5x_format.is_checkpoint(folder)
  lost = next(folder.glob('target.*'))
  lost.rename(tmp_path / 'elsewhere')
  with pytest.raises(UserError, match=f'{lost.name}: no array of a checkpoint'):
    t5x_format.read(folder)
  (folder / 'checkpoint').write_bytes(b'\x01')
  with pytest.raises(UserError, match='checkpoint: not a checkpoint of t5x'):
    t5x_format.read(folder)
