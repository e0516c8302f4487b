"""Frozen kernels in 8 and 4 bits: values, gradients, checkpoints, devices."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runner
import scipy.stats
import tiny
import tiny_llama
from jax.sharding import PartitionSpec as P

from hypertuning import quantization, trees
from hypertuning.adapters import LoRASpec, PrefixSpec
from hypertuning.engine import checkpoints, matching, partitioning
from hypertuning.errors import UserError
from hypertuning.hypermodels import gist, heads, hyper_t5
from hypertuning.networks import llama

FORMATS = ('int8', 'nf4')


def _nf4_levels() -> np.ndarray:
  """QLoRA's levels, by the definition in its appendix E."""
  offset = (1 - 1 / 30 + 1 - 1 / 32) / 2
  above = scipy.stats.norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
  below = -scipy.stats.norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
  levels = np.sort([*below, 0, *above])
  return levels / levels.max()


def _reference(kernel: np.ndarray, dtype: str) -> np.ndarray:
  """The nearest values that a format can hold, in float64."""
  *stack, inputs, outputs = kernel.shape
  kernel = kernel.astype(np.float64)
  if dtype == 'int8':
    # The largest value is 127.5 steps away from 0.
    step = np.abs(kernel).max(axis=-2, keepdims=True) / 127.5
    return np.clip(np.round(kernel / step), -128, 127) * step
  size = math.gcd(inputs, 64)
  blocks = kernel.reshape(*stack, inputs // size, size, outputs)
  largest = np.abs(blocks).max(axis=-2, keepdims=True)
  levels = _nf4_levels()
  nearest = np.abs((blocks / largest)[..., None] - levels).argmin(axis=-1)
  return (levels[nearest] * largest).reshape(kernel.shape)


@pytest.mark.parametrize('dtype', FORMATS)
@pytest.mark.parametrize('shape', [(128, 12), (2, 192, 6), (20, 5), (2, 3)])
def test_values_are_the_nearest_ones(dtype, shape):
  kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
  stored = quantization.quantize(jnp.asarray(kernel), dtype)
  assert quantization.is_quantized(stored)
  assert quantization.shape(stored) == shape
  assert quantization.count({'kernel': stored}) == kernel.size
  bits = 8 * stored[dtype].nbytes / kernel.size
  assert bits == {'int8': 8, 'nf4': 4}[dtype]
  values = quantization.dequantize(stored, jnp.float32)
  # A scale is rounded to bfloat16, which has 8 bits. A value between two levels
  # may go to either.
  expected = _reference(kernel, dtype)
  near = np.isclose(values, expected, rtol=2**-8, atol=1e-6)
  assert near.mean() >= 0.99
  gap = np.abs(kernel).max() * {'int8': 1 / 127, 'nf4': 0.31}[dtype]
  assert np.abs(values - kernel).max() < gap


def test_an_odd_number_of_inputs_has_no_pairs():
  with pytest.raises(UserError, match=r"'nf4': a byte .* \(3, 4\).*'int8'"):
    quantization.quantize(jnp.ones((3, 4)), 'nf4')


T5 = tiny.shallow()
LLAMA = tiny_llama.config(tied_embedding=False)
EVEN = LLAMA.replace(
  vocab_size=40,
  emb_dim=64,
  num_heads=4,
  num_kv_heads=4,
  head_dim=16,
  mlp_dim=128,
)
SCANNED = LLAMA.replace(scan_layers=True, remat_policy='minimal')


def _model(cfg, **overrides):
  if hasattr(cfg, 'rotary'):
    lora = LoRASpec(2, 4.0, ('self', 'mlp'), ('query', 'down'))
    network, source = llama.Llama(cfg), gist.Gist(cfg, 3, lora)
  else:
    head = heads.PrefixHead(cfg, PrefixSpec(2), 9)
    network, source = None, hyper_t5.HyperT5(cfg, head)
  downstream = {'downstream': network} if network else {'cfg': cfg}
  return tiny.model(
    hypermodel=source,
    optimizer_def=optax.adam(1e-2),
    **downstream,
    **overrides,
  )


def _abstract(model):
  shapes = {k: v.shape for k, v in tiny.episodes().items()}
  return jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )


@functools.cache
def _floats(cfg):
  """Random trained and frozen variables in float32."""
  parts = _abstract(_model(cfg))
  return tuple(
    tiny.random_params(parts[name], seed)
    for seed, name in enumerate(('params', 'frozen'))
  )


@functools.cache
def _stored(cfg, dtype):
  """The frozen variables, as a checkpoint of floats fills them."""
  target = _abstract(_model(cfg, frozen_dtype=dtype))['frozen']
  frozen, problems = matching.match(
    target, _floats(cfg)[1], matching.SAME, '', ''
  )
  assert not problems
  return frozen


@pytest.mark.parametrize('dtype', FORMATS)
@pytest.mark.parametrize(
  'cfg', [T5, LLAMA, SCANNED], ids=['t5', 'llama', 'scanned']
)
def test_loss_and_gradient_are_those_of_the_rounded_values(cfg, dtype):
  params, floats = _floats(cfg)
  stored = _stored(cfg, dtype)
  rounded, _ = matching.match(floats, stored, matching.SAME, '', '')
  kernels = 0
  for name, value in trees.flatten_paths(rounded).items():
    exact = np.asarray(trees.flatten_paths(floats)[name])
    if name.endswith('/kernel') and 'logits_dense' not in name:
      kernels += 1
      assert np.abs(value - exact).max() > 1e-3
    else:
      np.testing.assert_array_equal(
        value, exact.astype(jnp.bfloat16).astype(np.float32)
      )
  assert kernels
  model, batch = _model(cfg), tiny.episodes()

  @jax.jit
  def loss_and_gradient(frozen):
    return jax.value_and_grad(
      lambda p: model.loss_fn(p, batch, None, {'frozen': frozen})[0]
    )(params)

  # The same float32 operations on the same values.
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    loss_and_gradient(stored),
    loss_and_gradient(rounded),
  )


@pytest.mark.parametrize('dtype, bits', [('int8', 8), ('nf4', 4)])
def test_a_gradient_keeps_no_values_of_kernels(dtype, bits):
  """They are computed again: else all of them would be there at once."""
  model = _model(EVEN, frozen_dtype=dtype)
  parts, batch = _abstract(model), tiny.episodes()

  def loss(params, frozen):
    return model.loss_fn(params, batch, None, {'frozen': frozen})[0]

  arguments = parts['params'], parts['frozen']
  _, backward = jax.eval_shape(lambda *x: jax.vjp(loss, *x), *arguments)
  leaves = trees.flatten_paths(parts['frozen'], quantization.is_quantized)
  kernels = [x for x in leaves.values() if quantization.is_quantized(x)]
  assert len(kernels) == 14
  shapes = {quantization.shape(x) for x in kernels}
  kept = [x for x in jax.tree.leaves(backward) if x.dtype.itemsize > 1]
  assert kept and not {x.shape for x in kept} & shapes
  codes = [x for x in jax.tree.leaves(kernels) if x.dtype.itemsize == 1]
  count = quantization.count(kernels)
  assert 8 * sum(x.size for x in codes) == bits * count


@pytest.mark.parametrize('dtype', FORMATS)
def test_checkpoints_of_both_forms_and_of_scanned_layers(dtype):
  floats, stored = _floats(LLAMA)[1], _stored(LLAMA, dtype)
  scanned = _abstract(_model(SCANNED, frozen_dtype=dtype))['frozen']
  there, problems = matching.match(scanned, floats, matching.SAME, '', '')
  assert not problems
  back, problems = matching.match(stored, there, matching.SAME, '', '')
  assert not problems
  for name, value in trees.flatten_paths(stored).items():
    np.testing.assert_array_equal(trees.flatten_paths(back)[name], value, name)
  other = {'int8': 'nf4', 'nf4': 'int8'}[dtype]
  crossed, problems = matching.match(
    _stored(LLAMA, other), stored, matching.SAME, '', ''
  )
  assert not problems and jax.tree.structure(crossed) == jax.tree.structure(
    _stored(LLAMA, other)
  )


def test_a_kernel_of_another_shape_is_named():
  wide = _abstract(_model(LLAMA.replace(mlp_dim=30), frozen_dtype='nf4'))
  _, problems = matching.match(
    wide['frozen'], _stored(LLAMA, 'nf4'), matching.SAME, '', ''
  )
  assert len(problems) == 6
  assert problems[0] == (
    'downstream/decoder/layers_0/mlp/down/kernel is (30, 20), but '
    'downstream/decoder/layers_0/mlp/down/kernel there is (28, 20)'
  )


@pytest.mark.parametrize(
  'dtype, width, blocks',
  [('int8', 64, None), ('nf4', 256, 'data'), ('nf4', 64, None)],
)
def test_devices_divide_codes_and_blocks_where_they_can(dtype, width, blocks):
  """Four devices divide 256 inputs in four blocks, and not 64 in one."""
  cfg = EVEN.replace(emb_dim=width, scan_layers=True)
  parts = _abstract(_model(cfg, frozen_dtype=dtype))
  partitioner = partitioning.standard(2, parameter_dims=2)
  shardings = trees.flatten_paths(
    partitioner.variable_shardings(parts['frozen'], parts['frozen_axes'])
  )
  name = 'downstream/decoder/layers/mlp/up/kernel'
  assert shardings[f'{name}/{dtype}'].spec == P(None, 'data', 'model')
  assert shardings[f'{name}/scale'].spec == P(None, blocks, 'model')


@pytest.mark.slow
def test_a_run_goes_on_and_is_evaluated(tmp_path):
  """Its checkpoints hold bytes; without them they hold their digests."""
  runner.train(tmp_path / 'base', runner.model(hyper=False), total_steps=1)
  start = {'initial_checkpoint_path': str(tmp_path / 'base')}
  model = runner.model(frozen_dtype='nf4')
  runner.train(tmp_path / 'whole', model, total_steps=4, **start)
  for steps in (2, 4):
    runner.train(
      tmp_path / 'bare', model, total_steps=steps, save_frozen=False, **start
    )
  assert runner.losses(tmp_path / 'whole') == runner.losses(tmp_path / 'bare')
  whole, bare = (
    trees.flatten_paths(checkpoints.restore_variables(str(tmp_path / name)))
    for name in ('whole', 'bare')
  )
  assert whole.keys() == bare.keys()
  for name in whole:
    np.testing.assert_array_equal(whole[name], bare[name], name, strict=True)
  name = 'downstream/encoder/layers_0/mlp/wo/kernel/nf4'
  assert whole[name].dtype == np.uint8
  part = json.loads(
    (tmp_path / 'bare/checkpoint_4/frozen/metadata').read_text('utf-8')
  )
  assert part['variables'][name]['dtype'] == 'uint8'
  rows = [
    runner.evaluate(
      model=runner.model(frozen_dtype=dtype),
      checkpoint_path=str(tmp_path / 'bare'),
      output_dir=str(tmp_path / f'eval_{dtype}'),
      num_batches=1,
    )
    for dtype in ('nf4', None)
  ]
  # The second model stores the rounded values as floats.
  assert len(rows[0]) == 3
  for stored, floats in zip(*rows, strict=True):
    assert stored['loss'] == pytest.approx(floats['loss'], abs=1e-4)
