"""Every way of attention against float64 numpy and against the plain way.

Pallas's kernel is interpreted, and cuDNN's function computed by XLA. Tests that
need an NVIDIA GPU are marked: `JAX_PLATFORMS=cuda pytest -m gpu`.
"""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_llama
from jax._src.cudnn import fused_attention_stablehlo

from hypertuning.adapters import KeyValue, SiteAdapter
from hypertuning.engine import partitioning
from hypertuning.errors import UserError
from hypertuning.networks import attention, llama, t5
from hypertuning.networks.attention import choice, pallas
from hypertuning.networks.attention.cudnn import Cudnn
from hypertuning.networks.attention.pallas import Pallas
from hypertuning.planning import flops

ROWS, HEADS, TEXT, PREFIX, HEAD_DIM = 4, 4, 45, 3, 8
LENGTHS = np.array([20, 45, 0, 1])  # row 2 is empty


class Interpreted(Pallas):
  @classmethod
  def make(cls, view, part):
    return Pallas.make(view, part).replace(interpret=True)


class Xla(Cudnn):
  @classmethod
  def make(cls, view, part):
    return Cudnn.make(view, part).replace(implementation='xla')


WAYS = {'pallas': Interpreted, 'cudnn': Xla}
# Keys with holes, causal, relative biases, prefix, its mask, heads of keys,
# queries that are not the text: those of cross-attention.
CASES = {
  'encoder': {'relative': True, 'prefix': PREFIX},
  'empty row': {'relative': True},
  'decoder': {'relative': True, 'causal': True, 'keys': False},
  'cross': {'queries': 18, 'prefix': PREFIX},
  'llama': {'causal': True, 'holes': True, 'kv_heads': 2, 'prefix': PREFIX},
  'cache': {
    **{'causal': True, 'holes': True, 'kv_heads': 2, 'prefix': PREFIX},
    'prefix_mask': True,
  },
}


def arrays(case: dict, dtype=jnp.float32) -> dict:
  rng = np.random.default_rng(0)
  columns = case.get('prefix', 0) + TEXT
  kv = (ROWS, case.get('kv_heads', HEADS), columns, HEAD_DIM)
  query = (ROWS, HEADS, case.get('queries', TEXT), HEAD_DIM)
  shapes = {'query': query, 'key': kv, 'value': kv}
  drawn = {k: jnp.asarray(rng.normal(size=x), dtype) for k, x in shapes.items()}
  return {**drawn, 'table': jnp.asarray(rng.normal(size=(HEADS, 32)) * 2)}


def view(case: dict, table: jax.Array) -> attention.View:
  keys = np.arange(TEXT) < LENGTHS[:, None]
  if case.get('holes'):
    keys &= np.arange(TEXT) % 5 != 2
  relative = None
  if case.get('relative'):
    places = attention.column_places(TEXT)
    relative = attention.RelativeBiases(
      table.astype(jnp.float32), places, not case.get('causal', False), 40
    )
  return attention.View(
    TEXT,
    keys=jnp.asarray(keys) if case.get('keys', True) else None,
    at_end=not case.get('holes', False),
    causal=case.get('causal', False),
    relative=relative,
  )


def prefix_mask(case: dict) -> jax.Array | None:
  if not case.get('prefix_mask'):
    return None
  return jnp.asarray([[True, True, False], [False, True, True]])  # episodes


def attend(way, case: dict, x: dict) -> jax.Array:
  """By a kernel, or plainly if the way is None."""
  mask = prefix_mask(case)
  seen = view(case, x['table'])
  if way is None:
    prepared = attention.Plain(seen.bias())
  else:
    prepared = way.make(seen, SiteAdapter(prefix_mask=mask))
  keys_values = KeyValue(key=x['key'], value=x['value'])
  return prepared.attend(x['query'], keys_values, mask, lambda w: w, 0.7, False)


def gradients(way, case: dict, x: dict, silent: tuple[int, ...] = ()):
  """Gradients of a weighted sum of outputs, without those of silent rows."""
  weight = np.random.default_rng(1).normal(size=x['query'].shape)
  weight[list(silent)] = 0

  def loss(x):
    y = attend(way, case, x)
    return (y.astype(jnp.float32) * weight).sum(), y

  return jax.jit(jax.grad(loss, has_aux=True))(x)


def reference(case: dict, x: dict) -> np.ndarray:
  """In float64, one query at a time, without any array of ours."""
  x = {k: np.asarray(v, np.float64) for k, v in x.items()}
  prefix = case.get('prefix', 0)
  group = HEADS // x['key'].shape[1]
  keys = np.asarray(view(case, jnp.asarray(x['table'])).keys)
  own = prefix_mask(case)
  out = np.zeros(x['query'].shape)
  for row, head, place in np.ndindex(*out.shape[:3]):
    key = x['key'][row, head // group]
    logits = 0.7 * key @ x['query'][row, head, place]
    seen = np.ones(len(key), bool)
    if case.get('keys', True):
      seen[prefix:] &= keys[row]
    if case.get('causal'):
      seen[prefix:] &= np.arange(TEXT) <= place
    if own is not None:
      seen[:prefix] = np.asarray(own)[row // 2]
    if case.get('relative'):
      distance = jnp.arange(TEXT) - place
      buckets = attention.relative_position_bucket(
        distance, not case.get('causal', False), 32, 40
      )
      logits[prefix:] += x['table'][head][np.asarray(buckets)]
    if not seen.any():
      logits[:] = 0  # all are attended to alike
      seen[:] = True
    weights = np.where(seen, np.exp(logits - logits[seen].max()), 0)
    out[row, head, place] = weights @ x['value'][row, head // group]
    out[row, head, place] /= weights.sum()
  return out


@pytest.mark.parametrize('name', CASES)
def test_every_way_is_that_of_numpy(name, monkeypatch):
  # Several blocks of queries, the last of which is not full.
  monkeypatch.setattr(pallas, '_BLOCK_LOGITS', 16 * 128)
  case = CASES[name]
  x = arrays(case)
  wanted = reference(case, x)
  slopes, plain = gradients(None, case, x)
  np.testing.assert_allclose(plain, wanted, rtol=1e-4, atol=1e-5)
  for way in WAYS.values():
    silent = ()
    if way is Xla and name == 'empty row':
      # Attention that is uniform has gradients for values alone there. Plainly,
      # queries and keys get some as well, though no change of theirs counts.
      silent = (2,)
      slopes, _ = gradients(None, case, x, silent)
    ours, out = gradients(way, case, x, silent)
    np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-5)
    for part, slope in slopes.items():
      np.testing.assert_allclose(
        ours[part], slope, rtol=1e-4, atol=2e-5, err_msg=part
      )
  assert bool(jnp.abs(slopes['table']).max() > 0) == ('relative' in case)


def error(x, wanted) -> float:
  x, wanted = np.asarray(x, np.float64), np.asarray(wanted, np.float64)
  return float(np.sqrt(np.mean((x - wanted) ** 2) / np.mean(wanted**2)))


def compare_in_bfloat16(way, name: str) -> None:
  """A kernel is about as near to exact numbers as the plain way is."""
  case = CASES[name]
  x = arrays(case, jnp.bfloat16)
  exact, out = gradients(
    None, case, {k: v.astype('float32') for k, v in x.items()}
  )
  plain = gradients(None, case, x)
  ours = gradients(way, case, x)
  # Half of bfloat16's last digit is 2^-9: errors of single roundings. A kernel
  # computes logits more exactly, and the softmax's gradient from the output,
  # which is rounded.
  assert error(ours[1], out) <= max(2 * error(plain[1], out), 2**-8)
  for part in ('query', 'key', 'value') + ('table',) * ('relative' in case):
    bound = max(2 * error(plain[0][part], exact[part]), 2**-8)
    assert error(ours[0][part], exact[part]) <= bound, part


@pytest.mark.parametrize('way', WAYS)
def test_bfloat16_is_as_exact_as_the_plain_way(way):
  compare_in_bfloat16(WAYS[way], 'encoder')


@pytest.mark.gpu
@pytest.mark.skipif(
  jax.default_backend() != 'gpu', reason='there is no NVIDIA GPU'
)
@pytest.mark.parametrize('name', CASES)
def test_cudnn_is_as_exact_as_the_plain_way(name):
  compare_in_bfloat16(Cudnn, name)


# The choice.


def test_cpus_compute_plainly():
  seen = attention.prepare(tiny.config(), attention.View(5), None)
  assert isinstance(seen, attention.Plain)


@pytest.mark.parametrize('way', WAYS)
def test_a_kernel_of_another_platform_is_an_error(way):
  with pytest.raises(UserError, match=f"ATTENTION = '{way}' .* 'auto'"):
    attention.prepare(tiny.config(attention=way), attention.View(5), None)


@pytest.fixture
def on(monkeypatch):
  """Makes the tests' CPUs a platform with a kernel."""

  def put(way: str) -> None:
    monkeypatch.setattr(choice, '_KERNELS', {'CPU': (way, WAYS[way])})
    monkeypatch.setattr(choice, '_said', set())

  return put


def test_a_kernel_that_does_not_compile(monkeypatch, capsys):
  """As cuDNN's does not here: a line of log, or an error if it is asked for."""
  monkeypatch.setattr(choice, '_KERNELS', {'CPU': ('cudnn', Cudnn)})
  monkeypatch.setattr(choice, '_said', set())
  fields = {'dtype': jnp.bfloat16, 'head_dim': 8}
  view = attention.View(5)
  with pytest.raises(UserError, match="'cudnn' fails here .*'plain'") as error:
    attention.prepare(tiny.config(attention='cudnn', **fields), view, None)
  assert '\n' not in str(error.value)
  seen = attention.prepare(tiny.config(**fields), view, None)
  assert isinstance(seen, attention.Plain)
  (line,) = capsys.readouterr().err.splitlines()
  assert 'cudnn fails here' in line
  # The probe itself compiles: with XLA in the kernel's place nothing fails.
  assert Xla.failure(jnp.bfloat16, 8) is None


@pytest.mark.parametrize(
  'way, fields, macro',
  [
    ('cudnn', {'dtype': jnp.bfloat16, 'head_dim': 12}, 'HEAD_DIM = 12'),
    ('cudnn', {'dtype': jnp.float32}, "ACTIVATION_DTYPE = 'float32'"),
    ('pallas', {'head_dim': 12}, 'HEAD_DIM = 12'),
  ],
)
def test_sizes_that_a_kernel_does_not_take(on, capsys, way, fields, macro):
  """An error where the kernel is asked for; a line of log where it is not."""
  on(way)
  with pytest.raises(UserError, match=macro):
    attention.prepare(
      tiny.config(attention=way, **fields), attention.View(5), None
    )
  for _ in range(2):
    seen = attention.prepare(tiny.config(**fields), attention.View(5), None)
    assert isinstance(seen, attention.Plain)
  (line,) = capsys.readouterr().err.splitlines()
  assert macro in line


def test_views_that_a_kernel_does_not_take_are_computed_plainly(on, capsys):
  text = attention.column_places(5)
  relative = attention.RelativeBiases(jnp.ones((3, 8)), text, True, 12)
  apart = attention.Places(jnp.arange(5)[None], jnp.arange(5)[None])
  shifted = attention.RelativeBiases(jnp.ones((3, 8)), apart, True, 12)
  holes = attention.View(5, keys=jnp.ones((2, 5), bool), relative=relative)
  visible = attention.View(5, visible=jnp.ones((1, 5, 5), bool))
  masked = SiteAdapter(prefix_mask=jnp.ones((2, 1, 3), bool))
  refused = {
    'cudnn': [
      (holes, None, False),
      (attention.View(5, relative=shifted), None, False),
      (attention.View(5, relative=relative), masked, False),
      (attention.View(5), None, True),
    ],
    'pallas': [
      (visible, None, False),
      (attention.View(5, relative=shifted), None, False),
      (attention.View(pallas._MOST_KEYS + 1), None, False),
      (attention.View(5), None, True),
    ],
  }
  cfg = tiny.config(dtype=jnp.bfloat16)
  for way, cases in refused.items():
    on(way)
    with partitioning.Partitioner().context():
      for _ in range(2):
        for case in cases:
          seen = attention.prepare(cfg, *case)
          assert isinstance(seen, attention.Plain)
      taken = attention.prepare(cfg, attention.View(5), None)
    assert not isinstance(taken, attention.Plain)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == len(cases)


# Whole networks.

NETWORKS = {
  't5': (t5.T5, lambda **x: tiny.config(head_dim=8, **x)),
  'llama': (llama.Llama, lambda **x: tiny_llama.config(**x)),
}


def loss_of(network, inputs, targets):
  def loss(params):
    hidden = network.apply({'params': params}, inputs, targets)
    return jnp.sin(hidden.astype(jnp.float32)).sum()

  return loss


@pytest.mark.parametrize('family', NETWORKS)
@pytest.mark.parametrize('way', WAYS)
def test_networks_with_kernels_are_those_without(on, capsys, family, way):
  """Scanned and rematerialised, on a mesh of 4 x 2 devices."""
  on(way)
  made, config = NETWORKS[family]
  rng = np.random.default_rng(0)
  inputs, targets = (rng.integers(1, tiny.VOCAB, (8, n)) for n in (9, 6))
  inputs[1, 5:] = inputs[2] = 0
  settings = {'scan_layers': True, 'remat_policy': 'minimal'}
  # cuDNN's arrays are bfloat16; here the same function takes float32.
  plain = made(config(attention='plain', **settings))
  fused = made(config(attention=way, **settings))
  params = tiny.random_params(
    jax.eval_shape(plain.init, jax.random.key(0), inputs, targets)['params']
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(WAYS[way], 'misfit', staticmethod(lambda *_: None))
    with partitioning.Partitioner(num_partitions=2).context():
      wanted, ours = (
        jax.jit(jax.value_and_grad(loss_of(x, inputs, targets)))(params)
        for x in (plain, fused)
      )
      assert 'Attention' not in capsys.readouterr().err  # nothing fell back
      # Gradients sum some thousand terms, in another order.
      for (path, a), b in zip(
        jax.tree.leaves_with_path(wanted), jax.tree.leaves(ours), strict=True
      ):
        np.testing.assert_allclose(
          b,
          a,
          rtol=2e-3,
          atol=2e-4 * float(jnp.abs(a).max()),
          err_msg=str(path),
        )


def test_minimal_remat_runs_no_forward_kernel_twice(on):
  """The output and sums of the kernel are kept; frozen tables cost nothing."""
  on('pallas')
  made, config = NETWORKS['t5']
  text = np.ones((8, 9), np.int32)
  counts = {}
  for policy in ('minimal', 'full'):
    network = made(config(attention='pallas', remat_policy=policy))
    shapes = jax.eval_shape(made(config()).init, jax.random.key(0), text, text)[
      'params'
    ]
    with partitioning.Partitioner().context():
      jaxpr = jax.make_jaxpr(jax.grad(loss_of(network, text, text)))(shapes)
    names = [
      e.params['name']
      for e, _ in flops.walk(jaxpr.jaxpr)
      if e.primitive.name == 'pallas_call'
    ]
    counts[policy] = [
      names.count(f'attention_{kind}') for kind in ('forward', 'backward')
    ]
  # Two layers of an encoder's, and two of a decoder's two attentions.
  assert counts == {'minimal': [6, 6], 'full': [12, 6]}


# Costs.


def test_flops_of_kernels_are_counted(monkeypatch):
  """By formula: a kernel's body runs once per step of its grid."""
  case = CASES['encoder'] | {'prefix': 0}
  x = arrays(case)
  grad = jax.grad(lambda x: attend(Interpreted, case, x).sum())
  # 45 queries are a block of 48, and 45 keys are 128.
  matmul = 2 * ROWS * HEADS * 48 * 128 * HEAD_DIM
  assert flops.matmul_flops(jax.make_jaxpr(grad)(x).jaxpr) == 7 * matmul

  fake = types.SimpleNamespace(cudnn_get_version=lambda: 91000)
  monkeypatch.setattr(fused_attention_stablehlo, 'cuda_versions', fake)
  x = arrays(case, jnp.bfloat16)
  grad = jax.grad(lambda x: attend(Cudnn, case, x).astype('float32').sum())
  matmul = 2 * ROWS * HEADS * 46 * 46 * HEAD_DIM  # lengths are even
  assert flops.matmul_flops(jax.make_jaxpr(grad)(x).jaxpr) == 7 * matmul


@pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed'
)
@pytest.mark.parametrize('name', CASES)
def test_the_kernel_compiles_for_a_tpu(name):
  """For a v4, the oldest TPU that the kernel is for."""
  from jax.experimental import topologies

  slice_ = topologies.get_topology_desc(
    platform='tpu', topology_name='v4:2x2x1', chip_config_name='megacore'
  )
  part = partitioning.Partitioner(devices=tuple(slice_.devices))
  case = CASES[name]
  x = arrays(case, jnp.bfloat16)
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=part.replicated
    ),
    x,
  )
  with part.context():
    grad = jax.grad(lambda x: attend(Pallas, case, x).astype('float32').sum())
    compiled = jax.jit(grad).lower(shapes).compile()
  assert compiled.as_text().count('tpu_custom_call') >= 2
