"""The vocabulary in blocks: numbers, FLOPs, arrays in programs, devices."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_llama
import torch

from hypertuning import blocks, objectives
from hypertuning.adapters import PrefixSpec
from hypertuning.engine.partitioning import standard
from hypertuning.hypermodels import heads, hyper_t5
from hypertuning.networks import llama, t5
from hypertuning.planning import flops
from hypertuning.predictions import Predictions

SHAPE, WIDTH, VOCAB = (8, 3, 5), 6, 37
TOKENS = math.prod(SHAPE)
# One block; one per column; and two of three columns, one of them padding.
COUNTS = pytest.mark.parametrize('number', [1, 5, 2])
OPTIONS = {'distillation_weight': 0.25, 'label_smoothing': 0.1, 'z_loss': 0.01}


@pytest.fixture
def divide(monkeypatch):
  """A function that sets the number of blocks of a text of five columns."""

  def use(number: int, tokens: int = TOKENS):
    size = math.ceil(4 * tokens * VOCAB / number)
    monkeypatch.setattr(blocks, 'BLOCK_BYTES', size)
    assert blocks.count(tokens, 5, VOCAB) == number

  return use


@pytest.fixture(scope='module')
def arrays():
  rng = np.random.default_rng(0)
  hidden, taught = rng.standard_normal((2, *SHAPE, WIDTH)).astype(np.float32)
  head, other = rng.standard_normal((2, WIDTH, VOCAB)).astype(np.float32)
  targets = tiny.ragged(rng, SHAPE)
  return hidden, taught, head, other, targets


def objective(hidden, head, taught, other, targets):
  return objectives.loss_and_metrics(
    Predictions(hidden, lambda x: x @ head),
    targets,
    (targets > 0).astype(jnp.int32),
    Predictions(taught, lambda x: x @ other),
    **OPTIONS,
  )


def by_torch(hidden, head, taught, other, targets):
  """Loss, sums and gradients in float64, all at once."""
  hidden, head = (
    torch.tensor(x, dtype=torch.float64, requires_grad=True)
    for x in (hidden, head)
  )
  logits, said = hidden @ head, torch.tensor(taught @ other).double()
  targets = torch.tensor(targets).long()
  real = (targets > 0).double()

  def each(smoothing):
    return torch.nn.functional.cross_entropy(
      logits.flatten(0, -2),
      targets.flatten(),
      reduction='none',
      label_smoothing=smoothing,
    ).reshape(targets.shape)

  z = torch.logsumexp(logits, -1) ** 2
  likelihood = ((each(0.1) + 0.01 * z) * real).sum()
  ours, theirs = logits.log_softmax(-1), said.log_softmax(-1)
  divergence = ((theirs.exp() * (theirs - ours)).sum(-1) * real).sum()
  loss = 0.75 * likelihood + 0.25 * divergence
  loss.backward()
  right = ((logits.argmax(-1) == targets) * real).sum()
  scores = -(each(0.0) * real).sum(-1)
  found = loss, likelihood, divergence, right, scores, hidden.grad, head.grad
  return [x.detach().numpy() for x in found]


@COUNTS
def test_numbers_are_those_of_torch(number, divide, arrays):
  divide(number)
  hidden, taught, head, other, targets = arrays
  (loss, metrics), gradients = jax.jit(
    jax.value_and_grad(objective, (0, 1), has_aux=True)
  )(hidden, head, taught, other, targets)
  scores = jax.jit(
    lambda hidden, head: objectives.log_likelihood(
      Predictions(hidden, lambda x: x @ head), targets, targets > 0
    )
  )(hidden, head)
  totals = [metrics[k].total for k in ('loss', 'divergence', 'accuracy')]
  ours = [loss, *totals, scores, *gradients]
  theirs = by_torch(hidden, head, taught, other, targets)
  assert metrics['loss'].count == (targets > 0).sum()
  for a, b in zip(ours, theirs, strict=True):
    # float32 against float64, sums of a hundred terms.
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_a_gradient_of_scores_is_that_of_the_loss(divide, arrays):
  divide(5)
  hidden, _, head, _, targets = arrays
  weights = (targets > 0).astype(np.float32)
  model = Predictions(hidden, lambda x: x @ head)

  def loss(hidden):
    predicted = Predictions(hidden, model.logits)
    return objectives.loss_and_metrics(predicted, targets, weights)[0]

  def scores(hidden):
    predicted = Predictions(hidden, model.logits)
    return objectives.log_likelihood(predicted, targets, weights).sum()

  np.testing.assert_allclose(
    jax.grad(scores)(hidden), -jax.grad(loss)(hidden), atol=1e-6
  )
  # The metrics are constants, and so is what has no target.
  loss_alone = jax.grad(lambda x: loss(x) * 3)(hidden)
  np.testing.assert_allclose(loss_alone, 3 * jax.grad(loss)(hidden), rtol=1e-6)
  assert not np.any(np.asarray(loss_alone)[targets == 0])


@pytest.mark.parametrize('number', [1, 5])
def test_no_matmul_is_computed_twice_or_for_nothing(number, divide, arrays):
  divide(number)
  hidden, taught, head, other, targets = arrays
  once = 2 * TOKENS * WIDTH * VOCAB

  def count(function):
    jaxpr = jax.make_jaxpr(function)(hidden, head, taught, other, targets)
    return flops.matmul_flops(jaxpr.jaxpr) / once

  def gradient(*arguments):
    return lambda *args: jax.grad(objective, arguments, has_aux=True)(*args)

  # The teacher's logits are one of them.
  assert count(objective) == 2
  assert count(gradient(0)) == 3
  assert count(gradient(0, 1)) == 4
  # The same where the gradient is taken of a compiled function.
  outer = jax.grad(jax.jit(objective), has_aux=True)
  assert count(outer) == 3


def test_sharded_sums_equal_others(divide, arrays):
  """Rows over four devices, the vocabulary over two."""
  hidden, taught, head, other, targets = arrays
  run = jax.value_and_grad(objective, (0, 1), has_aux=True)
  partitioner = standard(num_partitions=2)
  divide(5)
  with partitioner.context():
    assert blocks.count(TOKENS, 5, VOCAB) == 1  # each device has an eighth
  divide(5, TOKENS // 8)
  with partitioner.context():
    assert blocks.count(TOKENS, 5, VOCAB) == 5
  vocab = jax.NamedSharding(
    partitioner.mesh, jax.sharding.PartitionSpec(None, 'model')
  )
  rows = partitioner.batch
  # Two devices divide 38.
  padded = [np.pad(x, [(0, 0), (0, 1)]) for x in (head, other)]
  unsharded = jax.jit(run)(hidden, padded[0], taught, padded[1], targets)
  found = partitioner.compile(
    run, in_shardings=(rows, vocab, rows, vocab, rows)
  )(hidden, padded[0], taught, padded[1], targets)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    unsharded,
  )


# Whole models.

T5 = t5.T5(tiny.shallow(scan_layers=True, remat_policy='full'))
LLAMA = tiny_llama.config(num_layers=1, scan_layers=True)
NETWORKS = {
  't5': T5,
  't5 tied': t5.T5(tiny.shallow(logits_via_embedding=True)),
  'llama': llama.Llama(LLAMA),
  'llama tied': llama.Llama(LLAMA.replace(tied_embedding=True)),
}
QUERIES = 6 * 5


def step(name: str, is_trained: bool, is_taught: bool, dtype=jnp.float32):
  """A gradient step of a tiny model, and its abstract arguments."""
  network = NETWORKS[name]
  network = type(network)(network.config.replace(dtype=dtype))
  source = None
  if not is_trained:
    spec = PrefixSpec(2, ('decoder_self',) if 't5' in name else ('self',))
    head = heads.PrefixHead(network.config, spec, 8)
    source = hyper_t5.HyperT5(tiny.shallow(), head)
  model = tiny.model(
    downstream=network,
    hypermodel=source,
    trainable_regex='downstream/.*' if is_trained else 'hypermodel/.*',
    distillation_weight=0.5 * is_taught,
  )
  batch = tiny.episodes()
  if is_taught:
    batch['teacher_tokens'] = batch['input_tokens']
  shapes = {k: v.shape for k, v in batch.items()}
  parts = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  mutables = {'frozen': parts.get('frozen', {})}

  def run(params, mutables, batch):
    loss, _ = model.loss_fn(params, batch, None, mutables)
    return loss

  def both(params, mutables, batch):
    scores = model.score_batch(params, batch, flax_mutables=mutables)
    return jax.value_and_grad(run)(params, mutables, batch), scores

  return both, (parts['params'], mutables, batch)


def large_arrays(shapes) -> list:
  """Shapes with the vocabulary as an axis and at least all tokens."""
  return [s for s in shapes if VOCAB in s and math.prod(s) >= QUERIES * VOCAB]


def float32_shapes(jaxpr) -> set:
  return {
    v.aval.shape
    for equation, _ in flops.walk(jaxpr)
    for v in equation.outvars
    if getattr(v.aval, 'dtype', None) == jnp.float32
  }


@pytest.mark.parametrize(
  'name, is_trained, is_taught',
  [
    *itertools.product(['t5', 'llama'], [False, True], [False, True]),
    *itertools.product(['t5 tied', 'llama tied'], [True], [True]),
  ],
)
def test_no_array_has_all_tokens_and_the_vocabulary(
  name, is_trained, is_taught, divide
):
  run, arguments = step(name, is_trained, is_taught)
  jaxpr = jax.make_jaxpr(run)(*arguments).jaxpr
  assert large_arrays(float32_shapes(jaxpr))  # the test can fail
  whole = flops.matmul_flops(jaxpr)
  divide(5, QUERIES)
  jaxpr = jax.make_jaxpr(lambda *args: run(*args))(*arguments).jaxpr
  assert not large_arrays(float32_shapes(jaxpr))
  assert flops.matmul_flops(jaxpr) == whole


@pytest.mark.parametrize('name, is_trained', [('t5', False), ('llama', True)])
def test_no_compiled_array_has_either(name, is_trained, divide):
  divide(5, QUERIES)
  run, arguments = step(name, is_trained, True)
  text = jax.jit(run).lower(*arguments).compile().as_text()
  shapes = [
    tuple(int(n) for n in found.split(','))
    for found in re.findall(r'f32\[([\d,]+)\]', text)
  ]
  assert shapes and not large_arrays(shapes)


def test_full_size_models_take_blocks_of_a_thousand_tokens():
  # HyperT5 of T5-Large's size, 32 rows of 128; HyperLlama, 128 of 80.
  assert blocks.count(32 * 128, 128, 32128) == 4
  assert blocks.count(128 * 80, 80, 49152) == 16
  assert blocks.count(64 * 8, 8, 512) == 1
  assert blocks.count(5 * 997, 997, 32128) == 5  # a prime length
