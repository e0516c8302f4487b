"""Gisting: text to phi by gist tokens, on any network that compresses.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
import tiny_llama

from hypertuning import trees
from hypertuning.adapters import LoRA, LoRASpec, Prefix, PrefixSpec
from hypertuning.engine import train_state, train_step
from hypertuning.errors import UserError
from hypertuning.hypermodels import gist, heads
from hypertuning.networks import llama, t5

GISTS = 3
SEVEN = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
LLAMA = tiny_llama.config()
CONFIGS = {
  'llama': LLAMA,
  'llama scanned': tiny_llama.config(scan_layers=True, remat_policy='full'),
  't5': tiny.config(),
  # What a layer's gists have read, the next text reads one layer above: three
  # chunks in a row need four layers.
  'deep llama': tiny_llama.config(num_layers=4),
  'deep t5': tiny.config(num_encoder_layers=4, num_decoder_layers=1),
}
NAMES = ('llama', 'llama scanned', 't5')


def _network(cfg):
  return llama.Llama(cfg) if hasattr(cfg, 'rotary') else t5.T5(cfg)


def _lora(cfg) -> LoRASpec:
  if hasattr(cfg, 'rotary'):
    return LoRASpec(2, 4.0, ('self', 'mlp'), SEVEN)
  return LoRASpec(2, 4.0, ('encoder_self',), ('query', 'value'))


def _model(cfg, source=None, **overrides):
  source = source or gist.Gist(cfg, GISTS, _lora(cfg), **overrides)
  return tiny.model(
    hypermodel=source,
    downstream=_network(cfg),
    optimizer_def=optax.adam(1e-2),
    trainable_regex='hypermodel/.*',
  )


def _variables(model, batch):
  shapes = {name: value.shape for name, value in batch.items()}
  abstract = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  parts = {k: tiny.random_params(abstract[k]) for k in ('params', 'frozen')}
  # Large factors would make an attention of a single key, which hides others.
  own = parts['params']['hypermodel']
  if 'lora' in own:
    own['lora'] = jax.tree.map(lambda x: 0.2 * x, own['lora'])
  return parts['params'], {'frozen': parts['frozen']}


@functools.cache
def _case(name, chunks='recurrent'):
  model = _model(CONFIGS[name], chunks=chunks)
  return model, *_variables(model, tiny.episodes())


def _phi(model, params, mutables, tokens):
  batch = {**tiny.episodes(), 'hyper_tokens': tokens}
  return jax.jit(model.generate_adapters)(params, batch, mutables)


def _close(one, other, tolerance=1e-5):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      x, y, rtol=tolerance, atol=tolerance * np.abs(y).max()
    ),
    one,
    other,
  )


@pytest.mark.parametrize('name', NAMES)
def test_phi_is_the_prefix_that_the_spec_says(name):
  model, params, mutables = _case(name)
  phi = _phi(model, params, mutables, tiny.episodes()['hyper_tokens'])
  sites = ('encoder_self',) if name == 't5' else ('self',)
  wanted = PrefixSpec(GISTS, sites).shapes(CONFIGS[name])
  assert jax.tree.structure(phi) == jax.tree.structure(wanted)
  for leaf, other in zip(
    jax.tree.leaves(phi), jax.tree.leaves(wanted), strict=True
  ):
    assert leaf.shape[1:] == other.shape[1:]
  own = set(trees.flatten_paths(params['hypermodel']))
  assert {n.split('/')[0] for n in own} == {'gists', 'lora'}


@pytest.mark.parametrize('name', NAMES)
def test_phi_depends_neither_on_padding_nor_on_other_episodes(name):
  """Pitfall 1."""
  model, params, mutables = _case(name)
  tokens = tiny.episodes()['hyper_tokens']
  phi = _phi(model, params, mutables, tokens)
  wider = np.pad(tokens, [(0, 0), (0, 5)])
  _close(_phi(model, params, mutables, wider), phi)
  turned = _phi(model, params, mutables, tokens[::-1])
  _close(jax.tree.map(lambda x: x[::-1], turned), phi)


def test_keys_at_the_gists_are_those_of_transformers():
  """With LoRA merged into the weights; keys turned to where they stood."""
  torch = pytest.importorskip('torch')
  from hypertuning.adapters import merge

  model, params, mutables = _case('llama')
  tokens = tiny.episodes()['hyper_tokens']
  phi = _phi(model, params, mutables, tokens).sites['self']
  lora = model.module.apply(
    {'params': {'hypermodel': params['hypermodel']}},
    method=lambda self: self.hypermodel.lora(None),
  )
  frozen = mutables['frozen']['downstream']
  theirs = tiny_llama.as_hugging_face(
    LLAMA, merge(lora, frozen, LLAMA.sites, 0)
  )
  gists = params['hypermodel']['gists']
  for episode, row in enumerate(tokens):
    text = row[row > 0]
    embedded = np.concatenate(
      [frozen['token_embedder']['embedding'][text], gists]
    )
    with torch.no_grad():
      cache = theirs(
        inputs_embeds=torch.tensor(embedded)[None], use_cache=True
      ).past_key_values
    positions = jnp.arange(len(text), len(text) + GISTS)[None]
    for layer in range(LLAMA.num_layers):
      key = phi.key[episode, :, layer].swapaxes(0, 1)[None]
      _close(
        LLAMA.rotary(key, positions)[0],
        cache.layers[layer].keys[0, :, -GISTS:].numpy(),
        1e-4,
      )
      _close(
        phi.value[episode, :, layer].swapaxes(0, 1),
        cache.layers[layer].values[0, :, -GISTS:].numpy(),
        1e-4,
      )


@pytest.mark.parametrize('name', NAMES)
def test_training_moves_the_source_alone(name):
  """Pitfalls 9 and 22: one tower, frozen, through which the gradient goes."""
  model, params, mutables = _case(name)
  batch = tiny.episodes()
  before = jax.device_get(mutables['frozen'])
  state = train_state.create_state(
    model, {'params': params, 'frozen': mutables['frozen']}
  )
  step = jax.jit(train_step.make_train_step(model))
  losses = []
  for _ in range(8):
    state, scalars = step(state, batch, jax.random.key(0))
    losses.append(float(scalars['loss']))
  assert losses[-1] < losses[0]
  jax.tree.map(np.testing.assert_array_equal, before, state.frozen)
  moved = trees.flatten_paths(
    jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), params, state.params)
  )
  # The last layer's keys and values are taken before its output and MLP.
  assert moved['hypermodel/gists'] > 0
  assert all(v > 0 for k, v in moved.items() if k.endswith('query_b')), moved


@pytest.mark.parametrize('name', ['deep llama', 'deep t5'])
@pytest.mark.parametrize('chunks', ['recurrent', 'concatenated', 'averaged'])
def test_every_chunk_is_read(name, chunks):
  model, params, mutables = _case(name, chunks)
  rng = np.random.default_rng(3)
  tokens = rng.integers(2, tiny.VOCAB, (2, 3, 6)).astype(np.int32)
  tokens[1, 2] = 0  # the second episode has two chunks
  phi = _phi(model, params, mutables, tokens)
  for chunk in range(3):
    changed = tokens.copy()
    changed[0, chunk, 1] += 1 if changed[0, chunk, 1] < 30 else -1
    other = _phi(model, params, mutables, changed)
    for x, y in zip(jax.tree.leaves(phi), jax.tree.leaves(other), strict=True):
      assert np.abs(x[0] - y[0]).max() > 1e-5
      np.testing.assert_allclose(x[1], y[1], rtol=1e-5, atol=1e-5)
  if chunks != 'concatenated':
    # An empty chunk changes nothing.
    short = _phi(model, params, mutables, tokens[:, :2])
    _close(
      jax.tree.map(lambda x: x[1], short), jax.tree.map(lambda x: x[1], phi)
    )


def test_a_head_turns_gists_into_lora():
  spec = LoRASpec(2, 4.0, ('self',), ('query', 'value'))
  head = heads.LoRAHead(LLAMA, spec, 8)
  source = gist.Gist(LLAMA, head.num_queries, _lora(LLAMA), head=head)
  model = _model(LLAMA, source)
  batch = tiny.episodes()
  params, mutables = _variables(model, batch)
  phi = _phi(model, params, mutables, batch['hyper_tokens'])
  assert isinstance(phi, LoRA)
  assert set(phi.sites) == {'self'}
  with pytest.raises(UserError, match='NUM_GISTS = 1: the head reads'):
    _variables(_model(LLAMA, gist.Gist(LLAMA, 1, head=head)), batch)


def test_an_own_tower_reads_in_place_of_the_frozen_one():
  source = gist.Gist(LLAMA, GISTS, tower=llama.Llama(LLAMA))
  model = _model(LLAMA, source)
  batch = tiny.episodes()
  params, mutables = _variables(model, batch)
  names = {n.split('/')[0] for n in trees.flatten_paths(params['hypermodel'])}
  assert names == {'gists', 'tower'}
  phi = _phi(model, params, mutables, batch['hyper_tokens'])
  assert isinstance(phi, Prefix)


def test_tokens_that_the_network_does_not_have_are_named():
  with pytest.raises(UserError, match='GIST_TOKENS = .*: has 4000, but VOCAB'):
    gist.Gist(LLAMA, GISTS, gist_tokens=(2, 4000))
