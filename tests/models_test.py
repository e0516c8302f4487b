"""The model object: losses by hand, phi given or generated, t5x's contract.

Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from hypertuning import objectives, trees
from hypertuning.adapters import LoRASpec, PrefixSpec
from hypertuning.errors import UserError
from hypertuning.hypermodels import heads, hyper_t5
from hypertuning.models import TOKENS
from hypertuning.networks import decoding, t5
from hypertuning.planning import flops
from hypertuning.predictions import Predictions

# One layer each: what layers do is the other tests' business.
CONFIG = tiny.shallow()
HEADS = {
  'prefix': heads.PrefixHead(CONFIG, PrefixSpec(2), 8),
  'lora': heads.LoRAHead(CONFIG, LoRASpec(2), 8),
}
TEXT = ('input_tokens', 'target_tokens')
KINDS = pytest.mark.parametrize('kind', [*HEADS, None])
PHI_KINDS = pytest.mark.parametrize('kind', HEADS)


@functools.cache
def make(kind, **overrides):
  hypermodel = None if kind is None else hyper_t5.HyperT5(CONFIG, HEADS[kind])
  regex = 'downstream/.*' if kind is None else 'hypermodel/.*'
  return tiny.model(CONFIG, hypermodel, trainable_regex=regex, **overrides)


@pytest.fixture(scope='module')
def batch():
  return tiny.episodes()


@functools.cache
def variables(kind):
  """`(params, flax_mutables)` with random weights everywhere."""
  shapes = {k: v.shape for k, v in tiny.episodes().items()}
  abstract = jax.eval_shape(
    lambda: make(kind).get_initial_variables(jax.random.key(0), shapes)
  )
  params = tiny.random_params(abstract['params'], 1)
  if 'frozen' not in abstract:
    return params, None
  return params, {'frozen': tiny.random_params(abstract['frozen'], 2)}


@functools.cache
def compiled(kind, method: str):
  """A jitted method of a model, `(params, mutables, batch[, adapters])`."""
  model = make(kind)

  def run(params, mutables, batch, adapters):
    if method == 'loss':
      return model.eval_fn(params, batch, mutables)
    if method == 'generate':
      return model.generate_adapters(params, batch, mutables)
    return getattr(model, method)(
      params, batch, flax_mutables=mutables, adapters=adapters
    )

  return jax.jit(run), jax.jit(functools.partial(run, adapters='generate'))


def call(kind, method, batch, *adapters):
  """With the given adapters, or those that the batch's examples generate."""
  given, generated = compiled(kind, method)
  params, mutables = variables(kind)
  run = given if adapters else generated
  return run(params, mutables, batch, *adapters)


@functools.cache
def downstream_logits():
  return jax.jit(
    lambda params, text, phi: tiny.logits(t5.T5(CONFIG), params, *text, phi)
  )


def log_probs_by_hand(kind, batch):
  """float64 log-probabilities `[E, Q, T, V]`, one query after the other."""
  params, mutables = variables(kind)
  tree = trees.join(params, (mutables or {}).get('frozen', {}))
  phi = call(kind, 'generate', batch)
  shape = batch['target_tokens'].shape
  out = np.zeros((*shape, tiny.VOCAB))
  for e, q in np.ndindex(*shape[:2]):
    text = [batch[name][e : e + 1, q] for name in TEXT]
    own = jax.tree.map(lambda x, e=e: x[e : e + 1], phi)
    out[e, q] = downstream_logits()(tree['downstream'], text, own)[0]
  out -= out.max(-1, keepdims=True)
  return out - np.log(np.exp(out).sum(-1, keepdims=True))


@KINDS
def test_loss_by_hand(kind, batch):
  """Sum over real target tokens; padding adds nothing (pitfalls 15, 17)."""
  log_probs = log_probs_by_hand(kind, batch)
  targets = batch['target_tokens']
  right, count = 0, 0
  per_query = np.zeros(targets.shape[:2])
  for e, q, t in np.ndindex(*targets.shape):
    if targets[e, q, t]:
      per_query[e, q] += log_probs[e, q, t, targets[e, q, t]]
      right += log_probs[e, q, t].argmax() == targets[e, q, t]
      count += 1
  want = -per_query.sum()
  loss, metrics = call(kind, 'loss', batch)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  assert metrics['loss'].count == count == (targets > 0).sum() < targets.size
  np.testing.assert_allclose(metrics['loss'].compute(), want / count, rtol=1e-5)
  assert metrics['accuracy'].total == right
  # EOS counts; a score is the negative loss of one query.
  scores = call(kind, 'score_batch', batch)
  assert scores.shape == (2, 3) and scores.dtype == jnp.float32
  np.testing.assert_allclose(scores, per_query, rtol=1e-5)


def test_smoothing_and_z_loss_by_hand(batch):
  rng = np.random.default_rng(0)
  logits = rng.normal(0, 2, (2, 3, 5, tiny.VOCAB))
  targets = batch['target_tokens']
  z = np.log(np.exp(logits).sum(-1))
  log_probs = logits - z[..., None]
  picked = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
  each = -0.9 * picked - 0.1 * log_probs.mean(-1) + 0.01 * z**2
  loss, _ = objectives.loss_and_metrics(
    Predictions(jnp.asarray(logits, jnp.float32), lambda x: x),
    targets,
    batch['target_weights'],
    label_smoothing=0.1,
    z_loss=0.01,
  )
  np.testing.assert_allclose(loss, each[targets > 0].sum(), rtol=1e-5)


def test_the_loss_is_divided_by_a_number_or_by_the_tokens(batch):
  params, mutables = variables(None)

  def loss(**normalizing):
    return make(None, **normalizing).eval_fn(params, batch, mutables)[0]

  whole = loss()
  seventh = loss(loss_normalizing_factor=7.0)
  np.testing.assert_allclose(seventh, whole / 7, rtol=1e-5)
  count = (batch['target_tokens'] > 0).sum()
  mean = loss(loss_normalizing_factor=TOKENS)
  np.testing.assert_allclose(mean, whole / count, rtol=1e-5)
  with pytest.raises(UserError, match="loss_normalizing_factor = 'tokens'"):
    make(None, loss_normalizing_factor='tokens')


def test_padding_contributes_nothing(batch):
  """Wider padding everywhere gives the same loss (pitfalls 1, 15)."""
  wider = {
    k: np.pad(v, [(0, 0)] * (v.ndim - 1) + [(0, 4)]) for k, v in batch.items()
  }
  loss, metrics = call('lora', 'loss', batch)
  wide_loss, wide_metrics = call('lora', 'loss', wider)
  np.testing.assert_allclose(wide_loss, loss, rtol=1e-5)
  assert wide_metrics['loss'].count == metrics['loss'].count


def test_rows_without_targets_add_no_loss_and_no_nan(batch):
  """Pitfall 17: a query, an episode and a batch whose targets are all cut."""
  kind = 'prefix'
  grad = jax.jit(
    jax.value_and_grad(lambda p, m, b: make(kind).eval_fn(p, b, m)[0])
  )
  params, mutables = variables(kind)
  scores = call(kind, 'score_batch', batch)
  empty = {k: v.copy() for k, v in batch.items()}
  for name in (
    'target_tokens',
    'target_weights',
  ):
    empty[name][0, 1] = 0
    empty[name][1] = 0
  empty['input_tokens'][0, 1] = 0
  empty['hyper_tokens'][1] = 0
  loss, grads = grad(params, mutables, empty)
  np.testing.assert_allclose(loss, -(scores[0, 0] + scores[0, 2]), rtol=1e-5)
  assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
  assert any(g.any() for g in jax.tree.leaves(grads))
  nothing = {k: np.zeros_like(v) for k, v in batch.items()}
  loss, grads = grad(params, mutables, nothing)
  assert loss == 0 and not any(g.any() for g in jax.tree.leaves(grads))


def test_labels_are_shifted_once(batch):
  """Pitfall 16: a target token is not seen where it is predicted.

  Token t changes the loss of t and of what follows, never of what is before.
  """
  kind = 'prefix'
  changed = {k: v.copy() for k, v in batch.items()}
  changed['target_tokens'][0, 0, 2] += 1
  before, after = (log_probs_by_hand(kind, x)[0, 0] for x in (batch, changed))
  np.testing.assert_allclose(after[:3], before[:3], atol=1e-5)
  assert np.abs(after[3] - before[3]).max() > 1e-2
  # What greedy decoding writes scores as decoding says it does: inputs,
  # targets and weights are aligned.
  tokens, aux = call(kind, 'predict_batch_with_aux', batch)
  tokens = np.asarray(tokens)
  written = np.cumsum(tokens == 1, -1) - (tokens == 1) == 0
  assert (tokens[written] > 0).all()
  scored = {
    **batch,
    'target_tokens': tokens,
    'target_weights': written.astype(np.int32),
  }
  scores = call(kind, 'score_batch', scored)
  np.testing.assert_allclose(scores, aux['scores'], atol=1e-4)


def test_given_phi_equals_generated_phi(batch):
  kind = 'prefix'
  phi = call(kind, 'generate', batch)
  assert all(x.shape[0] == 2 for x in jax.tree.leaves(phi))
  scores = call(kind, 'score_batch', batch)
  given = call(kind, 'score_batch', batch, phi)
  np.testing.assert_allclose(given, scores, rtol=1e-5)
  # A given phi is used whatever the batch's examples say.
  other = {**batch, 'hyper_tokens': batch['hyper_tokens'][::-1]}
  np.testing.assert_array_equal(call(kind, 'score_batch', other, phi), given)
  assert np.abs(call(kind, 'score_batch', other) - scores).max() > 0.1
  # None is the frozen model alone.
  params, mutables = variables(kind)
  none = call(kind, 'score_batch', batch, None)
  assert np.abs(none - scores).max() > 0.1
  alone = jax.jit(make(None).score_batch)(
    {'downstream': mutables['frozen']['downstream']}, batch
  )
  np.testing.assert_allclose(none, alone, rtol=1e-5)


def test_predict_with_phi_given_generated_and_none(batch):
  kind = 'lora'
  generated, aux = call(kind, 'predict_batch_with_aux', batch)
  assert generated.shape == (2, 3, 5) and generated.dtype == jnp.int32
  assert aux['scores'].shape == (2, 3)
  phi = call(kind, 'generate', batch)
  given, given_aux = call(kind, 'predict_batch_with_aux', batch, phi)
  np.testing.assert_array_equal(given, generated)
  np.testing.assert_allclose(given_aux['scores'], aux['scores'], atol=1e-5)
  none = call(kind, 'predict_batch_with_aux', batch, None)[0]
  assert (none != generated).any()


@PHI_KINDS
def test_phi_is_reused_over_queries(kind, batch):
  """Pitfall 23: three queries at once, and one by one with the same phi."""
  phi = call(kind, 'generate', batch)
  together = call(kind, 'score_batch', batch, phi)
  for q in range(3):
    one = {
      k: v if k == 'hyper_tokens' else v[:, q : q + 1] for k, v in batch.items()
    }
    scores = call(kind, 'score_batch', one, phi)
    np.testing.assert_allclose(scores[:, 0], together[:, q], rtol=1e-5)


def test_phi_is_generated_once_an_episode(batch):
  """However many queries and decodes: the hypermodel runs on [episodes]."""
  model = make('prefix', decode_fn=decoding.beam_search)
  params, mutables = variables('prefix')
  jaxpr = jax.make_jaxpr(
    lambda p, m: model.predict_batch(p, batch, flax_mutables=m)
  )(params, mutables)
  # The prefix head's output matrix is of a shape of its own.
  shape = params['hypermodel']['head']['encoder_self']['wo']['kernel'].shape
  runs = [
    e.outvars[0].aval.shape
    for e, _ in flops.walk(jaxpr.jaxpr)
    if e.primitive.name == 'dot_general' and e.invars[1].aval.shape == shape
  ]
  # [episodes * prefix, ...] for two sites
  assert runs == [(2 * 2, shape[1])] * 2


def test_padded_queries_are_not_decoded(batch):
  """Queries without a token, and episodes that fill up a batch."""
  batch = {k: np.array(v) for k, v in batch.items()}
  whole, _ = run_predict(batch)
  for name in ('input_tokens', 'target_tokens', 'target_weights'):
    batch[name][0, 2] = 0
  padded, scores = run_predict(batch)
  assert not padded[0, 2].any() and scores[0, 2] == 0
  np.testing.assert_array_equal(padded[0, :2], whole[0, :2])
  np.testing.assert_array_equal(padded[1], whole[1])
  # An empty query is asked, if only for the end of its answer.
  batch['target_weights'][0, 2, 0] = 1
  assert run_predict(batch)[0][0, 2].any()
  padded, _ = run_predict({**batch, 'is_real': np.array([1, 0])})
  np.testing.assert_array_equal(padded[0, :2], whole[0, :2])
  assert not padded[1].any()


def run_predict(batch):
  tokens, aux = jax.jit(make(None).predict_batch_with_aux)(
    variables(None)[0], batch
  )
  return np.asarray(tokens), np.asarray(aux['scores'])


def test_all_decodes_come_best_last_and_the_best_alone(batch):
  """With a decode function that says which decode and which query it is."""

  def decode_fn(step, memory, **kwargs):
    assert kwargs['marker'] == 9  # from decoder_params
    shape = (memory.first.size, kwargs['num_decodes'])
    marks = jnp.arange(np.prod(shape)).reshape(shape)
    tokens = jnp.broadcast_to(marks[..., None], (*shape, memory.length))
    return tokens, marks.astype(jnp.float32)

  model = make(None, decode_fn=decode_fn)
  predict = functools.partial(
    model.predict_batch_with_aux,
    variables(None)[0],
    batch,
    decoder_params={'marker': 9},
    num_decodes=4,
  )
  tokens, aux = predict(return_all_decodes=True)
  assert tokens.shape == (2, 3, 4, 5)
  np.testing.assert_array_equal(aux['scores'], np.arange(24).reshape(2, 3, 4))
  tokens, aux = predict()
  assert tokens.shape == (2, 3, 5)
  np.testing.assert_array_equal(
    aux['scores'], np.arange(3, 24, 4).reshape(2, 3)
  )
  np.testing.assert_array_equal(tokens[..., 0], aux['scores'])


def test_eval_is_deterministic_and_training_drops(batch):
  noisy = tiny.model(CONFIG.replace(dropout_rate=0.3))
  params, _ = variables(None)
  run = jax.jit(lambda rng: noisy.loss_fn(params, batch, rng)[0])
  quiet = jax.jit(lambda p: noisy.eval_fn(p, batch)[0])
  assert quiet(params) == quiet(params)
  np.testing.assert_allclose(
    quiet(params), call(None, 'loss', batch)[0], rtol=1e-5
  )
  one, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
  assert one == again and abs(one - other) > 1e-2


# t5x's contract, by signature and by what comes back.


def test_methods_have_the_names_and_arguments_t5x_looks_for():
  model = make('prefix')
  assert inspect.ismethod(model.get_initial_variables)
  want = {
    'get_initial_variables': ['rng', 'input_shapes', 'input_types'],
    'loss_fn': ['params', 'batch', 'dropout_rng', 'flax_mutables'],
    'eval_fn': ['params', 'batch', 'flax_mutables'],
    'predict_batch': ['params', 'batch', 'rng', 'flax_mutables'],
    'predict_batch_with_aux': [
      'params',
      'batch',
      'rng',
      'return_all_decodes',
      'num_decodes',
      'flax_mutables',
    ],
    'score_batch': [
      'params',
      'batch',
      'return_intermediates',
      'flax_mutables',
    ],
  }
  for name, arguments in want.items():
    signature = list(inspect.signature(getattr(model, name)).parameters)
    assert set(arguments) <= set(signature), name
    # t5x gives these by position.
    first = [a for a in arguments if a != 'flax_mutables'][:2]
    assert signature[: len(first)] == first, name
  for name in (
    'FEATURE_CONVERTER_CLS',
    'optimizer_def',
    'input_vocabulary',
    'output_vocabulary',
  ):
    assert hasattr(type(model), name) or hasattr(model, name)


def test_loss_fn_returns_what_t5x_expects_with_and_without_mutables(batch):
  params, mutables = variables('prefix')
  loss, (metrics, back) = jax.eval_shape(
    lambda p, m: make('prefix').loss_fn(p, batch, None, m), params, mutables
  )
  assert loss.shape == () and set(metrics) == {'loss', 'accuracy'}
  assert jax.tree.structure(back) == jax.tree.structure(mutables)
  whole, none = variables(None)
  assert none is None
  loss, metrics = jax.eval_shape(
    lambda p, rng: make(None).loss_fn(p, batch, rng), whole, jax.random.key(0)
  )
  assert loss.shape == () and set(metrics) == {'loss', 'accuracy'}
  tokens = jax.eval_shape(
    lambda p, m: make('prefix').predict_batch(p, batch, flax_mutables=m),
    params,
    mutables,
  )
  assert tokens.shape == (2, 3, 5)


@KINDS
def test_initial_variables_have_axes_for_every_leaf(kind):
  shapes = {k: (8, *v.shape[1:]) for k, v in tiny.episodes().items()}
  init = jax.eval_shape(
    lambda: make(kind).get_initial_variables(jax.random.key(0), shapes)
  )
  collections = {'params', 'params_axes'}
  if kind is not None:
    collections |= {'frozen', 'frozen_axes'}
  assert set(init) == collections
  for name in ('params', 'frozen'):
    if name not in init:
      continue
    leaves = trees.flatten_paths(init[name])
    axes = trees.flatten_paths(init[f'{name}_axes'])
    assert {f'{path}_axes' for path in leaves} == set(axes)
    for path, leaf in leaves.items():
      assert len(axes[f'{path}_axes'].names) == leaf.ndim, path
