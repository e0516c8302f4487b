"""HyperT5 and its heads: phi depends on the examples and on nothing else.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from hypertuning import trees
from hypertuning.adapters import LoRASpec, PrefixSpec
from hypertuning.engine import partitioning
from hypertuning.errors import UserError
from hypertuning.hypermodels import heads, hyper_t5
from hypertuning.networks import t5

# Axes that two devices divide, but for what nobody divides.
DOWNSTREAM = tiny.config(num_heads=4, num_encoder_layers=1)
# Another width, depth, head count, MLP and vocabulary.
HYPER = tiny.shallow(
  vocab_size=40, emb_dim=16, num_heads=2, head_dim=6, mlp_dim=24
)
HEADS = {
  'prefix': heads.PrefixHead(DOWNSTREAM, PrefixSpec(3), 10),
  'lora': heads.LoRAHead(DOWNSTREAM, LoRASpec(2, 3.0), 10),
}
KINDS = pytest.mark.parametrize('kind', HEADS)


def network(kind, **overrides):
  return hyper_t5.HyperT5(HYPER.replace(**overrides), HEADS[kind])


@functools.cache
def generate(kind):
  return jax.jit(
    lambda params, tokens: network(kind).apply({'params': params}, tokens)
  )


@functools.cache
def random_params(kind):
  """Random weights everywhere: LoRA's B head is not zero here."""
  shapes = jax.eval_shape(
    lambda: network(kind).init(jax.random.key(0), jnp.ones((1, 2), jnp.int32))
  )
  return tiny.random_params(shapes['params'], seed=4)


@pytest.fixture(scope='module')
def tokens():
  """Three episodes of 12, 7 and 3 tokens."""
  tokens = np.random.default_rng(0).integers(2, tiny.VOCAB, (3, 12))
  return np.where(np.arange(12) < np.array([[12], [7], [3]]), tokens, 0)


def assert_close(got, want, **kwargs):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, **kwargs), got, want
  )


def spread(tree):
  """The least standard deviation of a leaf."""
  return min(float(jnp.std(x)) for x in jax.tree.leaves(tree))


@KINDS
def test_phi_does_not_depend_on_padding(kind, tokens):
  """Pitfall 1: mixed lengths, a wider batch, and each episode alone."""
  params = random_params(kind)
  phi = generate(kind)(params, tokens)
  assert spread(phi) > 0.1
  wider = np.pad(tokens, [(0, 0), (0, 8)])
  assert_close(generate(kind)(params, wider), phi, atol=1e-5)
  # Without any padding at all: the row of 7 tokens.
  alone = generate(kind)(params, tokens[1:2, :7])
  assert_close(alone, jax.tree.map(lambda x: x[1:2], phi), atol=1e-5)


@KINDS
def test_phi_does_not_depend_on_neighbours(kind, tokens):
  params = random_params(kind)
  phi = generate(kind)(params, tokens)
  others = tokens.copy()
  others[[0, 2]] = np.random.default_rng(1).integers(2, tiny.VOCAB, (2, 12))
  row = functools.partial(jax.tree.map, lambda x: np.asarray(x)[1])
  changed = generate(kind)(params, others)
  jax.tree.map(np.testing.assert_array_equal, row(changed), row(phi))
  moved = generate(kind)(params, tokens[[1, 0, 2]])
  assert_close(jax.tree.map(lambda x: x[0], moved), row(phi), atol=1e-6)
  # It does depend on every token of its own examples.
  own = tokens.copy()
  own[1, 6] = 2 + (own[1, 6] - 1) % (tiny.VOCAB - 2)
  assert own[1, 6] != tokens[1, 6]
  other = row(generate(kind)(params, own))
  assert all(
    np.abs(a - b).max() > 1e-3
    for a, b in zip(
      jax.tree.leaves(other), jax.tree.leaves(row(phi)), strict=True
    )
  )


@KINDS
def test_queries_have_no_causal_mask(kind, tokens):
  """Pitfall 11: every output depends on every query, later ones included."""
  params = random_params(kind)
  model = network(kind)

  @jax.jit
  def hidden(queries, tokens):
    _, state = model.apply(
      {'params': {**params, 'queries': queries}},
      tokens,
      capture_intermediates=lambda module, _: module.name == 'decoder',
    )
    return state['intermediates']['decoder']['__call__'][0]

  queries = params['queries']
  before = hidden(queries, tokens)
  assert before.shape == (3, HEADS[kind].num_queries, HYPER.emb_dim)
  for changed in (0, len(queries) - 1):
    after = hidden(queries.at[changed].add(1.0), tokens)
    moved = jnp.abs(after - before).max(axis=(0, 2))
    assert (moved > 1e-4).all(), f'query {changed}: {moved}'


@KINDS
@pytest.mark.parametrize('num_partitions', [1, 2])
def test_eight_devices_equal_one(kind, tokens, num_partitions):
  """Pitfall 26: data parallel over 8, and 4 x 2 with sharded weights."""
  if len(jax.local_devices()) != 8:
    pytest.fail('conftest.py should have made 8 devices')
  params = random_params(kind)
  eight = np.concatenate([tokens, tokens[:, ::-1], tokens])[:8]
  want = generate(kind)(params, eight)
  partitioner = partitioning.Partitioner(num_partitions)
  variables = jax.eval_shape(
    lambda: network(kind).init(jax.random.key(0), jnp.ones((1, 2), jnp.int32))
  )
  shardings = partitioner.variable_shardings(
    variables['params'], variables['params_axes']
  )
  got = partitioner.compile(
    lambda params, tokens: network(kind).apply({'params': params}, tokens),
    in_shardings=(shardings, partitioner.batch),
  )(params, eight)
  for leaf in jax.tree.leaves(got):
    assert len(leaf.sharding.device_set) == 8
  assert_close(got, want, atol=1e-5)


@KINDS
def test_phi_of_another_size_fits_the_downstream_model(kind, tokens):
  phi = generate(kind)(random_params(kind), tokens)
  text = tiny.text(3)
  apply = jax.jit(
    lambda params, phi: tiny.logits(t5.T5(DOWNSTREAM), params, *text, phi)
  )
  params = tiny.t5_params(DOWNSTREAM)
  with_phi, without = apply(params, phi), apply(params, None)
  assert with_phi.shape == (3, 7, tiny.VOCAB)
  assert jnp.abs(with_phi - without).max() > 0.05


@KINDS
def test_generation_is_deterministic_and_dropout_is_for_training(kind, tokens):
  params = random_params(kind)
  noisy = network(kind, dropout_rate=0.4)
  apply = jax.jit(
    lambda rng, enable_dropout: noisy.apply(
      {'params': params}, tokens, None, enable_dropout, rngs={'dropout': rng}
    ),
    static_argnums=1,
  )
  plain = generate(kind)(params, tokens)
  quiet, again = (apply(jax.random.key(seed), False) for seed in (0, 1))
  jax.tree.map(np.testing.assert_array_equal, quiet, again)
  assert_close(quiet, plain, atol=1e-5)  # compiled apart
  one, two = (apply(jax.random.key(seed), True) for seed in (0, 1))
  assert all(
    jnp.abs(a - b).max() > 1e-3
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
  )


def test_generated_keys_have_unit_scale():
  """T5 does not scale its logits: a key's size must not come from the MLP."""
  params = trees.flatten_paths(random_params('prefix'))
  loud = {k: v * 30 if 'wo' in k else v for k, v in params.items()}
  for name in params:
    if name.endswith('key_scale'):
      loud[name] = jnp.full_like(params[name], 2.0)
  phi = generate('prefix')(
    trees.unflatten_paths(loud), np.full((1, 12), 5, np.int32)
  )
  for part in phi.sites.values():
    size = np.sqrt(np.mean(np.square(part.key), axis=-1))
    np.testing.assert_allclose(size, 2.0, rtol=1e-3)


@pytest.fixture(scope='module')
def initial_lora():
  """Random weights, and a head as it initialises itself."""
  head = HEADS['lora']
  hidden = jnp.ones((1, head.num_queries, HYPER.emb_dim))
  params = jax.jit(head.init)(jax.random.key(0), hidden)['params']
  return {**random_params('lora'), 'head': params}


def test_lora_starts_at_the_identity_with_a_gradient(initial_lora, tokens):
  """Pitfall 5: dW = 0 at step 0; only B's last matrix has a gradient."""
  downstream = tiny.t5_params(DOWNSTREAM)
  text = tiny.text(3)

  # Weights and text are arguments: as constants, XLA folds them otherwise in
  # one program than in the other, and the last bits differ.
  apply = jax.jit(
    lambda params, text, phi: tiny.logits(t5.T5(DOWNSTREAM), params, *text, phi)
  )
  phi = generate('lora')(initial_lora, tokens)
  np.testing.assert_array_equal(
    apply(downstream, text, phi), apply(downstream, text, None)
  )
  assert spread(
    {s: {p: x.a for p, x in f.items()} for s, f in phi.sites.items()}
  )

  @jax.jit
  @jax.value_and_grad
  def step(params):
    phi = network('lora').apply({'params': params}, tokens)
    logits = tiny.logits(t5.T5(DOWNSTREAM), downstream, *text, phi)
    log_probs = jax.nn.log_softmax(logits)
    picked = jnp.take_along_axis(log_probs, text[1][..., None], -1)[..., 0]
    return -jnp.sum(picked * (text[1] > 0))

  value, grads = step(initial_lora)
  for path, grad in trees.flatten_paths(grads).items():
    starts = path in ('head/query_b/wo/kernel', 'head/value_b/wo/kernel')
    assert (jnp.abs(grad).max() > 1e-3) == starts, path
    assert starts or not grad.any(), path

  # One step later everything learns, and the loss has fallen.
  moved = jax.tree.map(lambda p, g: p - 1e-3 * g, initial_lora, grads)
  lower, grads = step(moved)
  assert lower < value
  for path, grad in trees.flatten_paths(grads).items():
    assert jnp.abs(grad).max() > 0, path


def test_queries_of_a_layer_share_its_rank():
  """A query's factors stand at its own ranks of its own layer."""
  head = heads.LoRAHead(DOWNSTREAM, LoRASpec(4), 10, queries_per_layer=2)
  rng = np.random.default_rng(0)
  hidden = rng.standard_normal((1, head.num_queries, HYPER.emb_dim))
  hidden = jnp.asarray(hidden, jnp.float32)
  params = tiny.random_params(
    jax.eval_shape(lambda: head.init(jax.random.key(0), hidden))['params']
  )
  apply = jax.jit(lambda hidden: head.apply({'params': params}, hidden))
  before = apply(hidden)
  site, layer, query = 'decoder_self', 1, 1
  first = 2 * DOWNSTREAM.num_encoder_layers  # encoder_self stands before it
  after = apply(hidden.at[0, first + 2 * layer + query].add(1.0))
  for name, factors in before.sites.items():
    for projection, old in factors.items():
      new = after.sites[name][projection]
      a = np.argwhere(np.any(old.a != new.a, axis=(0, 2)))
      b = np.argwhere(np.any(old.b != new.b, axis=(0, 3)))
      expected = [[layer, 2], [layer, 3]] if name == site else []
      assert a.tolist() == b.tolist() == expected
  with pytest.raises(UserError, match='LORA_QUERIES_PER_LAYER = 3'):
    heads.LoRAHead(DOWNSTREAM, LoRASpec(4), queries_per_layer=3)


def test_queries_start_as_embeddings_of_tokens(tokens):
  """Twice as many tokens as queries, or half: over and over."""
  module = hyper_t5.HyperT5(HYPER, HEADS['prefix'], query_tokens=(5, 9))
  params = jax.jit(module.init)(jax.random.key(0), tokens)['params']
  assert not params['queries'].any()
  plain = {
    **params,
    'queries': jnp.resize(
      params['token_embedder']['embedding'][jnp.array([5, 9])],
      params['queries'].shape,
    ),
  }
  want = jax.jit(network('prefix').apply)({'params': plain}, tokens)
  got = jax.jit(module.apply)({'params': params}, tokens)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    got,
    want,
  )


def test_shapes_of_xxl():
  """11B + 11B as shapes alone, layers scanned, in bfloat16."""
  cfg = t5.T5Config(
    vocab_size=32128,
    dtype=jnp.bfloat16,
    emb_dim=4096,
    num_heads=64,
    num_encoder_layers=24,
    num_decoder_layers=24,
    head_dim=64,
    mlp_dim=10240,
    scan_layers=True,
    remat_policy='minimal',
  )
  tokens = jax.ShapeDtypeStruct((8, 1024), jnp.int32)

  def run(head):
    model = hyper_t5.HyperT5(cfg, head)

    def both(tokens):
      variables = model.init(jax.random.key(0), tokens)
      return variables['params'], model.apply(variables, tokens)

    return jax.eval_shape(both, tokens)

  params, phi = run(heads.PrefixHead(cfg))
  key = phi.sites['decoder_self'].key
  assert key.shape == (8, 32, 24, 64, 64) and key.dtype == jnp.bfloat16
  t5_part = {k: v for k, v in params.items() if k not in ('head', 'queries')}
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(t5_part))
  # T5 1.1 XXL: 11.1B with its own head, which a hypermodel does not have.
  assert 10.9e9 < count < 11.1e9
  _, phi = run(heads.LoRAHead(cfg))
  factors = phi.sites['encoder_self']['value']
  assert factors.a.shape == (8, 24, 4096, 16)
  assert factors.b.shape == (8, 24, 16, 4096)
