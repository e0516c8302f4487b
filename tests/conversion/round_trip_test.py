"""What came from Hugging Face goes back bit for bit."""

import json

import bpe
import converted
import jax.numpy as jnp
import numpy as np
import public_models
import pytest
import safetensors.numpy

from hypertuning import trees
from hypertuning.engine import checkpoints

torch = pytest.importorskip('torch')


def _check(source, back):
  wanted = safetensors.numpy.load_file(source / 'model.safetensors')
  found = safetensors.numpy.load_file(back / 'model.safetensors')
  assert wanted.keys() == found.keys()
  for name, value in wanted.items():
    assert found[name].dtype == value.dtype, name
    np.testing.assert_array_equal(found[name], value, name)
  configs = [
    json.loads((x / 'config.json').read_text()) for x in (source, back)
  ]
  assert configs[0] == configs[1]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('family', ['llama', 't5'])
def test_back_to_hugging_face(tmp_path, capfd, family, dtype):
  model = getattr(public_models, family)(tie_word_embeddings=False)
  source = public_models.save(
    model.to(getattr(torch, dtype)), tmp_path / 'source'
  )
  assert converted.main(capfd, source, tmp_path / 'out')[0] == 0
  code, err = converted.main(
    capfd, tmp_path / 'out', tmp_path / 'back', '--to_hugging_face'
  )
  assert code == 0, err
  _check(source, tmp_path / 'back')
  name = {'t5': 'spiece.model', 'llama': 'tokenizer.json'}[family]
  assert (tmp_path / 'back' / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize(
  'special, rows',
  [
    (('!',), bpe.SIZE + 8),  # the last row is for a reserved token
    (('<|endoftext|>', '<|im_start|>'), bpe.SIZE),  # no id is unused
  ],
)
def test_id_zero_changes_places_and_back(tmp_path, capfd, special, rows):
  """Id 0 is a token that ends texts, or an ordinary one, but padding here."""
  model = public_models.llama(
    vocab_size=rows, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False
  )
  source = public_models.save(model, tmp_path / 'source')
  if special == ('!',):
    bpe.write(source / 'tokenizer.json', (), bpe.RESERVED)
    config = json.loads((source / 'config.json').read_text())
    config |= {'bos_token_id': bpe.SIZE, 'eos_token_id': bpe.SIZE + 1}
    (source / 'config.json').write_text(json.dumps(config))
  code, err = converted.main(capfd, source, tmp_path / 'out')
  assert code == 0, err
  params = trees.flatten_paths(
    checkpoints.restore_variables(str(tmp_path / 'out'))
  )
  theirs = public_models.arrays(model)
  for name, own, axis in (
    ('model.embed_tokens.weight', 'token_embedder/embedding', 0),
    ('lm_head.weight', 'logits_dense/kernel', 1),
  ):
    table = np.moveaxis(params[own], axis, 0)
    other = bpe.SIZE + 2 if special == ('!',) else bpe.SIZE
    np.testing.assert_array_equal(table[other], theirs[name][0])
    np.testing.assert_array_equal(table[1:other], theirs[name][1:other])
    wanted = theirs[name][other] if other < rows else 0
    np.testing.assert_array_equal(table[0], np.broadcast_to(wanted, 256))
  code, err = converted.main(
    capfd, tmp_path / 'out', tmp_path / 'back', '--to_hugging_face'
  )
  assert code == 0, err
  _check(source, tmp_path / 'back')


@pytest.mark.parametrize('scan', [False, True])
def test_a_trained_model_leaves_too(tmp_path, capfd, scan):
  """The downstream model of a run, whose layers may be stacked."""
  import tiny

  source = public_models.save(public_models.llama(), tmp_path / 'source')
  assert converted.main(capfd, source, tmp_path / 'out')[0] == 0
  params = checkpoints.restore_variables(str(tmp_path / 'out'))
  if scan:
    params = tiny.stack_layers(params)
  run = checkpoints.Checkpointer(str(tmp_path / 'run'))
  state = {'target': {'downstream': params}, 'flax_mutables': {}}
  run.save(3, state, {'episode': np.asarray(0)})
  run.close()
  flags = ['--to_hugging_face', f'--like={tmp_path / "out"}']
  code, err = converted.main(capfd, tmp_path / 'run', tmp_path / 'back', *flags)
  assert code == 0, err
  _check(source, tmp_path / 'back')
  assert jnp.float32 == params['decoder']['norm']['scale'].dtype
