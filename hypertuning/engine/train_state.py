"""The state of a run and the compiled training step."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from hypertuning import trees
from hypertuning.engine import checkpoints
from hypertuning.engine.partitioning import Partitioner
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Batch = Mapping[str, jax.Array]


@flax.struct.dataclass
class TrainState:
  """What a checkpoint holds and a step replaces.

  Attributes:
    step: int32, the number of finished steps.
    params: what trains.
    opt_state: of the optimizer; it has slots for `params` alone.
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
  model: HyperTuningModel, variables: FrozenDict | dict[str, Any]
) -> TrainState:
  """A state at step 0 from `get_initial_variables`."""
  variables = flax.core.unfreeze(variables)
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
  shapes: Mapping[str, tuple[int, ...]],
  partitioner: Partitioner,
  seed: int,
) -> tuple[TrainState, TrainState]:
  """The state at step 0, and its shardings.

  Raises:
    UserError: nothing trains, or the devices do not divide a weight.
  """
  create, shardings = _state_creator(model, shapes, partitioner, seed)
  return partitioner.compile(create, out_shardings=shardings)(), shardings


def abstract_state(
  model: HyperTuningModel,
  shapes: Mapping[str, tuple[int, ...]],
  partitioner: Partitioner,
) -> tuple[TrainState, TrainState]:
  """`initial_state` without arrays: shapes, types and shardings."""
  create, shardings = _state_creator(model, shapes, partitioner, seed=0)
  state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    jax.eval_shape(create),
    shardings,
  )
  return state, shardings


def _state_creator(
  model: HyperTuningModel,
  shapes: Mapping[str, tuple[int, ...]],
  partitioner: Partitioner,
  seed: int,
) -> tuple[Callable[[], TrainState], TrainState]:
  def variables() -> Any:
    return model.get_initial_variables(jax.random.key(seed), shapes)

  abstract = jax.eval_shape(variables)
  if not trees.flatten_paths(abstract['params']):
    raise UserError(
      f'TRAINABLE_REGEX = {model.trainable_regex!r} matches no parameter: use '
      "'hypermodel/.*' or 'downstream/.*'."
    )
  shardings = state_shardings(model, abstract, partitioner)
  return lambda: create_state(model, variables()), shardings


def warm_start(
  state: TrainState,
  shardings: TrainState,
  trainable_regex: str,
  path: str,
  rules: Sequence[tuple[str, str]],
  fresh: str,
  unused: str,
  teacher: str | None = None,
) -> TrainState:
  """A state with another run's weights; see `checkpoints.fill`."""
  filled = checkpoints.fill(
    trees.join(state.params, state.frozen),
    path,
    'INITIAL_CHECKPOINT_PATH',
    rules,
    fresh,
    unused,
    teacher,
  )
  params, frozen = trees.split_by_regex(filled, trainable_regex)
  return dataclasses.replace(
    state,
    params=jax.device_put(params, shardings.params),
    frozen=jax.device_put(frozen, shardings.frozen),
  )


def restore_variables(
  model: HyperTuningModel,
  shapes: Mapping[str, tuple[int, ...]],
  partitioner: Partitioner,
  checkpoint_path: str,
  fresh: str = '',
  seed: int = 0,
) -> tuple[dict, dict]:
  """`(params, frozen)` of a model on the devices, from a checkpoint of it.

  Args:
    model: the model.
    shapes: of a batch's model features.
    partitioner: says where the variables lie.
    checkpoint_path: a run of the model or, where it is the downstream model
      alone, a public T5.
    fresh: regex of the names that start at random if they are not there.
    seed: of these.

  Raises:
    UserError: there is none, or it is of another model.
  """

  def initial() -> Any:
    return model.get_initial_variables(jax.random.key(seed), shapes)

  variables = (
    partitioner.compile(initial)() if fresh else jax.eval_shape(initial)
  )
  parts = [variables['params'], variables.get('frozen', {})]
  filled = checkpoints.fill(
    trees.join(*parts), checkpoint_path, 'CHECKPOINT_PATH', fresh=fresh
  )
  axes = [variables['params_axes'], variables.get('frozen_axes', {})]
  values = trees.split_by_regex(filled, model.trainable_regex)
  params, frozen = (
    jax.device_put(x, partitioner.variable_shardings(x, x_axes))
    for x, x_axes in zip(values, axes, strict=True)
  )
  return params, frozen
