"""The state of a run and the compiled training step."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict

from hypertuning import checkpoints, trees
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.partitioning import Partitioner

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


def train_step_jit(
  partitioner: Partitioner, shardings: TrainState
) -> dict[str, Any]:
  """How `make_train_step` is compiled: arguments of `jax.jit`."""
  return {
    'donate_argnums': 0,
    'out_shardings': (shardings, partitioner.replicated),
  }


def make_train_step(
  model: HyperTuningModel, num_microbatches: int = 1
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict]]:
  """A step on one global batch.

  The loss is the mean over the target tokens of the whole batch, however many
  microbatches it is computed in: gradients are summed and divided once.

  Args:
    model: whose `loss_fn` gives sums.
    num_microbatches: equal parts of the batch, computed one after the other.

  Returns:
    `(state, batch, rng) -> (state, scalars)`; scalars are `loss`, `accuracy`
    and `grad_norm`.
  """

  def gradients(
    state: TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[Any, dict]:
    def loss_fn(params: Any) -> tuple[jax.Array, dict]:
      loss, (metrics, _) = model.loss_fn(
        params, batch, rng, {'frozen': state.frozen}
      )
      return loss, metrics

    return jax.grad(loss_fn, has_aux=True)(state.params)

  def accumulated(
    state: TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[Any, dict]:
    if num_microbatches == 1:
      return gradients(state, batch, rng)
    # Every microbatch takes episodes from every device: no data moves.
    parts = jax.tree.map(
      lambda x: x.reshape(-1, num_microbatches, *x.shape[1:]).swapaxes(0, 1),
      batch,
    )

    def add(total: Any, part: tuple[Batch, jax.Array]) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, total, gradients(state, *part)), None

    rngs = jax.random.split(rng, num_microbatches)
    first = jax.tree.map(lambda x: x[0], (parts, rngs))
    rest = jax.tree.map(lambda x: x[1:], (parts, rngs))
    return jax.lax.scan(add, gradients(state, *first), rest)[0]

  def train_step(
    state: TrainState, batch: Batch, rng: jax.Array
  ) -> tuple[TrainState, dict]:
    rng = jax.random.fold_in(rng, state.step)
    grads, metrics = accumulated(state, batch, rng)
    # A batch whose targets are all padding has no loss and no gradient.
    tokens = jnp.maximum(metrics['loss'].count, 1)
    grads = jax.tree.map(lambda g: g / tokens, grads)
    updates, opt_state = model.optimizer_def.update(
      grads, state.opt_state, state.params
    )
    scalars = {name: m.total / tokens for name, m in metrics.items()}
    scalars['grad_norm'] = optax.tree.norm(grads)
    state = dataclasses.replace(
      state,
      step=state.step + 1,
      params=optax.apply_updates(state.params, updates),
      opt_state=opt_state,
    )
    return state, scalars

  return train_step
