"""The state of a run, and the variables of a model from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from hypertuning import trees
from hypertuning.engine import checkpoints
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.warm_start import WarmStart
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Shapes = Mapping[str, tuple[int, ...]]


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds and a step replaces.

  Attributes:
    step: int32, the number of finished steps.
    params: what trains.
    opt_state: the optimizer's state; it has slots for `params` alone.
    frozen: what does not train; the same arrays before and after a step.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  frozen: Any

  def as_saved(self) -> dict[str, Any]:
    """t5x's checkpoint layout."""
    return {
      'target': self.params,
      'flax_mutables': {'frozen': self.frozen},
      'state': {
        'step': self.step,
        # Without the empty states of transformations, as t5x has it.
        'param_states': trees.unflatten_paths(
          trees.flatten_paths(flax.serialization.to_state_dict(self.opt_state))
        ),
      },
    }

  def from_saved(self, saved: Mapping[str, Any]) -> 'TrainState':
    """A state like this one with the values of a checkpoint."""
    empty = flax.traverse_util.flatten_dict(
      flax.serialization.to_state_dict(self.opt_state),
      keep_empty_nodes=True,
      sep='/',
    )
    slots = trees.flatten_paths(saved['state']['param_states'])
    return TrainState(
      step=saved['state']['step'],
      params=saved['target'],
      opt_state=flax.serialization.from_state_dict(
        self.opt_state, trees.unflatten_paths({**empty, **slots})
      ),
      frozen=saved['flax_mutables']['frozen'],
    )


def create_state(
  model: HyperTuningModel, variables: Mapping[str, Any]
) -> TrainState:
  """A state at step 0 from `get_initial_variables`."""
  variables = flax.core.unfreeze(dict(variables))
  params = variables['params']
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=model.optimizer_def.init(params),
    frozen=variables.get('frozen', {}),
  )


def state_shardings(
  model: HyperTuningModel,
  variables: FrozenDict | dict[str, Any],
  partitioner: Partitioner,
) -> TrainState:
  """Where the arrays of a state lie, from abstract initial variables."""
  variables = flax.core.unfreeze(variables)
  params = partitioner.variable_shardings(
    variables['params'], variables['params_axes']
  )
  return TrainState(
    step=partitioner.replicated,  # type: ignore[arg-type]  # as of an array
    params=params,
    opt_state=partitioner.optimizer_shardings(
      model.optimizer_def, variables['params'], params
    ),
    frozen=partitioner.variable_shardings(
      variables.get('frozen', {}),
      variables.get('frozen_axes', {}),
      partitioner.frozen_rules,
    ),
  )


def initial_state(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  seed: int,
  start: WarmStart | None = None,
) -> tuple[TrainState, TrainState]:
  """The state at step 0, and its shardings.

  Args:
    model: the model that trains.
    shapes: shapes of a batch's model features.
    partitioner: says where the arrays lie.
    seed: seed of the random weights.
    start: where weights come from; at random if None or without a path. Weights
      that a checkpoint has are not drawn before they are read.

  Raises:
    UserError: nothing trains, the devices do not divide a weight, or the
      checkpoint is of another model.
  """
  if start is not None and start.path is not None:
    return _warm_state(model, shapes, partitioner, seed, start)
  shardings = abstract_state(model, shapes, partitioner)[1]

  def draw_weights() -> TrainState:
    return create_state(
      model, model.get_initial_variables(jax.random.key(seed), shapes)
    )

  return partitioner.compile(draw_weights, out_shardings=shardings)(), shardings


def abstract_state(
  model: HyperTuningModel, shapes: Shapes, partitioner: Partitioner
) -> tuple[TrainState, TrainState]:
  """`initial_state` without arrays: shapes, types and shardings.

  Raises:
    UserError: nothing trains, or the devices do not divide a weight.
  """
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  if not trees.flatten_paths(variables['params']):
    raise UserError(
      f'TRAINABLE_REGEX = {model.trainable_regex!r} matches no parameter: use '
      "'hypermodel/.*' or 'downstream/.*'."
    )
  shardings = state_shardings(model, variables, partitioner)
  state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    jax.eval_shape(lambda x: create_state(model, x), _without_axes(variables)),
    shardings,
  )
  return state, shardings


def _without_axes(variables: FrozenDict | dict[str, Any]) -> dict[str, Any]:
  """The collections of arrays: names of axes are no arrays."""
  return {
    name: variables[name] for name in ('params', 'frozen') if name in variables
  }


def _warm_state(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  seed: int,
  start: WarmStart,
) -> tuple[TrainState, TrainState]:
  """A state at step 0 with the weights of another run."""
  state, shardings = abstract_state(model, shapes, partitioner)
  filled = start.fill(trees.join(state.params, state.frozen))
  params, frozen = _on_devices(
    model,
    shapes,
    partitioner,
    seed,
    filled,
    (shardings.params, shardings.frozen),
  )
  opt_state = partitioner.compile(
    model.optimizer_def.init, out_shardings=shardings.opt_state
  )(params)
  step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
  return TrainState(step, params, opt_state, frozen), shardings


def restore_variables(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  checkpoint_path: str,
  fresh: str = '',
  seed: int = 0,
) -> tuple[dict, dict]:
  """`(params, frozen)` of a model on the devices, from a checkpoint of it.

  Args:
    model: the model.
    shapes: shapes of a batch's model features.
    partitioner: says where the variables lie.
    checkpoint_path: a run of the model or, where it is the downstream model
      alone, a public T5.
    fresh: regex of the names that start at random if they are not there.
    seed: seed of the names that start at random.

  Raises:
    UserError: there is no checkpoint, or it is of another model.
  """
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(seed), shapes)
  )
  parts = [variables['params'], variables.get('frozen', {})]
  filled = checkpoints.fill(
    trees.join(*parts), checkpoint_path, 'CHECKPOINT_PATH', fresh=fresh
  )
  axes = [variables['params_axes'], variables.get('frozen_axes', {})]
  shardings = [
    partitioner.variable_shardings(part, part_axes)
    for part, part_axes in zip(parts, axes, strict=True)
  ]
  return _on_devices(model, shapes, partitioner, seed, filled, shardings)


def _on_devices(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  seed: int,
  filled: Mapping[str, Any],
  shardings: Sequence[Any],
) -> tuple[dict, dict]:
  """`(params, frozen)` from the variables of a checkpoint.

  Args:
    model: the model.
    shapes: shapes of a batch's model features.
    partitioner: compiles what draws weights.
    seed: seed of the random weights.
    filled: all variables; those that the checkpoint does not have are abstract,
      and are drawn as `initial_state` draws them.
    shardings: shardings of `params` and of `frozen`.
  """
  values = trees.flatten_paths(filled)
  places = trees.flatten_paths(trees.join(*shardings))
  fresh = {
    name: places[name]
    for name, value in values.items()
    if isinstance(value, jax.ShapeDtypeStruct)
  }

  def draw_fresh_weights() -> dict[str, jax.Array]:
    variables = model.get_initial_variables(jax.random.key(seed), shapes)
    drawn = trees.flatten_paths(
      trees.join(variables['params'], variables.get('frozen', {}))
    )
    return {name: drawn[name] for name in fresh}  # jit leaves out the others

  if fresh:
    values |= partitioner.compile(draw_fresh_weights, out_shardings=fresh)()
  parts = trees.split_by_regex(
    trees.unflatten_paths(values), model.trainable_regex
  )
  params, frozen = (
    jax.device_put(part, part_shardings)
    for part, part_shardings in zip(parts, shardings, strict=True)
  )
  return params, frozen
