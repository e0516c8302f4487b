"""The mesh, t5x's rules, and shardings of states, on eight CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runner
from flax.linen import partitioning as flax_partitioning
from jax.sharding import PartitionSpec

from hypertuning import trees
from hypertuning.engine import batching, optim, train_state
from hypertuning.engine.partitioning import (
  Partitioner,
  standard_logical_axis_rules,
)
from hypertuning.errors import UserError


def _axes(*names):
  return {'kernel_axes': flax_partitioning.AxisMetadata(names)}


def _spec(partitioner, names, shape):
  variables = {'kernel': jax.ShapeDtypeStruct(shape, jnp.float32)}
  shardings = partitioner.variable_shardings(variables, _axes(*names))
  return tuple(shardings['kernel'].spec)


def test_mesh_has_all_devices():
  assert dict(Partitioner().mesh.shape) == {'data': 8, 'model': 1}
  assert dict(Partitioner(2).mesh.shape) == {'data': 4, 'model': 2}


@pytest.mark.parametrize('count', [0, 3, 16])
def test_partitions_must_divide_the_devices(count):
  with pytest.raises(UserError, match='NUM_PARTITIONS.* 8 local devices'):
    Partitioner(count).mesh.shape  # noqa: B018


@pytest.mark.parametrize(
  'dims, names, expected',
  [
    # As t5x's standard_logical_axis_rules of the same dimensions.
    ((1, 1), ('embed', 'joined_kv'), (None, 'model')),
    ((1, 1), ('vocab', 'embed'), ('model', None)),
    ((1, 2), ('embed', 'mlp'), ('data', 'model')),
    ((1, 2), ('batch', 'length', 'embed'), ('data', None, None)),
    ((2, 1), ('batch', 'length', 'embed'), ('data', None, 'model')),
    ((2, 1), ('embed', 'mlp'), (None, 'model')),
    ((2, 2), ('vocab', 'embed'), ('model', 'data')),
    ((2, 2), ('layers', 'embed'), (None, 'model')),
  ],
)
def test_rules_are_those_of_t5x(dims, names, expected):
  partitioner = Partitioner(2, standard_logical_axis_rules(*dims))
  spec = _spec(partitioner, names, (8,) * len(names))
  assert spec + (None,) * (len(names) - len(spec)) == expected


def test_unknown_dimensions_are_refused():
  with pytest.raises(UserError, match='parameter_partitioning_dims = 3'):
    standard_logical_axis_rules(1, 3)


def test_axis_that_devices_do_not_divide_is_named():
  with pytest.raises(UserError, match='kernel has an axis of 6.*NUM_PART'):
    _spec(Partitioner(4), ('embed', 'mlp'), (8, 6))


@pytest.mark.parametrize(
  'partitions, batch, microbatches, parts',
  [(1, 12, 1, 8), (2, 6, 1, 4), (1, 24, 2, 16), (8, 3, 2, 2), (1, 0, 1, 8)],
)
def test_batch_that_nothing_divides_is_refused(
  partitions, batch, microbatches, parts
):
  with pytest.raises(UserError, match=f'BATCH_SIZE = {batch}.*of {parts},'):
    Partitioner(partitions).check_batch(batch, microbatches)
  Partitioner(partitions).check_batch(parts, microbatches)


def test_activation_constraints_reach_the_compiler():
  """Flax drops them silently where it sees no mesh."""
  partitioner = Partitioner(2)

  @partitioner.compile
  def double(x):
    return flax_partitioning.with_sharding_constraint(2 * x, ('batch', 'mlp'))

  assert double(np.ones((8, 4))).sharding.spec == PartitionSpec('data', 'model')


@pytest.mark.parametrize('make', [optim.adamw, optim.adafactor])
def test_state_lies_where_its_axes_say(make):
  model = runner.model(optimizer_def=make(1e-3), width=128)
  shapes = batching.input_shapes(runner.LENGTHS, model, 8)
  abstract = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  rules = standard_logical_axis_rules(parameter_partitioning_dims=2)
  shardings = train_state.state_shardings(
    model, abstract, Partitioner(2, rules)
  )
  frozen = trees.flatten_paths(shardings.frozen)
  head = frozen['downstream/decoder/logits_dense/kernel']
  assert head.spec == PartitionSpec('data', 'model')
  whole = Partitioner(2, rules, standard_logical_axis_rules())
  shardings_whole = train_state.state_shardings(model, abstract, whole)
  frozen = trees.flatten_paths(shardings_whole.frozen)
  head = frozen['downstream/decoder/logits_dense/kernel']
  assert head.spec == PartitionSpec(None, 'model')  # whole but for its model's
  assert shardings_whole.params == shardings.params
  params = trees.flatten_paths(shardings.params)
  assert params.keys() == trees.flatten_paths(abstract['params']).keys()
  state = jax.eval_shape(lambda: train_state.create_state(model, abstract))
  # Every slot can be laid out so; moments lie where their weights lie.
  for leaf, sharding in zip(
    jax.tree.leaves(state.opt_state),
    jax.tree.leaves(shardings.opt_state),
    strict=True,
  ):
    sharding.shard_shape(leaf.shape)
  if make is optim.adamw:
    moments = [
      s for s in jax.tree.leaves(shardings.opt_state) if s.spec[:1] == ('data',)
    ]
    weights = [s for s in params.values() if s.spec[:1] == ('data',)]
    assert len(moments) == 2 * len(weights) > 0


@pytest.mark.slow
def test_losses_do_not_depend_on_how_devices_are_used(tmp_path):
  arguments = {
    'model_': runner.model(dropout_rate=0.0),
    'total_steps': 2,
    'batch_size': 16,
  }
  runner.train(tmp_path / 'data', **arguments)
  runner.train(
    tmp_path / 'both',
    **arguments,
    num_partitions=2,
    parameter_partitioning_dims=2,
    frozen_partitioning_dims=1,
  )
  a, b = (runner.losses(tmp_path / name) for name in ('data', 'both'))
  # Sums of float32 in another order.
  for step in a:
    assert a[step] == pytest.approx(b[step], rel=1e-5)
