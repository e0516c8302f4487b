"""Prefix and LoRA: closed forms in float64, placement and order.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from hypertuning import adapters as adapters_lib
from hypertuning import trees
from hypertuning.adapters import LoRA, LoRASpec, Prefix, PrefixSpec
from hypertuning.errors import UserError
from hypertuning.networks import attention, t5
from hypertuning.planning import flops

CONFIG = tiny.config()
BATCH = 4
SITES = tiny.ATTENTIONS
EVERY_PROJECTION = ('query', 'key', 'value', 'out', 'wi_0', 'wi_1', 'wo')
# In the order in which a T5 runs them.
MODULES = {
  'encoder_self': ('encoder', 'attention'),
  'decoder_self': ('decoder', 'self_attention'),
  'decoder_cross': ('decoder', 'encoder_decoder_attention'),
}


@functools.cache
def compiled(cfg=CONFIG):
  return jax.jit(
    lambda params, text, phi: tiny.logits(t5.T5(cfg), params, *text, phi)
  )


@pytest.fixture(scope='module')
def params():
  return tiny.t5_params(CONFIG)


@pytest.fixture(scope='module')
def text():
  return tiny.text(BATCH)


@pytest.fixture(scope='module')
def plain(params, text):
  return compiled()(params, text, None)


def row(tree, i):
  return jax.tree.map(lambda x: x[i : i + 1], tree)


# A T5 of one example in float64 numpy, written from the papers alone.


class Reference:
  """One example through a T5 1.1 with a prefix or LoRA factors."""

  def __init__(self, params, cfg, phi=None, prefix_bias=0.0):
    self.w = {
      k: np.asarray(v, np.float64)
      for k, v in trees.flatten_paths(params).items()
    }
    self.cfg, self.phi, self.prefix_bias = cfg, phi, prefix_bias

  def norm(self, x, name):
    scale = self.w[f'{name}/scale']
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

  def project(self, x, path, site, layer, name):
    kernel = self.w[f'{path}/{name}/kernel']
    if isinstance(self.phi, LoRA) and name in self.phi.sites.get(site, {}):
      factors = self.phi.sites[site][name]
      a = np.asarray(factors.a[0, layer], np.float64)
      b = np.asarray(factors.b[0, layer], np.float64)
      kernel = kernel + self.phi.scale * a @ b
    return x @ kernel

  def heads(self, *args):
    y = self.project(*args)
    return y.reshape(len(y), self.cfg.num_heads, -1)

  def attend(self, x, kv, bias, path, site, layer):
    q, k, v = (
      self.heads(source, path, site, layer, name)
      for source, name in ((x, 'query'), (kv, 'key'), (kv, 'value'))
    )
    if isinstance(self.phi, Prefix) and site in self.phi.sites:
      prefix = self.phi.sites[site]
      extra = np.asarray(prefix.key[0, :, layer], np.float64)
      k = np.concatenate([extra, k])
      v = np.concatenate([np.asarray(prefix.value[0, :, layer], np.float64), v])
      # Prefix columns have no relative bias and are never masked.
      bias = np.concatenate(
        [np.full((*bias.shape[:2], len(extra)), self.prefix_bias), bias], -1
      )
    logits = np.einsum('qhd,khd->hqk', q, k) + bias
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum('hqk,khd->qhd', weights, v).reshape(len(x), -1)
    return self.project(out, path, site, layer, 'out')

  def mlp(self, x, path, site, layer):
    gate, linear = (
      self.project(x, path, site, layer, name) for name in ('wi_0', 'wi_1')
    )
    tanh = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3))
    y = 0.5 * gate * (1 + tanh) * linear
    return self.project(y, path, site, layer, 'wo')

  def self_bias(self, stack, mask):
    places = np.arange(len(mask))
    buckets = attention.relative_position_bucket(
      jnp.asarray(places[None, :] - places[:, None]),
      stack == 'encoder',
      self.cfg.relpos_num_buckets,
      self.cfg.relpos_max_distance,
    )
    bias = self.w[f'{stack}/relpos_bias/rel_embedding'][:, np.asarray(buckets)]
    visible = np.broadcast_to(mask[None, :], bias.shape[1:])
    if stack == 'decoder':
      visible = visible & (places[None, :] <= places[:, None])
    return np.where(visible, bias, -np.inf)

  def __call__(self, inputs, targets):
    decoder_inputs = np.concatenate([[0], targets[:-1]])
    x = self.w['token_embedder/embedding'][inputs]
    bias = self.self_bias('encoder', inputs > 0)
    for i in range(self.cfg.num_encoder_layers):
      path = f'encoder/layers_{i}'
      y = self.norm(x, f'{path}/pre_attention_layer_norm')
      x = x + self.attend(y, y, bias, f'{path}/attention', SITES[0], i)
      y = self.norm(x, f'{path}/pre_mlp_layer_norm')
      x = x + self.mlp(y, f'{path}/mlp', 'encoder_mlp', i)
    encoded = self.norm(x, 'encoder/encoder_norm')

    x = self.w['token_embedder/embedding'][decoder_inputs]
    bias = self.self_bias('decoder', targets > 0)
    cross = np.where(inputs > 0, 0.0, -np.inf)[None, None]
    cross = np.broadcast_to(cross, (3, len(x), len(inputs)))
    for i in range(self.cfg.num_decoder_layers):
      path = f'decoder/layers_{i}'
      y = self.norm(x, f'{path}/pre_self_attention_layer_norm')
      x = x + self.attend(y, y, bias, f'{path}/self_attention', SITES[1], i)
      y = self.norm(x, f'{path}/pre_cross_attention_layer_norm')
      name = f'{path}/encoder_decoder_attention'
      x = x + self.attend(y, encoded, cross, name, SITES[2], i)
      y = self.norm(x, f'{path}/pre_mlp_layer_norm')
      x = x + self.mlp(y, f'{path}/mlp', 'decoder_mlp', i)
    x = self.norm(x, 'decoder/decoder_norm')
    return x @ self.w['decoder/logits_dense/kernel']


def check_reference(params, text, phi, cfg=CONFIG):
  got = compiled(cfg)(params, text, phi)
  for i in range(BATCH):
    one = [x[i] for x in text]
    reference = Reference(params, cfg, None if phi is None else row(phi, i))
    real = one[1] > 0
    # float32 against float64; measured 2.7e-6 on logits of size 1.
    np.testing.assert_allclose(got[i][real], reference(*one)[real], atol=5e-5)
  return got


@pytest.mark.parametrize('kind', ['none', 'prefix', 'lora'])
def test_closed_form(params, text, plain, kind):
  """Pitfalls 2, 7, 8: every site, layer and row, padding included.

  Biases of text to text are those without a prefix; prefix columns have none.
  """
  phi = {
    'none': None,
    'prefix': tiny.prefix(CONFIG, BATCH),
    'lora': tiny.lora(CONFIG, BATCH, 3, tuple(CONFIG.sites), EVERY_PROJECTION),
  }[kind]
  got = check_reference(params, text, phi)
  assert kind == 'none' or jnp.abs(got - plain).max() > 0.1


def test_closed_form_of_copies_on_one_layer():
  """Pitfall 8: P equal prefix tokens are one whose logit is log P higher."""
  cfg = tiny.shallow()
  params = tiny.t5_params(cfg, seed=2)
  text = tiny.text(BATCH)
  one = tiny.prefix(cfg, BATCH, length=1)
  five = jax.tree.map(lambda x: jnp.repeat(x, 5, axis=1), one)
  got = compiled(cfg)(params, text, five)
  for i in range(BATCH):
    reference = Reference(params, cfg, row(one, i), prefix_bias=np.log(5))
    real = text[1][i] > 0
    want = reference(*(x[i] for x in text))
    np.testing.assert_allclose(got[i][real], want[real], atol=5e-5)


def test_prefix_that_no_query_attends_to_is_no_prefix(params, text):
  """Pitfall 8: logits of about -1e4 at the prefix give the plain model.

  Random queries point anywhere, so the weights are edited until component 0 of
  every query is positive: embedding dimension 0 is a constant that no layer
  writes to and that only the queries' component 0 reads.
  """
  flat = trees.flatten_paths(params)
  table = flat['token_embedder/embedding']
  flat['token_embedder/embedding'] = table.at[:, 0].set(3.0)
  for path, leaf in flat.items():
    if path.endswith(('out/kernel', 'wo/kernel')):
      flat[path] = leaf.at[:, 0].set(0.0)
    if path.endswith('query/kernel'):
      heads = leaf.reshape(CONFIG.emb_dim, CONFIG.num_heads, CONFIG.head_dim)
      heads = heads.at[:, :, 0].set(0.0).at[0, :, 0].set(1.0)
      flat[path] = heads.reshape(leaf.shape)
    if path.endswith('attention_layer_norm/scale'):
      flat[path] = leaf.at[0].set(1.0)
  params = trees.unflatten_paths(flat)
  plain = compiled()(params, text, None)
  phi = jax.tree.map(
    jnp.zeros_like, tiny.prefix(CONFIG, BATCH, where=SITES[:2])
  )
  gated = Prefix(
    {
      site: x.replace(key=x.key.at[..., 0].set(-1e4), value=x.value + 7.0)
      for site, x in phi.sites.items()
    }
  )
  np.testing.assert_allclose(compiled()(params, text, gated), plain, atol=1e-5)
  # Zero keys are not the identity: they still take softmax mass.
  assert jnp.abs(compiled()(params, text, phi) - plain).max() > 1e-2


def test_prefix_of_no_tokens_is_no_prefix(params, text, plain):
  phi = tiny.prefix(CONFIG, BATCH, length=0)
  np.testing.assert_array_equal(compiled()(params, text, phi), plain)


def test_lora_of_zero_is_the_model_bit_for_bit(params, text, plain):
  """Pitfall 5."""
  phi = tiny.lora(CONFIG, BATCH)
  zero_b = LoRA(
    {
      site: {n: x.replace(b=jnp.zeros_like(x.b)) for n, x in sites.items()}
      for site, sites in phi.sites.items()
    },
    phi.scale,
  )
  np.testing.assert_array_equal(compiled()(params, text, zero_b), plain)
  np.testing.assert_array_equal(
    compiled()(params, text, phi.replace(scale=0.0)), plain
  )
  assert jnp.abs(compiled()(params, text, phi) - plain).max() > 0.1


@pytest.mark.parametrize('scan', [False, True])
def test_batched_lora_equals_merged_weights(params, text, scan):
  """Pitfall 6: one batch of four phi, and four merged models."""
  cfg = tiny.config(scan_layers=scan)
  params = tiny.stack_layers(params) if scan else params
  phi = tiny.lora(cfg, BATCH, 2, tuple(cfg.sites), EVERY_PROJECTION)
  batched = compiled(cfg)(params, text, phi)
  before = jax.tree.map(np.array, params)
  for i in range(BATCH):
    merged = adapters_lib.merge(phi, params, cfg.sites, i)
    alone = compiled(cfg)(merged, row(text, i), None)[0]
    real = text[1][i] > 0
    np.testing.assert_allclose(batched[i][real], alone[real], atol=5e-5)
  jax.tree.map(np.testing.assert_array_equal, params, before)


def test_mixed_batch_equals_single_runs(params, text):
  """Pitfall 6: another phi in the next row changes nothing."""
  phi = tiny.prefix(CONFIG, BATCH)
  batched = compiled()(params, text, phi)
  for i in range(BATCH):
    alone = compiled()(params, row(text, i), row(phi, i))[0]
    np.testing.assert_allclose(batched[i], alone, atol=1e-5)


def test_lora_equals_peft(text):
  """The same factors, alpha / rank included, through peft on transformers."""
  hf_reference = pytest.importorskip('hf_reference')
  peft = pytest.importorskip('peft', reason='needs the extra `hf`')
  hf_model = hf_reference.model(CONFIG)
  params = hf_reference.params(hf_model)
  rank, alpha = 2, 3.0
  phi = tiny.lora(CONFIG, 1, rank=rank, scale=alpha / rank)
  peft_model = peft.get_peft_model(
    hf_model,
    peft.LoraConfig(
      r=rank, lora_alpha=alpha, target_modules=['q', 'v'], lora_dropout=0.0
    ),
  ).eval()
  theirs = {
    'encoder_self': ('encoder', 0, 'SelfAttention'),
    'decoder_self': ('decoder', 0, 'SelfAttention'),
    'decoder_cross': ('decoder', 1, 'EncDecAttention'),
  }
  named = dict(peft_model.base_model.model.named_modules())
  with hf_reference.torch.no_grad():
    for site, (stack, sublayer, module) in theirs.items():
      for layer, (name, short) in itertools.product(
        range(2), (('query', 'q'), ('value', 'v'))
      ):
        path = f'{stack}.block.{layer}.layer.{sublayer}.{module}.{short}'
        factors = phi.sites[site][name]
        a = np.asarray(factors.a[0, layer]).T.copy()
        b = np.asarray(factors.b[0, layer]).T.copy()
        lora = named[path]
        lora.lora_A['default'].weight.copy_(hf_reference.torch.tensor(a))
        lora.lora_B['default'].weight.copy_(hf_reference.torch.tensor(b))
  want = hf_reference.logits(peft_model, *text)
  got = compiled()(params, text, phi)  # one phi for all rows
  real = text[1] > 0
  np.testing.assert_allclose(got[real], want[real], atol=1e-4)
  base = compiled()(params, text, None)
  assert jnp.abs(got - base)[real].max() > 0.1


# Every generated tensor reaches its place, and no other.


@functools.cache
def attention_outputs():
  """Logits and the outputs of all attentions, in the order they run."""
  network = t5.T5(CONFIG)

  @jax.jit
  def run(params, text, phi):
    logits, state = network.apply(
      {'params': params},
      *text,
      phi,
      method=lambda self, *args: self.logits(self(*args)),
      capture_intermediates=lambda module, _: (
        type(module).__name__ == 'Attention'
      ),
    )
    flat = trees.flatten_paths(state['intermediates'])
    return logits, {
      (site, layer): flat[f'{stack}/layers_{layer}/{name}/__call__'][0]
      for site, (stack, name) in MODULES.items()
      for layer in range(2)
    }

  return run


RUN_ORDER = [
  ('encoder_self', 0),
  ('encoder_self', 1),
  ('decoder_self', 0),
  ('decoder_cross', 0),
  ('decoder_self', 1),
  ('decoder_cross', 1),
]
PREFIX_LEAVES = [(site, leaf) for site in SITES for leaf in ('key', 'value')]
LORA_LEAVES = [(s, p) for s in SITES for p in ('query', 'key', 'value', 'out')]


def add_at(leaf, axis, layer):
  """A leaf with one added at one layer."""
  return leaf.at[(slice(None),) * axis + (layer,)].add(1.0)


def check_probe(params, text, phi, changed, site, layer):
  """The first output that differs is that of (site, layer)."""
  _, before = attention_outputs()(params, text, phi)
  logits, after = attention_outputs()(params, text, changed)
  differ = [jnp.abs(after[key] - before[key]).max() > 1e-3 for key in RUN_ORDER]
  first = RUN_ORDER[differ.index(True)]
  assert first == (site, layer)
  # And it does there what the closed form says: key is not value.
  real = text[1][0] > 0
  want = Reference(params, CONFIG, row(changed, 0))(*(x[0] for x in text))
  np.testing.assert_allclose(logits[0][real], want[real], atol=5e-5)


@pytest.mark.parametrize(('site', 'leaf'), PREFIX_LEAVES)
def test_prefix_reaches_its_site_layer_and_side(params, text, site, leaf):
  """Pitfall 7, one (site, layer, K / V) at a time."""
  phi = tiny.prefix(CONFIG, BATCH)
  part = phi.sites[site]
  for layer in range(2):
    moved = part.replace(**{leaf: add_at(getattr(part, leaf), 2, layer)})
    changed = Prefix({**phi.sites, site: moved})
    check_probe(params, text, phi, changed, site, layer)


@pytest.mark.parametrize(('site', 'projection'), LORA_LEAVES)
def test_lora_reaches_its_site_layer_and_projection(
  params, text, site, projection
):
  phi = tiny.lora(CONFIG, BATCH, modules=EVERY_PROJECTION[:4])
  factors = phi.sites[site][projection]
  for layer in range(2):
    moved = factors.replace(b=add_at(factors.b, 1, layer))
    changed = phi.replace(
      sites={**phi.sites, site: {**phi.sites[site], projection: moved}}
    )
    check_probe(params, text, phi, changed, site, layer)


def test_sites_are_selectable(params, text, plain):
  """A site that phi does not have is that of the plain model."""
  for where, make in (((SITES[1],), tiny.prefix), (SITES[::2], tiny.lora)):
    phi = make(CONFIG, BATCH, where=where)
    assert [phi.site_adapter(site) is not None for site in SITES] == [
      site in where for site in SITES
    ]
    got = check_reference(params, text, phi)
    assert jnp.abs(got - plain).max() > 1e-2


def test_lora_never_forms_a_kernel_per_example(params, text):
  """No intermediate is as large as `dW` for every example, gradients too."""
  phi = tiny.lora(CONFIG, BATCH, modules=('query', 'key', 'value'))

  def loss(phi):
    return tiny.logits(t5.T5(CONFIG), params, *text, phi).sum()

  def per_example(function):
    jaxpr = jax.make_jaxpr(function)(phi).jaxpr
    width = CONFIG.num_heads * CONFIG.head_dim
    shapes = {v.aval.shape for e, _ in flops.walk(jaxpr) for v in e.outvars}
    return [
      s
      for s in shapes
      if s[:1] == (BATCH,)
      and CONFIG.emb_dim in s[1:]
      and np.prod(s) >= BATCH * CONFIG.emb_dim * width
    ]

  assert per_example(jax.grad(loss)) == []
  # The check sees it where it is: merging for every example.
  merge = jax.vmap(lambda x: x.sites[SITES[0]]['query'], 0)
  assert per_example(lambda phi: merge(phi).a @ merge(phi).b)


# Order: repeat, average.


@pytest.mark.parametrize('make', [tiny.prefix, tiny.lora])
def test_repeat_and_average(make):
  phi = make(CONFIG, 3)
  repeated = adapters_lib.repeat(phi, 2)
  for leaf, twice in zip(
    jax.tree.leaves(phi), jax.tree.leaves(repeated), strict=True
  ):
    # Neighbours: a tile would give 0 1 2 0 1 2.
    np.testing.assert_array_equal(twice, np.asarray(leaf)[[0, 0, 1, 1, 2, 2]])
  back = adapters_lib.average(repeated, 2)
  jax.tree.map(np.testing.assert_array_equal, back, phi)
  four = make(CONFIG, 4)
  mean = adapters_lib.average(four, 2)
  for leaf, averaged in zip(
    jax.tree.leaves(four), jax.tree.leaves(mean), strict=True
  ):
    np.testing.assert_allclose(averaged[0], (leaf[0] + leaf[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(averaged[1], (leaf[2] + leaf[3]) / 2, rtol=1e-6)
  # The others are padding, whatever they hold.
  two = jax.tree.map(lambda x: x.at[2:].set(np.nan), four)
  mean = jax.jit(lambda count: adapters_lib.average(two, 4, count))(2)
  for leaf, averaged in zip(
    jax.tree.leaves(two), jax.tree.leaves(mean), strict=True
  ):
    np.testing.assert_allclose(averaged[0], (leaf[0] + leaf[1]) / 2, rtol=1e-6)


@pytest.mark.parametrize('make', [tiny.prefix, tiny.lora])
def test_gradient_of_a_shared_phi_is_the_sum_over_queries(text, make):
  """Pitfall 23: two episodes of two queries against four passes."""
  cfg = tiny.shallow()
  params = tiny.t5_params(cfg)
  phi = make(cfg, 2)

  def loss(phi, text):
    logits = tiny.logits(t5.T5(cfg), params, *text, phi)
    picked = jnp.take_along_axis(
      jax.nn.log_softmax(logits), text[1][..., None], -1
    )[..., 0]
    return -jnp.sum(picked * (text[1] > 0))

  shared = jax.jit(jax.grad(lambda phi: loss(phi, text)))(phi)
  single = jax.jit(jax.grad(loss))
  for episode in range(2):
    passes = [
      single(row(phi, episode), row(text, 2 * episode + i)) for i in range(2)
    ]
    summed = jax.tree.map(jnp.add, *passes)
    for got, want in zip(
      jax.tree.leaves(shared), jax.tree.leaves(summed), strict=True
    ):
      # Gradients of size 1 to 10 in float32; measured 5e-6.
      np.testing.assert_allclose(got[episode], want[0], atol=1e-4)


@pytest.mark.parametrize('make', [tiny.prefix, tiny.lora])
def test_phi_for_all_is_phi_of_each(params, text, make):
  """An episodes axis of 1 serves every row, and is repeated nowhere."""
  one = make(CONFIG, 1)
  copies = adapters_lib.expand(one, BATCH)
  assert jax.tree.leaves(copies)[0].shape[0] == BATCH
  np.testing.assert_allclose(
    compiled()(params, text, one), compiled()(params, text, copies), atol=1e-5
  )
  for same in (
    adapters_lib.repeat(one, 3),
    adapters_lib.average(one, 2),
    adapters_lib.take(one, jnp.array([0, 0, 0])),
  ):
    jax.tree.map(np.testing.assert_array_equal, same, one)


# Specs: what phi is made of.


def test_specs_give_the_shapes_that_the_network_names():
  shapes = PrefixSpec(5, ('decoder_cross',)).shapes(CONFIG)
  assert jax.tree.map(lambda x: x.shape, shapes.sites['decoder_cross']) == (
    adapters_lib.KeyValue(key=(1, 5, 2, 3, 8), value=(1, 5, 2, 3, 8))
  )
  spec = LoRASpec(4, 2.0, ('encoder_self', 'decoder_mlp'), ('out', 'wi_1'))
  phi = spec.shapes(CONFIG)
  assert phi.scale == 0.5
  assert {site: list(parts) for site, parts in phi.sites.items()} == {
    'encoder_self': ['out'],
    'decoder_mlp': ['wi_1'],
  }
  factors = phi.sites['decoder_mlp']['wi_1']
  assert factors.a.shape == (1, 2, 20, 4) and factors.b.shape == (1, 2, 4, 28)
  factors = phi.sites['encoder_self']['out']
  assert factors.a.shape == (1, 2, 24, 4) and factors.b.shape == (1, 2, 4, 20)
  # A site without any of the projections is left out.
  alone = LoRASpec(4, 2.0, tuple(CONFIG.sites), ('wo',))
  assert list(alone.shapes(CONFIG).sites) == ['encoder_mlp', 'decoder_mlp']


@pytest.mark.parametrize(
  ('spec', 'words'),
  [
    (
      PrefixSpec(2, ('encoder',)),
      ('PREFIX_SITES', "'encoder'", 'encoder_self'),
    ),
    (PrefixSpec(2, ('encoder_mlp',)), ('PREFIX_SITES', 'no attention')),
    (LoRASpec(2, 1.0, ('self',)), ('LORA_SITES', "'self'", 'decoder_mlp')),
    (
      LoRASpec(2, 1.0, ('decoder_mlp',), ('query',)),
      ('LORA_PROJECTIONS', "'query'", 'wi_0, wi_1, wo'),
    ),
  ],
)
def test_what_a_network_does_not_have_is_named(spec, words):
  with pytest.raises(UserError) as error:
    spec.shapes(CONFIG)
  assert all(word in str(error.value) for word in words)


def test_every_named_projection_is_a_kernel_of_that_size(params):
  flat = trees.flatten_paths(params)
  found = set()
  for site in CONFIG.sites.values():
    for matrix in site.modules.values():
      for layer in range(site.layers):
        path = matrix.path.replace('/layers/', f'/layers_{layer}/')
        shape = flat[f'{path}/kernel'].shape
        assert shape == (matrix.inputs, matrix.outputs), path
        found.add(f'{path}/kernel')
  assert found == {k for k in flat if '/layers_' in k and 'kernel' in k}
