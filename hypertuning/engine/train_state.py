"""The state of a run, and reading a model's variables from a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.extend.core import jaxpr_as_fun

from hypertuning import trees
from hypertuning.engine import checkpoints
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.warm_start import WarmStart
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

Shapes = Mapping[str, tuple[int, ...]]


@flax.struct.dataclass
class TrainState:
  """The state that a training step replaces and a checkpoint saves.

  Attributes:
    step: number of finished steps, int32 `[]`.
    params: trainable variables.
    opt_state: state of the optimizer, with slots for `params` only.
    frozen: variables that are not trained; a step returns the same arrays.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  frozen: Any

  def as_saved(self) -> dict[str, Any]:
    """The state in t5x's checkpoint layout."""
    return {
      'target': self.params,
      'flax_mutables': {'frozen': self.frozen},
      'state': {
        'step': self.step,
        # As in t5x, the empty states of optax transformations are left out.
        'param_states': trees.unflatten_paths(
          trees.flatten_paths(flax.serialization.to_state_dict(self.opt_state))
        ),
      },
    }

  def from_saved(self, contents: Mapping[str, Any]) -> 'TrainState':
    """A state like this one, with the values of a checkpoint.

    Args:
      contents: values of the checkpoint, in the layout of `as_saved`.
    """
    empty = flax.traverse_util.flatten_dict(
      flax.serialization.to_state_dict(self.opt_state),
      keep_empty_nodes=True,
      sep='/',
    )
    slots = trees.flatten_paths(contents['state']['param_states'])
    return TrainState(
      step=contents['state']['step'],
      params=contents['target'],
      opt_state=flax.serialization.from_state_dict(
        self.opt_state, trees.unflatten_paths({**empty, **slots})
      ),
      frozen=contents['flax_mutables']['frozen'],
    )


def create_state(
  model: HyperTuningModel, variables: Mapping[str, Any]
) -> TrainState:
  """A state at step 0.

  Args:
    model: the model that is trained.
    variables: variables of the model, from `get_initial_variables`.
  """
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
  """The sharding of every array in a state.

  Args:
    model: the model that is trained.
    variables: variables of the model with their axes, from
      `get_initial_variables`; arrays may be abstract.
    partitioner: the devices and the logical axis rules.

  Returns:
    A state with a sharding in place of each array.

  Raises:
    UserError: the devices do not divide a weight.
  """
  variables = flax.core.unfreeze(variables)
  params = partitioner.variable_shardings(
    variables['params'], variables['params_axes']
  )
  return TrainState(
    step=partitioner.replicated,  # type: ignore[arg-type]  # not an array here
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
  save_frozen: bool = True,
) -> tuple[TrainState, TrainState]:
  """The state at step 0, and its shardings.

  Weights that come from a checkpoint are never drawn at random first.

  Args:
    model: the model that is trained.
    shapes: shapes of the model features in a batch.
    partitioner: the devices, and how the arrays are divided over them.
    seed: seed of the random weights.
    start: the checkpoints that weights come from. All weights are random if it
      is None or has no path.
    save_frozen: whether the run saves its frozen variables; if not, none of
      them may be random.

  Returns:
    The state, and a state with a sharding in place of each array.

  Raises:
    UserError: no parameter is trainable, the devices do not divide a weight, or
      the checkpoint does not fit the model.
  """
  if start is not None and start.path is not None:
    return _warm_state(model, shapes, partitioner, seed, start, save_frozen)
  # Traced once, for the names of the axes and for the values.
  drawing, variables = jax.make_jaxpr(
    lambda: model.get_initial_variables(jax.random.key(seed), shapes),
    return_shape=True,
  )()
  shardings = _abstract_state(model, variables, partitioner)[1]

  def draw_weights() -> TrainState:
    drawn = jax.tree.unflatten(
      jax.tree.structure(variables), jaxpr_as_fun(drawing)()
    )
    return create_state(model, drawn)

  return partitioner.compile(draw_weights, out_shardings=shardings)(), shardings


def abstract_state(
  model: HyperTuningModel, shapes: Shapes, partitioner: Partitioner
) -> tuple[TrainState, TrainState]:
  """Like `initial_state`, but with abstract arrays, and without a checkpoint.

  Args:
    model: the model that is trained.
    shapes: shapes of the model features in a batch.
    partitioner: the devices, and how the arrays are divided over them.

  Returns:
    A state of shapes, dtypes and shardings, and a state of shardings alone.

  Raises:
    UserError: no parameter is trainable, or the devices do not divide a weight.
  """
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(0), shapes)
  )
  return _abstract_state(model, variables, partitioner)


def _abstract_state(
  model: HyperTuningModel,
  variables: FrozenDict | dict[str, Any],
  partitioner: Partitioner,
) -> tuple[TrainState, TrainState]:
  """`abstract_state` from abstract variables, which have their axes."""
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
  """The collections that hold arrays; the others hold names of axes."""
  return {
    name: variables[name] for name in ('params', 'frozen') if name in variables
  }


def _warm_state(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  seed: int,
  start: WarmStart,
  save_frozen: bool,
) -> tuple[TrainState, TrainState]:
  """A state at step 0 with weights from checkpoints, and its shardings."""
  state, shardings = abstract_state(model, shapes, partitioner)
  variables = start.fill(trees.join(state.params, state.frozen))
  if not save_frozen:
    _refuse_random(trees.flatten_paths(state.frozen), variables)
  params, frozen = _on_devices(
    model,
    shapes,
    partitioner,
    seed,
    variables,
    (shardings.params, shardings.frozen),
  )
  opt_state = partitioner.compile(
    model.optimizer_def.init, out_shardings=shardings.opt_state
  )(params)
  step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
  return TrainState(step, params, opt_state, frozen), shardings


def _refuse_random(
  frozen: Mapping[str, Any], variables: Mapping[str, Any]
) -> None:
  """Refuses frozen variables that no checkpoint holds.

  Args:
    frozen: the frozen variables by name.
    variables: all variables, a tree; those without a value are abstract arrays.

  Raises:
    UserError: names the first such variable.
  """
  values = trees.flatten_paths(variables)
  for name in frozen:
    if isinstance(values[name], jax.ShapeDtypeStruct):
      raise UserError(
        f'SAVE_FROZEN = False: {name} is frozen and starts at random, as '
        'INITIAL_CHECKPOINT_PATH does not have it, so no other checkpoint '
        'holds it; bind SAVE_FROZEN = True.'
      )


def restore_variables(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  checkpoint_path: str,
  fresh: str = '',
  seed: int = 0,
  moved: Mapping[str, str] | None = None,
) -> tuple[dict, dict]:
  """Reads the variables of a model from a checkpoint.

  Args:
    model: the model.
    shapes: shapes of the model features in a batch.
    partitioner: the devices, and how the variables are divided over them.
    checkpoint_path: folder of a run or of a checkpoint, which may be a public
      T5 if the model is a downstream model alone.
    fresh: regex of the variables that get random values if the checkpoint does
      not have them.
    seed: seed of these random values.
    moved: value of MOVED_CHECKPOINTS, see `checkpoints.read_frozen`.

  Returns:
    `(params, frozen)` on the devices.

  Raises:
    UserError: there is no checkpoint, or it does not fit the model.
  """
  variables = jax.eval_shape(
    lambda: model.get_initial_variables(jax.random.key(seed), shapes)
  )
  parts = [variables['params'], variables.get('frozen', {})]
  values = checkpoints.fill(
    trees.join(*parts),
    checkpoint_path,
    'CHECKPOINT_PATH',
    fresh=fresh,
    moved=moved,
  )
  axes = [variables['params_axes'], variables.get('frozen_axes', {})]
  shardings = [
    partitioner.variable_shardings(part, part_axes)
    for part, part_axes in zip(parts, axes, strict=True)
  ]
  return _on_devices(model, shapes, partitioner, seed, values, shardings)


def _on_devices(
  model: HyperTuningModel,
  shapes: Shapes,
  partitioner: Partitioner,
  seed: int,
  variables_by_name: Mapping[str, Any],
  shardings: Sequence[Any],
) -> tuple[dict, dict]:
  """Puts the variables of a checkpoint on the devices.

  Args:
    model: the model.
    shapes: shapes of the model features in a batch.
    partitioner: partitioner that compiles the drawing of random weights.
    seed: seed of the random weights.
    variables_by_name: all variables of the model. Those that the checkpoint
      does not have are abstract arrays; they get the values that
      `initial_state` draws.
    shardings: the shardings of `params` and those of `frozen`.

  Returns:
    `(params, frozen)`.
  """
  values = trees.flatten_paths(variables_by_name)
  places = trees.flatten_paths(trees.join(*shardings))
  fresh = {
    name: places[name]
    for name, value in values.items()
    if isinstance(value, jax.ShapeDtypeStruct)
  }

  def draw_fresh_weights() -> dict[str, jax.Array]:
    variables = model.get_initial_variables(jax.random.key(seed), shapes)
    random_weights = trees.flatten_paths(
      trees.join(variables['params'], variables.get('frozen', {}))
    )
    # The compiler removes the drawing of all variables that are not returned.
    return {name: random_weights[name] for name in fresh}

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
