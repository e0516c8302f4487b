"""T5 against transformers, and its scan, remat, dtype and dropout variants.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from hypertuning import trees
from hypertuning.engine import partitioning
from hypertuning.networks import attention, t5
from hypertuning.planning import flops

CONFIG = tiny.config()


@functools.cache
def compiled(cfg: t5.T5Config):
  """Jitted logits of one configuration; every test shares it."""

  def apply(params, text, phi=None, rng=None):
    return tiny.logits(t5.T5(cfg), params, *text, phi, rng)

  return jax.jit(apply)


@pytest.fixture(scope='module')
def params():
  return tiny.t5_params(CONFIG)


@pytest.fixture(scope='module')
def text():
  return tiny.text()


@pytest.fixture(scope='module')
def logits(params, text):
  return compiled(CONFIG)(params, text)


@pytest.fixture(scope='module')
def hf_model():
  hf_reference = pytest.importorskip('hf_reference')
  return hf_reference.model(CONFIG)


def test_logits_equal_transformers(hf_model, text):
  import hf_reference

  ours = compiled(CONFIG)(hf_reference.params(hf_model), text)
  theirs = hf_reference.logits(hf_model, *text)
  real = text[1] > 0
  assert real.sum() < real.size and (text[0] == 0).any()  # padding is tested
  # float32 sums in another order; measured 1.2e-5 on logits of size 4.
  np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4)


def test_logits_equal_transformers_on_long_text(hf_model):
  """Positions beyond every bucket boundary, in both stacks."""
  import hf_reference

  text = tiny.text(batch=2, inputs=40, targets=33, seed=8)
  ours = compiled(CONFIG)(hf_reference.params(hf_model), text)
  theirs = hf_reference.logits(hf_model, *text)
  real = text[1] > 0
  np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4)


def test_encoder_padding_changes_nothing(params, text, logits):
  inputs, targets = text
  wider = (np.pad(inputs, [(0, 0), (0, 4)]), targets)
  np.testing.assert_allclose(compiled(CONFIG)(params, wider), logits, atol=1e-5)


def test_relative_position_buckets_equal_transformers():
  torch = pytest.importorskip('torch', reason='needs the extra `hf`')
  modeling = pytest.importorskip('transformers.models.t5.modeling_t5')
  distance = np.arange(-600, 601, dtype=np.int32)
  for bidirectional in (True, False):
    for buckets, furthest in ((32, 128), (8, 12), (64, 256)):
      theirs = modeling.T5Attention._relative_position_bucket(
        torch.tensor(distance), bidirectional, buckets, furthest
      ).numpy()
      ours = attention.relative_position_bucket(
        jnp.asarray(distance), bidirectional, buckets, furthest
      )
      np.testing.assert_array_equal(ours, theirs)


def test_relative_position_buckets_by_hand():
  """The same without transformers: 32 buckets, distances up to 128."""
  bucket = functools.partial(attention.relative_position_bucket, num_buckets=32)
  keys = jnp.array([-200, -128, -16, -8, -7, -1, 0, 1, 7, 8, 16, 200])
  np.testing.assert_array_equal(
    bucket(keys, True), [15, 15, 10, 8, 7, 1, 0, 17, 23, 24, 26, 31]
  )
  np.testing.assert_array_equal(
    bucket(keys, False), [31, 31, 16, 8, 7, 1, 0, 0, 0, 0, 0, 0]
  )


@pytest.mark.parametrize('remat', ['none', 'full', 'minimal'])
def test_scanned_layers_equal_unrolled(params, text, logits, remat):
  cfg = tiny.config(scan_layers=True, remat_policy=remat)
  stacked = tiny.stack_layers(params)
  # The stacked tree is the one that a scanned network declares itself.
  shapes = jax.eval_shape(lambda: t5.T5(cfg).init(jax.random.key(0), *text))
  assert jax.tree.map(jnp.shape, stacked) == jax.tree.map(
    jnp.shape, shapes['params']
  )
  np.testing.assert_allclose(compiled(cfg)(stacked, text), logits, atol=1e-5)


def test_scan_with_remat_gives_the_same_gradients(params, text):
  def gradient(cfg, params):
    def loss(params):
      log_probs = jax.nn.log_softmax(tiny.logits(t5.T5(cfg), params, *text))
      picked = jnp.take_along_axis(log_probs, text[1][..., None], -1)[..., 0]
      return -jnp.sum(picked * (text[1] > 0))

    return jax.jit(jax.grad(loss))(params)

  plain = tiny.stack_layers(gradient(CONFIG, params))
  scanned = gradient(
    tiny.config(scan_layers=True, remat_policy='full'),
    tiny.stack_layers(params),
  )
  scanned = trees.flatten_paths(scanned)
  for path, value in trees.flatten_paths(plain).items():
    # Recomputation may fuse otherwise; measured 2e-6 on gradients of size 1.
    np.testing.assert_allclose(scanned[path], value, atol=1e-4, err_msg=path)


def test_parameter_names_and_shapes_are_those_of_t5x(params):
  embed, joined, mlp = 20, 24, 28
  want = {
    'token_embedder/embedding': (tiny.VOCAB, embed),
    'decoder/logits_dense/kernel': (embed, tiny.VOCAB),
  }
  blocks = {
    'encoder': {'attention': 'pre_attention_layer_norm'},
    'decoder': {
      'self_attention': 'pre_self_attention_layer_norm',
      'encoder_decoder_attention': 'pre_cross_attention_layer_norm',
    },
  }
  for stack, attentions in blocks.items():
    want[f'{stack}/relpos_bias/rel_embedding'] = (3, 8)  # [heads, buckets]
    want[f'{stack}/{stack}_norm/scale'] = (embed,)
    for i in range(2):
      layer = f'{stack}/layers_{i}'
      want[f'{layer}/pre_mlp_layer_norm/scale'] = (embed,)
      want[f'{layer}/mlp/wi_0/kernel'] = (embed, mlp)
      want[f'{layer}/mlp/wi_1/kernel'] = (embed, mlp)
      want[f'{layer}/mlp/wo/kernel'] = (mlp, embed)
      for name, norm in attentions.items():
        want[f'{layer}/{norm}/scale'] = (embed,)
        for projection in ('query', 'key', 'value'):
          want[f'{layer}/{name}/{projection}/kernel'] = (embed, joined)
        want[f'{layer}/{name}/out/kernel'] = (joined, embed)
  flat = trees.flatten_paths(params)
  assert {path: leaf.shape for path, leaf in flat.items()} == want


def test_every_parameter_has_standard_logical_axes(text):
  rules = partitioning.standard_logical_axis_rules()
  known = {name for name, _ in rules}
  for scan in (False, True):
    cfg = tiny.config(scan_layers=scan)
    variables = jax.eval_shape(
      lambda cfg=cfg: t5.T5(cfg).init(jax.random.key(0), *text)
    )
    axes = trees.flatten_paths(variables['params_axes'])
    for path, leaf in trees.flatten_paths(variables['params']).items():
      names = axes[f'{path}_axes'].names
      assert len(names) == leaf.ndim and set(names) <= known, path
      assert (names[0] == 'layers') == ('/layers/' in path)


def test_bfloat16_drift_is_bounded(params, text, logits):
  """bfloat16 compute over float32 weights stays near float32."""
  drifted = compiled(tiny.config(dtype=jnp.bfloat16))(params, text)
  assert drifted.dtype == jnp.float32
  real = text[1] > 0
  error = np.abs(drifted - logits)[real]
  # 8 bits of mantissa through 4 layers: 2^-8 * a few; measured 0.017 / 0.12
  # on logits of size 1.
  assert error.mean() < 0.03 and error.max() < 0.2
  assert error.max() > 0  # it did compute in bfloat16


def test_norm_and_softmax_are_float32_under_bfloat16(text):
  """Pitfall 25, in the whole network: 13 norms' statistics, 6 softmaxes."""
  cfg = tiny.config(dtype=jnp.bfloat16)
  shapes = jax.eval_shape(lambda: tiny.t5_params(CONFIG))
  jaxpr = jax.make_jaxpr(lambda params: tiny.logits(t5.T5(cfg), params, *text))(
    shapes
  )
  for name, count in (('rsqrt', 12), ('exp', 6)):
    types = [
      e.outvars[0].aval.dtype
      for e, _ in flops.walk(jaxpr.jaxpr)
      if e.primitive.name == name
    ]
    assert types == [jnp.float32] * count, name


def test_attention_has_no_logit_scale():
  """T5 does not divide by sqrt(head_dim); v1.1's head is not rescaled."""
  query = jnp.zeros((1, 1, 1, 4)).at[..., 0].set(2.0)
  key = jnp.zeros((1, 1, 2, 4)).at[0, 0, 1, 0].set(1.5)
  value = jnp.arange(2.0).reshape(1, 1, 2, 1)
  out = attention.dot_product_attention(
    query, key, value, jnp.zeros((1, 1, 1, 2)), lambda x: x
  )
  np.testing.assert_allclose(out.item(), 1 / (1 + np.exp(-3.0)), rtol=1e-6)


def test_dropout_is_off_unless_asked_for(params, text, logits):
  cfg = tiny.config(dropout_rate=0.3)
  np.testing.assert_array_equal(compiled(cfg)(params, text), logits)

  noisy = functools.partial(compiled(cfg), params, text, None)
  first = noisy(jax.random.key(1))
  assert jnp.abs(first - logits).max() > 0.1
  np.testing.assert_array_equal(first, noisy(jax.random.key(1)))
  assert jnp.abs(first - noisy(jax.random.key(2))).max() > 0.1


def test_all_padding_row_is_finite(params, text):
  inputs, targets = (x.copy() for x in text)
  inputs[1] = targets[1] = 0
  out = compiled(CONFIG)(params, (inputs, targets))
  assert jnp.isfinite(out).all()
