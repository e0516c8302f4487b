"""Learned adapters: what a hypermodel would generate, as free parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runner
import tiny

from hypertuning import trees
from hypertuning.adapters import LoRASpec, PrefixSpec
from hypertuning.engine import train_state, train_step
from hypertuning.hypermodels import heads, hyper_t5, learned

CONFIG = tiny.shallow()
SPECS = {'prefix': PrefixSpec(2), 'lora': LoRASpec(2)}
HEADS = {
  'prefix': heads.PrefixHead(CONFIG, SPECS['prefix'], 8),
  'lora': heads.LoRAHead(CONFIG, SPECS['lora'], 8),
}
KINDS = pytest.mark.parametrize('kind', SPECS)


@functools.cache
def make(kind):
  return tiny.model(
    CONFIG,
    learned.Learned(CONFIG, SPECS[kind]),
    optimizer_def=optax.sgd(0.5),
  )


@functools.cache
def variables(kind):
  shapes = {k: v.shape for k, v in tiny.episodes().items()}
  return jax.jit(
    lambda: make(kind).get_initial_variables(jax.random.key(0), shapes)
  )()


@KINDS
def test_shapes_are_those_that_the_head_generates(kind):
  batch = tiny.episodes(count=1)
  both = []
  for source in (
    learned.Learned(CONFIG, SPECS[kind]),
    hyper_t5.HyperT5(CONFIG, HEADS[kind]),
  ):
    both.append(
      jax.eval_shape(
        lambda source=source: source.init_with_output(
          jax.random.key(0), batch['hyper_tokens']
        )[0]
      )
    )
  assert both[0] == both[1]


@KINDS
def test_all_episodes_share_one_phi_and_only_it_trains(kind):
  parts = variables(kind)
  names = trees.flatten_paths(parts['params'])
  assert names and all(n.startswith('hypermodel/phi_') for n in names)
  axes = trees.flatten_paths(parts['params_axes'])
  for name, value in names.items():
    assert len(axes[f'{name}_axes'].names) == value.ndim
  mutables = {'frozen': parts['frozen']}
  phi = make(kind).generate_adapters(parts['params'], tiny.episodes(), mutables)
  # One copy for the two episodes.
  assert {leaf.shape[0] for leaf in jax.tree.leaves(phi)} == {1}


def test_lora_starts_as_the_frozen_model_and_learns():
  model, parts = make('lora'), variables('lora')
  batch, mutables = tiny.episodes(), {'frozen': parts['frozen']}

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    return model.loss_fn(params, batch, None, mutables)[0]

  alone = -jax.jit(
    lambda params: model.score_batch(
      params, batch, flax_mutables=mutables, adapters=None
    )
  )(parts['params']).sum()
  value, gradient = loss(parts['params'])
  # One sum in two orders, of about a hundred tokens in float32.
  assert value == pytest.approx(float(alone), rel=1e-6)
  sizes = {
    name: float(jnp.abs(x).max())
    for name, x in trees.flatten_paths(gradient).items()
  }
  # As with a hypermodel's zero head: only `b` can move at first.
  assert all((size > 0) == name.endswith('_b') for name, size in sizes.items())


def test_a_step_lowers_the_loss_and_moves_nothing_else():
  model = make('prefix')
  state = train_state.create_state(model, variables('prefix'))
  step = jax.jit(train_step.make_train_step(model))
  batch, losses = tiny.episodes(), []
  before = jax.device_get(state.frozen)
  for _ in range(5):
    state, scalars = step(state, batch, jax.random.key(0))
    losses.append(float(scalars['loss']))
  assert losses[-1] < losses[0]
  jax.tree.map(np.testing.assert_array_equal, before, state.frozen)


@pytest.mark.slow
def test_gin_puts_them_in_place_of_the_hypermodel(tmp_path):
  """From a run of the downstream model alone, as a command."""
  runner.train(tmp_path / 'downstream', runner.model(hyper=False))
  files = list(runner.TRAIN_FILES)
  files.insert(1, 'gin/models/learned.gin')
  bindings = {
    **runner.TRAIN,
    'PREFIX_SITES': ('encoder_self', 'decoder_self'),
    'MODEL_DIR': str(tmp_path / 'run'),
    'INITIAL_CHECKPOINT_PATH': str(tmp_path / 'downstream'),
    'EVAL_PERIOD': 0,
  }
  del bindings['HEAD_BOTTLENECK']  # no head reads it
  done = runner.run('train', files, bindings)
  assert done.returncode == 0, done.stderr[-2000:]
  # 2 sites x key and value x 2 tokens x 1 layer x 2 heads x 8.
  assert 'trainable params: 128 ' in done.stdout
  assert len(runner.losses(tmp_path / 'run')) == 6
