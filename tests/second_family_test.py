"""A second family goes through everything, with no line of the library changed.

The toy of `helpers/toy_family.py` is a decoder-only network with rotary
positions and grouped heads. T5's own tests of decoding are in tests/networks.
Numbers of pitfalls are those of docs/pitfalls.md.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reader
import runner
import tiny
import toy_family

from hypertuning import adapters as adapters_lib
from hypertuning import trees
from hypertuning.adapters import LoRASpec, PrefixSpec, io
from hypertuning.data.text_format import TextFormat
from hypertuning.engine import partitioning, phi_tuning, train_state, train_step
from hypertuning.hypermodels import learned
from hypertuning.networks import decoding, t5

T5_CONFIG = tiny.shallow()
NETWORKS = {
  't5': t5.T5(T5_CONFIG),
  'toy': toy_family.Toy(toy_family.ToyConfig()),
  'toy scanned': toy_family.Toy(
    toy_family.ToyConfig(scan_layers=True, remat_policy='full')
  ),
}
SPECS = {
  't5': (
    PrefixSpec(3, ('encoder_self', 'decoder_self', 'decoder_cross')),
    LoRASpec(2, 4.0, tuple(T5_CONFIG.sites), ('query', 'out', 'wi_0')),
  ),
  'toy': (
    PrefixSpec(3, ('self',)),
    LoRASpec(2, 4.0, ('self', 'mlp'), ('query', 'key', 'out', 'wi')),
  ),
}
FAMILIES = pytest.mark.parametrize('family', ['t5', 'toy'])
CASES = pytest.mark.parametrize(
  ('family', 'kind'),
  [('toy', 'none'), ('toy', 'lora'), ('toy scanned', 'prefix')],
)


def spec(family, kind):
  return SPECS[family.split()[0]][kind == 'lora']


@functools.cache
def variables(family):
  network = NETWORKS[family]
  tokens = jnp.ones((1, 2), jnp.int32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, tokens)
  return tiny.random_params(shapes['params'])


def phi_of(family, kind, episodes=2):
  """Random phi of the family's spec, None for no phi."""
  if kind == 'none':
    return None
  shapes = spec(family, kind).shapes(NETWORKS[family].config)
  return tiny.filled(shapes, episodes)


@functools.cache
def compiled(family, decode=decoding.greedy, num_decodes=1):
  model = tiny.model(
    downstream=NETWORKS[family],
    decode_fn=decode,
    trainable_regex='downstream/.*',
    text_format=TextFormat(vocabulary=None, end_ids=(1, 5)),
  )

  @jax.jit
  def run(params, batch, phi):
    decodes, aux = model.predict_batch_with_aux(
      {'downstream': params},
      batch,
      jax.random.key(1),
      adapters=phi,
      num_decodes=num_decodes,
      return_all_decodes=True,
    )
    scores = model.score_batch({'downstream': params}, batch, adapters=phi)
    return decodes, aux['scores'], scores

  return run


@functools.cache
def forced(family):
  """Teacher-forced log-probabilities of rows of texts."""
  return jax.jit(
    lambda params, inputs, targets, phi: jax.nn.log_softmax(
      tiny.logits(NETWORKS[family], params, inputs, targets, phi)
    )
  )


@pytest.fixture(scope='module')
def batch():
  """Prompts and targets of different lengths, one query of one token."""
  return tiny.episodes(count=2, queries=3, targets=6)


def log_probs(family, batch, phi, sequences):
  """Summed log-probabilities of `[e, q, n, t]` sequences up to their end."""
  count = sequences.shape[2]
  rows = sequences.reshape(-1, sequences.shape[-1])
  inputs = np.repeat(batch['input_tokens'].reshape(6, -1), count, 0)
  table = np.asarray(forced(family)(variables(family), inputs, rows, phi))
  picked = np.take_along_axis(table, rows[..., None], -1)[..., 0]
  ends = np.isin(rows, (1, 5))
  live = np.cumsum(ends, -1) - ends == 0
  return (picked * live).sum(-1).reshape(sequences.shape[:3]), live


@CASES
def test_scores_are_those_of_single_rows(family, kind, batch):
  """No row sees its neighbours or its padding."""
  phi = phi_of(family, kind)
  _, _, scores = compiled(family)(variables(family), batch, phi)
  for e, q in ((0, 0), (1, 2)):  # the longest text and the shortest
    inputs, targets = batch['input_tokens'][e, q], batch['target_tokens'][e, q]
    # One row alone, as wide as its text.
    inputs, targets = inputs[inputs > 0], targets[targets > 0]
    own = jax.tree.map(lambda x, e=e: x[e : e + 1], phi)
    table = forced(family)(variables(family), inputs[None], targets[None], own)[
      0
    ]
    want = table[np.arange(targets.size), targets].sum()
    np.testing.assert_allclose(scores[e, q], want, atol=2e-4)


@CASES
def test_greedy_equals_an_argmax_loop(family, kind, batch):
  """Pitfall 3: decoding is teacher forcing, in a batch of several lengths."""
  phi = phi_of(family, kind)
  sequences, scores, _ = compiled(family)(variables(family), batch, phi)
  rows = np.zeros((6, 6), np.int32)
  inputs = batch['input_tokens'].reshape(6, -1)
  for i in range(6):
    table = forced(family)(variables(family), inputs, rows, phi)
    rows[:, i] = np.argmax(table[:, i], axis=-1)
  want, live = log_probs(family, batch, phi, rows.reshape(2, 3, 1, 6))
  np.testing.assert_array_equal(sequences.reshape(6, 6), rows * live)
  np.testing.assert_allclose(scores, want, atol=2e-4)
  if kind != 'none':
    plain, _, _ = compiled(family)(variables(family), batch, None)
    assert (np.asarray(plain) != sequences).any()


@pytest.mark.parametrize(
  ('family', 'kind', 'decode'),
  [
    ('toy', 'prefix', decoding.beam_search),
    ('toy scanned', 'lora', decoding.beam_search),
    ('toy', 'lora', decoding.sample),
  ],
)
def test_beams_and_samples_score_as_they_say(family, kind, decode, batch):
  """Pitfall 4: rows keep their own text, memory and phi."""
  phi = phi_of(family, kind)
  sequences, scores, _ = compiled(family, decode, 3)(
    variables(family), batch, phi
  )
  sequences = np.asarray(sequences)
  want, live = log_probs(family, batch, phi, sequences)
  if decode is decoding.beam_search:
    lengths = live.sum(-1).reshape(want.shape)
    want = want / ((5 + lengths) / 6) ** 0.6
  np.testing.assert_allclose(scores, want, atol=5e-4)
  assert len({tuple(x) for x in sequences.reshape(-1, 6)}) > 6


@FAMILIES
@pytest.mark.parametrize('kind', ['prefix', 'lora'])
def test_learned_adapters_train_and_the_network_stays(family, kind, batch):
  network = NETWORKS[family]
  model = tiny.model(
    downstream=network,
    hypermodel=learned.Learned(network.config, spec(family, kind)),
    optimizer_def=optax.adam(0.03),
  )
  shapes = {name: x.shape for name, x in batch.items()}
  parts = jax.jit(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )()
  # t5x's contract: every variable has names for its axes.
  for name in ('params', 'frozen'):
    axes = trees.flatten_paths(parts[f'{name}_axes'])
    for path, leaf in trees.flatten_paths(parts[name]).items():
      assert len(axes[f'{path}_axes'].names) == leaf.ndim, path
  assert all(
    path.startswith('hypermodel/phi_')
    for path in trees.flatten_paths(parts['params'])
  )
  state = train_state.create_state(model, parts)
  before = jax.device_get(state.frozen)
  step = jax.jit(train_step.make_train_step(model))
  losses = []
  for _ in range(8):
    state, scalars = step(state, batch, jax.random.key(0))
    losses.append(float(scalars['loss']))
  assert losses[-1] < losses[0] - 0.1
  jax.tree.map(np.testing.assert_array_equal, before, state.frozen)


@FAMILIES
def test_phi_is_tuned_and_answers(family, batch):
  """The parts of `hypertuning.adapt`: a start, tuning, loss and text."""
  network = NETWORKS[family]
  model = tiny.model(
    downstream=network,
    hypermodel=learned.Learned(network.config, spec(family, 'prefix')),
  )
  shapes = {name: x.shape for name, x in batch.items()}
  parts = jax.jit(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )()
  tuner = phi_tuning.Tuner(
    model,
    optax.adam(0.05),
    parts['params'],
    parts['frozen'],
    partitioning.Partitioner(devices=tuple(jax.devices()[:1])),
  )
  start = tuner.start(batch)
  assert not adapters_lib.is_shared(start)  # a copy for each task
  *_, (steps, _, tuned) = tuner.tune(start, _Same(batch), 6, 6)
  assert steps == 6
  before, after = (
    np.asarray(tuner.answer(phi, batch)['score']).sum(1)
    for phi in (start, tuned)
  )
  assert (after > before + 0.5).all()
  assert tuner.answer(tuned, batch)['text'].shape == (2, 3, 6)


@pytest.mark.parametrize('family', NETWORKS)
def test_a_source_may_run_the_frozen_network(family, batch):
  """One tower in the variables; gradients flow through it, not into it."""
  network = NETWORKS[family]
  model = tiny.model(
    downstream=network,
    hypermodel=reader.Reader(network.config, spec(family, 'prefix')),
    optimizer_def=optax.adam(0.01),
  )
  shapes = {name: x.shape for name, x in batch.items()}
  parts = jax.jit(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )()
  assert {
    path.split('/')[1] for path in trees.flatten_paths(parts['params'])
  } == {f'head_{i}' for i in range(2 * len(spec(family, 'prefix').sites))}
  alone = jax.eval_shape(
    lambda: tiny.model(
      downstream=network, trainable_regex='downstream/.*'
    ).get_initial_variables(jax.random.key(0), shapes)
  )
  for name in ('frozen', 'frozen_axes'):
    assert jax.tree.structure(parts[name]) == jax.tree.structure(
      alone['params' if name == 'frozen' else 'params_axes']
    )
  state = train_state.create_state(model, parts)
  before = jax.device_get(state.frozen)
  step = jax.jit(train_step.make_train_step(model))
  losses = []
  for _ in range(6):
    state, scalars = step(state, batch, jax.random.key(0))
    losses.append(float(scalars['loss']))
  assert losses[-1] < losses[0]
  jax.tree.map(np.testing.assert_array_equal, before, state.frozen)
  # Other examples give another phi.
  generate = jax.jit(model.generate_adapters)
  phi = generate(state.params, batch, {'frozen': state.frozen})
  assert all((leaf[0] != leaf[1]).any() for leaf in jax.tree.leaves(phi))


class _Same:
  """The same batch for ever."""

  def __init__(self, batch):
    self._batch = batch

  def __next__(self):
    return self._batch


@pytest.mark.slow
def test_the_commands_run_the_toy(tmp_path, monkeypatch, capfd):
  """Train, adapt and infer of one gin file, with phi that all tasks share."""
  model = pathlib.Path(toy_family.__file__).with_suffix('.gin')
  data = {
    'MIXTURE_OR_TASK_NAME': runner.TASK,
    'MIXTURE_OR_TASK_MODULE': 'hypertuning.tasks.toy',
    'TASK_FEATURE_LENGTHS': runner.LENGTHS,
    'RANDOM_SEED': 1,
  }
  train = {'TRAIN_STEPS': 8, 'WARMUP_STEPS': 1, 'LEARNING_RATE': 0.1}
  read = {'CHECKPOINT_PATH': str(tmp_path / 'run')}
  bindings = {
    'train': {
      **train,
      'BATCH_SIZE': 8,
      'EVAL_PERIOD': 0,
      'MODEL_DIR': str(tmp_path / 'run'),
    },
    'adapt': {
      **train,
      **read,
      'MAX_TASKS': 8,
      'TEST_VISITS': 1,
      'EVAL_PERIOD': 8,
      'ADAPT_OUTPUT_DIR': str(tmp_path / 'adapt'),
    },
    'infer': {
      **read,
      'INFER_STEPS': 1,
      'SAVE_ADAPTERS': True,
      'INFER_OUTPUT_DIR': str(tmp_path / 'infer'),
    },
  }
  for name, more in bindings.items():
    files = [model, 'gin/optimizers/adamw.gin', f'gin/local/{name}.gin']
    if name == 'infer':
      del files[1]
    code, log = runner.main(name, files, {**data, **more}, monkeypatch, capfd)
    assert code == 0, log
  losses = runner.losses(tmp_path / 'run')
  assert losses[8] < losses[1] - 1
  before, after = runner.read_lines(tmp_path / 'adapt/results.jsonl')
  assert (before['phi'], after['phi']) == ('start', 'tuned')
  assert after['loss'] < before['loss'] - 0.5
  # A row per episode, though they are all the same.
  phi = io.load(tmp_path / 'infer/adapters.safetensors')
  for leaf in jax.tree.leaves(phi):
    assert len(leaf) == 8 and (leaf == leaf[:1]).all()


def test_rows_of_padding_are_finite():
  """No token to attend to must not make a NaN."""
  nothing = np.zeros((2, 4), np.int32)
  for family in ('t5', 'toy'):
    logits = forced(family)(variables(family), nothing, nothing, None)
    assert np.isfinite(logits).all(), family
