"""The Llama network equals transformers' and decodes as it is taught.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_llama

from hypertuning.errors import UserError
from hypertuning.networks import llama
from hypertuning.networks.rotary import Rotary
from hypertuning.planning import flops

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

CONFIGS = {
  'grouped heads, tied': tiny_llama.config(),
  'equal heads, own head': tiny_llama.config(
    num_kv_heads=4, tied_embedding=False
  ),
  'one key head, scaled': tiny_llama.config(
    num_kv_heads=1, rotary=Rotary(500.0, tiny_llama.SCALING)
  ),
}
LENGTH = 7


@pytest.fixture(scope='module')
def text():
  return tiny.text(targets=LENGTH)


def _logits(cfg, text, phi=None):
  with jax.default_matmul_precision('highest'):
    return jax.jit(
      lambda params, text, phi: tiny.logits(
        llama.Llama(cfg), params, *text, phi
      )
    )(tiny_llama.params(cfg), text, phi)


@pytest.mark.parametrize('name', CONFIGS)
def test_logits_equal_those_of_transformers(text, name):
  """Pitfall 25: the scale of logits, and halves of a head that turn together.

  Rows of different lengths, each asked of transformers by itself.
  """
  cfg = CONFIGS[name]
  ours = _logits(cfg, text)
  theirs = tiny_llama.as_hugging_face(cfg, tiny_llama.params(cfg))
  for row, (inputs, targets) in enumerate(zip(*text, strict=True)):
    prompt, answer = inputs[inputs > 0], targets[targets > 0]
    ids = torch.tensor(np.concatenate([prompt, answer]))[None].long()
    with torch.no_grad():
      wanted = theirs(ids).logits[0, len(prompt) - 1 : -1].numpy()
    # Float32 sums in another order.
    np.testing.assert_allclose(
      ours[row, : len(answer)], wanted, rtol=1e-4, atol=1e-4
    )


def _phi(cfg, kind: str, episodes: int):
  if kind == 'prefix':
    return tiny.prefix(cfg, episodes, where=('self',))
  if kind == 'lora':
    modules = ('query', 'key', 'value', 'out', 'gate', 'up', 'down')
    return tiny.lora(cfg, episodes, where=('self', 'mlp'), modules=modules)
  if kind == 'cache':
    return _cache(cfg, tiny.episodes(episodes)['hyper_tokens'])
  return None


def _cache(cfg, tokens):
  with jax.default_matmul_precision('highest'):
    return jax.jit(
      lambda params: llama.Llama(cfg).apply(
        {'params': params}, tokens, method='cache'
      )
    )(tiny_llama.params(cfg))


@pytest.mark.parametrize('scan', [False, True])
def test_a_cache_is_the_start_of_every_text(text, scan):
  """Two texts of different lengths, each with two queries behind it."""
  cfg = tiny_llama.config(scan_layers=scan, prefix_gap=2)
  inputs, targets = text
  starts = tiny.episodes(2)['hyper_tokens']
  whole = np.zeros((len(inputs), starts.shape[1] + inputs.shape[1]), np.int32)
  for row, own, start in zip(
    whole, inputs, np.repeat(starts, 2, 0), strict=True
  ):
    ids = [*start[start > 0], *own[own > 0]]
    row[: len(ids)] = ids
  real = targets > 0
  np.testing.assert_allclose(
    _logits(cfg, text, _cache(cfg, starts))[real],
    _logits(cfg, (whole, targets))[real],
    rtol=1e-5,
    atol=1e-5,
  )


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('kind', ['none', 'prefix', 'lora', 'cache'])
def test_steps_equal_teacher_forcing(text, kind, scan):
  """Pitfall 3: prompts of different lengths, two rows per episode."""
  cfg = tiny_llama.config(scan_layers=scan, prefix_gap=2)
  network, phi = llama.Llama(cfg), _phi(cfg, kind, 2)

  @jax.jit
  def steps(params, text, phi):
    inputs, targets = text
    variables = {'params': params}
    memory = network.apply(variables, inputs, phi, LENGTH, method='start')
    ids = jnp.concatenate([memory.first[:, None], targets[:, :-1]], axis=1)

    def step(memory, ids):
      logits, memory = network.apply(variables, ids, memory, method='step')
      return memory, logits

    return jax.lax.scan(step, memory, ids.T)[1].swapaxes(0, 1)

  real = text[1] > 0
  np.testing.assert_allclose(
    steps(tiny_llama.params(cfg), text, phi)[real],
    _logits(cfg, text, phi)[real],
    rtol=1e-4,
    atol=1e-5,
  )


@pytest.mark.parametrize('scan', [False, True])
def test_prefix_takes_no_place_of_the_text(text, scan):
  """Pitfall 4: there is room for `LENGTH` tokens, with a prefix or without."""
  cfg = tiny_llama.config(scan_layers=scan, prefix_gap=2)
  params = tiny_llama.params(cfg)
  for phi, prefix in ((None, 0), (_phi(cfg, 'prefix', 2), 3)):
    memory = llama.Llama(cfg).apply(
      {'params': params}, text[0], phi, LENGTH, method='start'
    )
    assert (memory.length, int(memory.position)) == (LENGTH, 0)
    layer = memory.layers if scan else memory.layers[1]
    columns = prefix + text[0].shape[1] + LENGTH
    assert layer.key.shape[-3:] == (2, columns, 6)
    assert memory.rows['mask'].shape == text[0].shape


def test_prefix_of_no_tokens_is_no_prefix(text):
  """Pitfall 22: without gists, the network is the frozen one, bit for bit."""
  cfg = tiny_llama.config(prefix_gap=2)
  empty = tiny.prefix(cfg, 2, length=0, where=('self',))
  np.testing.assert_array_equal(
    _logits(cfg, text, empty), _logits(cfg, text, None)
  )


def test_norm_and_softmax_are_float32_under_bfloat16(text):
  """Pitfall 25: statistics of 5 norms and 2 softmaxes, and rotations."""
  cfg = tiny_llama.config(dtype=jnp.bfloat16)
  params = tiny_llama.params(tiny_llama.config())
  jaxpr = jax.make_jaxpr(
    lambda params: tiny.logits(llama.Llama(cfg), params, *text)
  )(params)
  for name, count in (('rsqrt', 5), ('exp', 2), ('cos', 4)):
    types = [
      e.outvars[0].aval.dtype
      for e, _ in flops.walk(jaxpr.jaxpr)
      if e.primitive.name == name
    ]
    assert types == [jnp.float32] * count, name


@pytest.mark.parametrize('kind', ['none', 'prefix'])
def test_bfloat16_drift_is_bounded(text, kind):
  """Pitfall 25: phi in bfloat16 too."""
  exact = tiny_llama.config()
  phi, real = _phi(exact, kind, 2), text[1] > 0
  wanted = _logits(exact, text, phi)
  cfg = tiny_llama.config(dtype=jnp.bfloat16)
  low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), phi)
  with jax.default_matmul_precision('highest'):
    drifted = jax.jit(
      lambda params, text, phi: tiny.logits(
        llama.Llama(cfg), params, *text, phi
      )
    )(tiny_llama.params(exact), text, low)
  assert drifted.dtype == jnp.float32
  error = np.abs(drifted - wanted)[real] / np.abs(wanted[real]).std()
  # 8 bits of mantissa through 2 layers, on logits of size 1.
  assert 0 < error.mean() < 0.03 and error.max() < 0.2


def test_padding_changes_nothing(text):
  inputs, targets = text
  cfg = tiny_llama.config()
  wider = np.pad(inputs, [(0, 0), (0, 5)])
  real = targets > 0
  np.testing.assert_allclose(
    _logits(cfg, (wider, targets))[real],
    _logits(cfg, text)[real],
    rtol=1e-5,
    atol=1e-5,
  )


def test_row_of_padding_is_finite(text):
  inputs, targets = np.zeros_like(text[0]), np.zeros_like(text[1])
  assert np.isfinite(_logits(tiny_llama.config(), (inputs, targets))).all()


def test_heads_that_do_not_divide_are_refused():
  with pytest.raises(UserError, match='NUM_KV_HEADS = 3 does not divide'):
    tiny_llama.config(num_kv_heads=3)
  with pytest.raises(UserError, match='HEAD_DIM = 5'):
    tiny_llama.config(head_dim=5)
