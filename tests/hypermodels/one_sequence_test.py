"""Text, gists and queries in one sequence equal two passes.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
import tiny
import tiny_llama

from hypertuning import predictions, trees
from hypertuning.adapters import LoRASpec
from hypertuning.errors import UserError
from hypertuning.hypermodels import gist
from hypertuning.networks import attention, llama, t5

GISTS = 3
SEVEN = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
CONFIGS = {
  # Fewer positions than the sequence has: none of them is clipped.
  'llama': tiny_llama.config(max_length=8),
  'llama scanned, gap': tiny_llama.config(
    scan_layers=True, remat_policy='full', prefix_gap=4
  ),
  't5': tiny.config(),
  't5 scanned': tiny.config(scan_layers=True),
}
# In one layer, gists have keys and values before they have read anything.
SHALLOW = {
  'llama': tiny_llama.config(num_layers=1),
  't5': tiny.shallow(),
}
FAMILIES = pytest.mark.parametrize('family', SHALLOW)


def _is_llama(cfg) -> bool:
  return hasattr(cfg, 'rotary')


def _network(cfg):
  return llama.Llama(cfg) if _is_llama(cfg) else t5.T5(cfg)


def _params(cfg):
  return tiny_llama.params(cfg) if _is_llama(cfg) else tiny.t5_params(cfg)


def _sites(cfg) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Sites and projections of the pass that reads."""
  if _is_llama(cfg):
    return ('self', 'mlp'), SEVEN
  modules = ('query', 'key', 'value', 'out', 'wi_0', 'wi_1', 'wo')
  return ('encoder_self', 'encoder_mlp'), modules


def _lora(cfg, without=()):
  where, modules = _sites(cfg)
  modules = tuple(x for x in modules if x not in without)
  return tiny.lora(cfg, 1, where=where, modules=modules, scale=0.3)


@functools.cache
def _read(cfg):
  """Hidden states `[episodes, queries, targets, embed]` of one sequence."""
  network = _network(cfg)

  @jax.jit
  def run(params, batch, gists, lora):
    inputs, targets = batch['input_tokens'], batch['target_tokens']
    hidden = network.apply(
      {'params': params},
      batch['hyper_tokens'],
      gists,
      inputs.reshape(-1, inputs.shape[-1]),
      targets.reshape(-1, targets.shape[-1]),
      lora,
      method='compress_and_predict',
    )
    return hidden.reshape(*targets.shape, -1)

  return run


def _gists(cfg):
  rng = np.random.default_rng(2)
  return jnp.asarray(rng.normal(size=(GISTS, cfg.emb_dim)), jnp.float32)


def _changed(tokens, *place):
  """A copy with another token at the place."""
  tokens = tokens.copy()
  tokens[place] = 2 + (tokens[place] - 1) % (tiny.VOCAB - 2)
  return tokens


@pytest.mark.parametrize('name', CONFIGS)
def test_losses_and_gradients_equal_those_of_two_passes(name):
  """Pitfalls 20, 21 and 22.

  Texts of different lengths: the gists of each row stand at other positions in
  one sequence, and at 0, 1, ... in two passes.
  """
  cfg = CONFIGS[name]
  sites, modules = _sites(cfg)
  batch = tiny.episodes()
  assert len(set((batch['hyper_tokens'] > 0).sum(1))) > 1
  results = []
  for in_one_sequence in (False, True):
    source = gist.Gist(
      cfg,
      GISTS,
      LoRASpec(2, 1.0, sites, modules),
      in_one_sequence=in_one_sequence,
    )
    model = tiny.model(hypermodel=source, downstream=_network(cfg))
    shapes = {key: value.shape for key, value in batch.items()}
    abstract = jax.eval_shape(
      lambda model=model, shapes=shapes: model.get_initial_variables(
        jax.random.key(0), shapes
      )
    )
    params = tiny.random_params(abstract['params'])
    params['hypermodel']['lora'] = jax.tree.map(
      lambda x: 0.2 * x, params['hypermodel']['lora']
    )
    frozen = {'frozen': tiny.random_params(abstract['frozen'])}

    def loss(params, model=model, frozen=frozen):
      variables = predictions.join_variables(params, frozen)
      logits = tiny.all_logits(
        predictions.for_training(model.module, variables, batch, None)
      )
      value, _ = model.loss_fn(params, batch, None, frozen)
      return value, jnp.where(batch['target_tokens'][..., None] > 0, logits, 0)

    with jax.default_matmul_precision('highest'):
      gradient, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
    results.append((gradient, logits))
  (gradient, logits), (other_gradient, other_logits) = results
  np.testing.assert_allclose(other_logits, logits, rtol=1e-5, atol=1e-5)
  assert np.abs(logits).max() > 0.1
  flat = trees.flatten_paths(other_gradient)
  assert flat.keys() == trees.flatten_paths(gradient).keys()
  for path, wanted in trees.flatten_paths(gradient).items():
    np.testing.assert_allclose(
      flat[path],
      wanted,
      rtol=1e-4,
      atol=1e-5 * max(1.0, np.abs(wanted).max()),
      err_msg=path,
    )


@FAMILIES
def test_nothing_leaks_past_the_gists(family):
  """Pitfall 20: with the gists' keys and values fixed, text changes nothing.

  In one layer they do not depend on the text; a query that depends on it, or on
  another query, sees it without the gists.
  """
  cfg = SHALLOW[family]
  batch, gists = tiny.episodes(), _gists(cfg)
  run = functools.partial(_read(cfg), _params(cfg), gists=gists, lora=None)
  real = batch['target_tokens'] > 0
  hidden = np.asarray(run(batch))
  places = {'hyper_tokens': (0, slice(None)), 'input_tokens': (0, 1, 0)}
  for name, place in places.items():
    other = np.asarray(run({**batch, name: _changed(batch[name], *place)}))
    same = real.copy()
    if name == 'input_tokens':
      same[0, 1] = False
      assert np.abs(other - hidden)[0, 1][real[0, 1]].max() > 1e-3
    np.testing.assert_array_equal(other[same], hidden[same], err_msg=name)
  moved = run(batch, gists=gists.at[1].add(1.0))
  assert np.abs(moved - hidden)[real].max() > 1e-3


@FAMILIES
def test_lora_is_off_behind_the_gists(family):
  """Pitfall 22: in one layer, LoRA of keys and values alone reaches a query."""
  cfg = SHALLOW[family]
  batch, gists, params = tiny.episodes(), _gists(cfg), _params(cfg)
  real = batch['target_tokens'] > 0
  plain = _read(cfg)(params, batch, gists, None)
  lora = _lora(cfg, without=('key', 'value'))
  np.testing.assert_array_equal(
    _read(cfg)(params, batch, gists, lora)[real], plain[real]
  )
  reached = _read(cfg)(params, batch, gists, _lora(cfg))
  assert np.abs(reached - plain)[real].max() > 1e-3


@FAMILIES
def test_reading_without_lora_is_reading_by_the_frozen_network(family):
  """Pitfall 22: gists that are embeddings of tokens are these tokens."""
  cfg = CONFIGS[family]
  network, params = _network(cfg), _params(cfg)
  tokens = np.random.default_rng(1).integers(2, tiny.VOCAB, (1, 9))
  text, last = tokens[:, :-GISTS], tokens[:, -GISTS:]
  gists = params['token_embedder']['embedding'][last[0]]
  hidden, _ = network.apply({'params': params}, text, gists, method='compress')
  if _is_llama(cfg):  # the last token of the prompt predicts the first target
    wanted = network.apply({'params': params}, tokens, tokens[:, :1])
    hidden = hidden[:, -1:]
  else:
    wanted = network.apply({'params': params}, tokens, method='encode')
    wanted = wanted[:, -GISTS:]
  np.testing.assert_allclose(hidden, wanted, rtol=1e-5, atol=1e-5)


@FAMILIES
def test_gists_take_no_id(family):
  """Pitfall 19: neither the embedding nor the head is extended."""
  cfg = CONFIGS[family]
  source = gist.Gist(cfg, GISTS)
  model = tiny.model(hypermodel=source, downstream=_network(cfg))
  shapes = {key: value.shape for key, value in tiny.episodes().items()}
  abstract = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  frozen = abstract['frozen']['downstream']
  assert jax.tree.map(jnp.shape, frozen) == jax.tree.map(
    jnp.shape, _params(cfg)
  )
  table = frozen['token_embedder']['embedding']
  assert table.shape == (cfg.vocab_size, cfg.emb_dim)
  own = trees.flatten_paths(abstract['params'])
  assert {path: x.shape for path, x in own.items()} == {
    'hypermodel/gists': (GISTS, cfg.emb_dim)
  }


def test_recurrent_chunks_are_the_chain_of_one_sequence():
  """Pitfalls 20 and 21: the author's mask of several blocks of gists.

  Each block of gists reads its own chunk and the block before. Chunks that are
  read one by one, each behind the last gists, give the same keys and values.
  """
  cfg = tiny_llama.config(num_layers=4)
  recorded = np.load(runner.ROOT / 'tests/golden/gist_masks.npz')
  lengths, visible = recorded['chain_chunks'], recorded['chain_mask']
  assert int(recorded['num_gists']) == GISTS
  params, gists, lora = _params(cfg), _gists(cfg), _lora(cfg)
  network = llama.Llama(cfg)
  rng = np.random.default_rng(4)
  chunks = [rng.integers(2, tiny.VOCAB, (1, n)) for n in lengths]
  embed = params['token_embedder']['embedding']
  whole = jnp.concatenate(
    [part for chunk in chunks for part in (embed[chunk[0]], gists)]
  )

  @jax.jit
  def one(params):
    length = len(visible)
    view = attention.View(length, visible=jnp.asarray(visible)[None])
    block = llama.Block(view, jnp.arange(length)[None])
    parts = {name: lora.site_adapter(name) for name in ('self', 'mlp')}
    _, kept = network.apply(
      {'params': params},
      method=lambda self: self.decoder(whole[None], parts, block, gists=GISTS),
    )
    return kept

  @jax.jit
  def several(params):
    prefix = None
    for chunk in chunks:
      _, prefix = network.apply(
        {'params': params}, chunk, gists, lora, prefix, method='compress'
      )
    return prefix

  with jax.default_matmul_precision('highest'):
    kept, prefix = one(params), several(params).sites['self']
  for layer, (key, value) in enumerate((x.key, x.value) for x in kept):
    for ours, wanted in ((prefix.key, key), (prefix.value, value)):
      np.testing.assert_allclose(
        ours[:, :, layer].swapaxes(1, 2), wanted, rtol=1e-4, atol=1e-5
      )


def test_a_gap_gives_the_absolute_positions_of_the_author():
  """Pitfall 21, in transformers: keys stay turned to where the gists stood.

  Text behind t tokens and P gists has the positions t + 2 P + i there: a number
  per row. Ours has P + gap + i, with keys at 0, 1, ...
  """
  torch = pytest.importorskip('torch')
  cfg = tiny_llama.config(prefix_gap=GISTS)
  params, gists = _params(cfg), _gists(cfg)
  theirs = tiny_llama.as_hugging_face(cfg, params)
  batch = tiny.episodes(queries=1)
  network = llama.Llama(cfg)
  with jax.default_matmul_precision('highest'):
    hidden = _read(cfg)(params, batch, gists, None)
    ours = network.apply({'params': params}, hidden, method='logits')
  embed = np.asarray(params['token_embedder']['embedding'])
  offsets = set()
  for episode in range(2):
    text, inputs, targets = (
      x[x > 0]
      for x in (
        batch['hyper_tokens'][episode],
        batch['input_tokens'][episode, 0],
        batch['target_tokens'][episode, 0],
      )
    )
    read = torch.tensor(np.concatenate([embed[text], gists]))[None]
    with torch.no_grad():
      cache = theirs(inputs_embeds=read, use_cache=True).past_key_values
      for layer in cache.layers:
        layer.keys = layer.keys[:, :, -GISTS:]
        layer.values = layer.values[:, :, -GISTS:]
      ids = torch.tensor(np.concatenate([inputs, targets]))[None].long()
      offset = len(text) + 2 * GISTS
      wanted = theirs(
        ids,
        past_key_values=cache,
        position_ids=torch.arange(offset, offset + ids.shape[1])[None],
        attention_mask=torch.ones(1, GISTS + ids.shape[1]),
      ).logits[0, len(inputs) - 1 : -1]
    offsets.add(offset)
    np.testing.assert_allclose(
      ours[episode, 0, : len(targets)], wanted.numpy(), rtol=1e-4, atol=1e-4
    )
  assert len(offsets) == 2


def test_what_one_sequence_cannot_do_is_refused():
  cfg = CONFIGS['llama']
  start = 'GIST_IN_ONE_SEQUENCE = True: '
  with pytest.raises(UserError, match=f'{start}.*GIST_TOWER must be None'):
    gist.Gist(cfg, GISTS, tower=llama.Llama(cfg), in_one_sequence=True)
  model = tiny.model(
    hypermodel=gist.Gist(cfg, GISTS, in_one_sequence=True),
    downstream=llama.Llama(cfg),
  )
  shapes = {key: value.shape for key, value in tiny.episodes().items()}
  with pytest.raises(UserError, match=f"{start}.*'hyper_inputs'.* chunks"):
    model.get_initial_variables(
      jax.random.key(0), {**shapes, 'hyper_tokens': (2, 3, 6)}
    )


def test_gists_without_room_for_text_are_refused():
  with pytest.raises(
    UserError, match='NUM_GISTS = 64 leaves no room .* MAX_LENGTH = 64'
  ):
    gist.Gist(tiny_llama.config(), 64)
