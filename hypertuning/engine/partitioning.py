"""One mesh over the local devices, and t5x's standard logical axis rules."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax.linen import partitioning as flax_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypertuning import trees
from hypertuning.errors import UserError

Rules = tuple[tuple[str, str | None], ...]
_REPLICATED = (
  'kv',
  # Fewer key and value heads than query heads may not divide the devices.
  'kv_heads',
  'joined_kv_heads',
  'relpos_buckets',
  'abspos_buckets',
  'length',
  'layers',
  'stack',
  'mlp_activations',
)


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1, parameter_partitioning_dims: int = 1
) -> Rules:
  """t5x's rules: which logical axis of an array lies along which mesh axis.

  Args:
    activation_partitioning_dims: 2 divides the embedding axis of activations
      (and of parameters) over `model`.
    parameter_partitioning_dims: 2 divides the embedding axis of parameters over
      `data` as well, as fully sharded data parallelism does.

  Returns:
    Pairs (logical axis, mesh axis or None); earlier ones come first.

  Raises:
    UserError: another number of dimensions.
  """
  for name, dims in (
    ('activation_partitioning_dims', activation_partitioning_dims),
    ('parameter_partitioning_dims', parameter_partitioning_dims),
  ):
    if dims not in (1, 2):
      raise UserError(f'{name} = {dims}: must be 1 or 2.')
  embed: list[tuple[str, str | None]]
  embed = [('embed', 'model')] * (activation_partitioning_dims == 2)
  embed += [('embed', 'data')] * (parameter_partitioning_dims == 2)
  return (
    ('batch', 'data'),
    ('vocab', 'model'),
    ('mlp', 'model'),
    ('heads', 'model'),
    ('joined_kv', 'model'),
    *(embed or [('embed', None)]),
    *((name, None) for name in _REPLICATED),
  )


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh `('data', 'model')` over devices, and axis rules.

  Attributes:
    num_partitions: devices over which one model is divided; the others work on
      other parts of the batch.
    rules: see `standard_logical_axis_rules`.
    frozen_rules: of what does not train; `rules` if None. A frozen tower in
      bfloat16 that every data-parallel device holds whole need not be gathered.
    devices: all local ones if None; those of a topology will do.
  """

  num_partitions: int = 1
  rules: Rules = standard_logical_axis_rules()
  frozen_rules: Rules | None = None
  devices: tuple[Any, ...] | None = None

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The devices.

    Raises:
      UserError: `num_partitions` does not divide them.
    """
    devices = self.devices or jax.local_devices()
    if self.num_partitions < 1 or len(devices) % self.num_partitions:
      whose = 'devices of the topology' if self.devices else 'local devices'
      raise UserError(
        f'NUM_PARTITIONS = {self.num_partitions} does not divide the '
        f'{len(devices)} {whose}.'
      )
    grid = np.array(devices).reshape(-1, self.num_partitions)
    return Mesh(grid, ('data', 'model'))

  @property
  def replicated(self) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch(self) -> NamedSharding:
    """The leading axis (episodes) divided over the data-parallel devices."""
    return NamedSharding(self.mesh, PartitionSpec('data'))

  def check_batch(self, batch_size: int, num_microbatches: int = 1) -> None:
    """Refuses a batch that devices and microbatches do not divide.

    Raises:
      UserError: names BATCH_SIZE and what it must be a multiple of.
    """
    devices = self.mesh.shape['data']
    if num_microbatches < 1:
      raise UserError(f'NUM_MICROBATCHES = {num_microbatches}: 1 at least.')
    parts = devices * num_microbatches
    if batch_size < 1 or batch_size % parts:
      raise UserError(
        f'BATCH_SIZE = {batch_size} is not a multiple of {parts}, which is '
        f'{devices} data-parallel devices x NUM_MICROBATCHES = '
        f'{num_microbatches}.'
      )

  def variable_shardings(
    self,
    variables: Mapping[str, Any],
    axes: Mapping[str, Any],
    rules: Rules | None = None,
  ) -> dict:
    """Shardings of a collection from its `..._axes` collection.

    Args:
      variables: such as `params`, abstract arrays will do.
      axes: such as `params_axes`: `kernel_axes` names the axes of `kernel`.
      rules: such as `frozen_rules`; `rules` if None.

    Returns:
      The nesting of `variables`, a `NamedSharding` each.

    Raises:
      UserError: an axis is not divided by the devices it should lie on.
    """
    shapes = {k: x.shape for k, x in trees.flatten_paths(variables).items()}
    shardings = {}
    for path, names in trees.flatten_paths(axes).items():
      name = path.removesuffix('_axes')
      spec = flax_partitioning.logical_to_mesh_axes(
        tuple(names.names), rules or self.rules
      )
      assert spec is not None  # None only where the names are
      shardings[name] = NamedSharding(self.mesh, spec)
      self._check_divides(name, shapes[name], spec)
    return trees.unflatten_paths(shardings)

  def optimizer_shardings(
    self,
    optimizer: optax.GradientTransformation,
    params: Any,
    param_shardings: Any,
  ) -> Any:
    """Shardings of an optimizer's state: moments lie where their weights do.

    Args:
      optimizer: an optax transformation.
      params: abstract parameters.
      param_shardings: their shardings.
    """
    state = jax.eval_shape(optimizer.init, params)

    def shard(
      slot: jax.ShapeDtypeStruct,
      param: jax.ShapeDtypeStruct,
      sharding: NamedSharding,
    ) -> NamedSharding:
      # Adafactor's factors have not their weights' shapes; they are small.
      return sharding if slot.shape == param.shape else self.replicated

    return optax.tree_map_params(
      optimizer,
      shard,
      state,
      params,
      param_shardings,
      transform_non_params=lambda _: self.replicated,
    )

  def compile(self, function: Callable, **jit: Any) -> Callable:
    """`jax.jit` whose traces know the mesh and the rules."""
    jitted = jax.jit(function, **jit)

    def call(*args: Any) -> Any:
      with self.context():
        return jitted(*args)

    return call

  @contextlib.contextmanager
  def context(self) -> Iterator[None]:
    """In which functions are traced that are to know the mesh and the rules."""
    # Under a mere `with mesh`, flax drops the constraints of activations.
    with jax.set_mesh(self.mesh), flax_partitioning.axis_rules(self.rules):
      yield

  def _check_divides(
    self, name: str, shape: tuple[int, ...], spec: PartitionSpec
  ) -> None:
    for size, axis in zip(shape, spec, strict=False):
      if axis is not None and size % self.mesh.shape[axis]:
        raise UserError(
          f'{name} has an axis of {size}, which the {self.mesh.shape[axis]} '
          f'devices along {axis!r} do not divide: change NUM_PARTITIONS or the '
          'size.'
        )


def standard(
  num_partitions: int = 1,
  activation_dims: int = 1,
  parameter_dims: int = 1,
  frozen_dims: int | None = None,
  devices: tuple[Any, ...] | None = None,
) -> Partitioner:
  """A `Partitioner` with t5x's rules.

  Args:
    num_partitions: see `Partitioner`.
    activation_dims: see `standard_logical_axis_rules`.
    parameter_dims: see there.
    frozen_dims: the same of what does not train; None for `parameter_dims`.
    devices: see `Partitioner`.

  Raises:
    UserError: another number of dimensions.
  """
  rules = standard_logical_axis_rules(activation_dims, parameter_dims)
  frozen_rules = None
  if frozen_dims is not None:
    frozen_rules = standard_logical_axis_rules(activation_dims, frozen_dims)
  return Partitioner(num_partitions, rules, frozen_rules, devices)
