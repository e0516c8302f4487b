"""Adapter files: exact round trips, and refusals of what does not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from hypertuning.adapters import io
from hypertuning.errors import UserError

CONFIG = tiny.config()
SITES = tiny.ATTENTIONS


def bits(tree):
  return [(x.dtype, x.shape, np.asarray(x).tobytes()) for x in tree]


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('make', [tiny.prefix, tiny.lora])
def test_file_round_trip(tmp_path, make, dtype):
  phi = jax.tree.map(lambda x: x.astype(dtype), make(CONFIG, 2))
  path = tmp_path / 'new' / 'phi.safetensors'
  io.save(phi, path, model='tiny', config={'shots': 4, 'rank': 2})
  # A type may differ from the expected one; nothing else may.
  expected = jax.eval_shape(lambda: make(CONFIG, 2))
  loaded = io.load(path, expected=expected)
  assert type(loaded) is type(phi)
  assert jax.tree.structure(loaded) == jax.tree.structure(phi)  # scale too
  assert bits(jax.tree.leaves(loaded)) == bits(jax.tree.leaves(phi))
  header = io.read_header(path)
  assert header.model == 'tiny' and header.config == {'shots': 4, 'rank': 2}
  if make is tiny.lora:
    assert header.kind == 'lora' and header.scale == 0.5
    assert header.shapes['decoder_cross/value/b'] == (2, 2, 2, 24)
  else:
    assert header.kind == 'prefix'
    assert header.shapes['encoder_self/key'] == (2, 3, 2, 3, 8)
  assert [x.name for x in path.parent.iterdir()] == ['phi.safetensors']


def test_strided_and_empty_arrays_round_trip(tmp_path):
  phi = jax.tree.map(
    lambda x: np.asarray(x).swapaxes(0, 1), tiny.prefix(CONFIG, 2)
  )
  io.save(phi, tmp_path / 'a', model='tiny', config={})
  jax.tree.map(np.testing.assert_array_equal, io.load(tmp_path / 'a'), phi)
  empty = tiny.prefix(CONFIG, 2, length=0)
  io.save(empty, tmp_path / 'b', model='tiny', config={})
  assert io.load(tmp_path / 'b').sites[SITES[0]].key.shape == (
    2,
    0,
    2,
    3,
    8,
  )


def refusal(path, expected=None) -> str:
  with pytest.raises(UserError) as error:
    io.load(path, expected=expected)
  message = str(error.value)
  assert str(path) in message and '\n' not in message
  return message


def test_mismatch_is_refused_with_both_shapes(tmp_path):
  path = tmp_path / 'phi.safetensors'
  io.save(tiny.prefix(CONFIG, 2), path, model='small one', config={})
  message = refusal(path, tiny.prefix(CONFIG, 2, length=5))
  for part in (
    'decoder_cross/key',
    '(2, 3, 2, 3, 8)',
    '(2, 5, 2, 3, 8)',
    'small one',
  ):
    assert part in message
  message = refusal(path, tiny.prefix(CONFIG, 2, where=SITES[:2]))
  assert 'decoder_cross/key' in message and 'not used' in message
  assert 'prefix' in refusal(path, tiny.lora(CONFIG, 2))

  io.save(tiny.lora(CONFIG, 2, where=SITES[:1]), path, model='x', config={})
  assert 'missing' in refusal(path, tiny.lora(CONFIG, 2))
  message = refusal(path, tiny.lora(CONFIG, 2, where=SITES[:1], scale=2.0))
  assert '0.5' in message and '2.0' in message
  message = refusal(path, tiny.lora(CONFIG, 2, rank=4, where=SITES[:1]))
  assert '(2, 2, 20, 2)' in message and '(2, 2, 20, 4)' in message


def test_damaged_and_foreign_files_are_refused(tmp_path):
  path = tmp_path / 'phi.safetensors'
  io.save(tiny.prefix(CONFIG, 2), path, model='tiny', config={})
  whole = path.read_bytes()
  for damaged in (
    whole[:-5],
    whole[:40],
    b'',
    b'not adapters at all',
    whole * 2,
  ):
    path.write_bytes(damaged)
    assert 'safetensors' in refusal(path)
  assert 'no such file' in refusal(tmp_path / 'nowhere')
  refusal(tmp_path)  # a folder

  tensor = {'encoder_self/key': np.zeros(3, np.float32)}
  save_file(tensor, path)
  assert 'format' in refusal(path)
  header = {
    'format': 'hypertuning.adapters.v2',
    'kind': 'prefix',
    'model': 'm',
    'scale': '1.0',
    'config': json.dumps({}),
  }
  save_file(tensor, path, header)  # a key without its value
  assert 'encoder_self/key' in refusal(path)
  for broken in ({'scale': 'one'}, {'config': '{'}, {'kind': 'prompt'}):
    save_file(tensor, path, {**header, **broken})
    refusal(path)
  del header['model']
  save_file(tensor, path, header)
  assert 'model' in refusal(path)


def test_failed_save_leaves_the_old_file_and_nothing_else(
  tmp_path, monkeypatch
):
  path = tmp_path / 'phi.safetensors'
  io.save(tiny.prefix(CONFIG, 2), path, model='tiny', config={})
  before = path.read_bytes()

  def full_disk(tensors, target, metadata):
    target.write_bytes(b'half')
    raise OSError('No space left on device')

  monkeypatch.setattr(io, 'save_file', full_disk)
  with pytest.raises(UserError, match='No space left'):
    io.save(tiny.prefix(CONFIG, 2, seed=9), path, model='tiny', config={})
  assert path.read_bytes() == before
  assert list(tmp_path.iterdir()) == [path]
