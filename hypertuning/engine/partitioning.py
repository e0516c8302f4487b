"""A mesh over the devices, and rules that say how arrays are divided over it.

The rules are t5x's standard logical axis rules.
"""

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

from hypertuning import quantization, trees
from hypertuning.engine import compiler_options
from hypertuning.errors import UserError
from hypertuning.ranges import Count, Dimensions

Rules = tuple[tuple[str, str | None], ...]
_REPLICATED_AXES = (
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
  activation_partitioning_dims: Dimensions = 1,
  parameter_partitioning_dims: Dimensions = 1,
) -> Rules:
  """t5x's rules: the mesh axis that each logical axis of an array lies along.

  Args:
    activation_partitioning_dims: number of divided axes of activations, 1 or 2.
      With 2, the embedding axis of activations and parameters is divided over
      the mesh axis `model`.
    parameter_partitioning_dims: number of divided axes of parameters, 1 or 2.
      With 2, the embedding axis of parameters is divided over the mesh axis
      `data` as well, as in fully sharded data parallelism.

  Returns:
    Pairs (logical axis, mesh axis or None). Of several pairs for one logical
    axis, the first wins whose mesh axis no other axis of the array has taken.

  Raises:
    UserError: a number of dimensions is neither 1 nor 2.
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
    *((name, None) for name in _REPLICATED_AXES),
  )


@dataclasses.dataclass(frozen=True)
class Partitioner:
  """A mesh `('data', 'model')` over devices, and logical axis rules.

  Attributes:
    num_partitions: number of devices over which one copy of the model is
      divided. With more devices there are more copies, which work on other
      parts of the batch.
    rules: logical axis rules, see `standard_logical_axis_rules`.
    frozen_rules: logical axis rules for frozen variables; None takes `rules`.
      Rules of their own let every data-parallel device hold the whole of a
      frozen tower in bfloat16, which then need not be gathered at each step.
    devices: devices of the mesh, which may be those of a TPU topology that is
      only compiled for; None takes all local devices.
  """

  num_partitions: Count = 1
  rules: Rules = standard_logical_axis_rules()
  frozen_rules: Rules | None = None
  devices: tuple[Any, ...] | None = None

  @functools.cached_property
  def mesh(self) -> Mesh:
    """The mesh over the devices.

    Raises:
      UserError: `num_partitions` does not divide the number of devices.
    """
    devices = self.devices or jax.local_devices()
    if self.num_partitions < 1 or len(devices) % self.num_partitions:
      device_kind = (
        'devices of the topology' if self.devices else 'local devices'
      )
      raise UserError(
        f'NUM_PARTITIONS = {self.num_partitions} does not divide the '
        f'{len(devices)} {device_kind}.'
      )
    grid = np.array(devices).reshape(-1, self.num_partitions)
    return Mesh(grid, ('data', 'model'))

  @property
  def replicated(self) -> NamedSharding:
    """Sharding of an array that every device holds as a whole."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def batch(self) -> NamedSharding:
    """Sharding of a batch: its first axis, episodes, is divided over `data`."""
    return NamedSharding(self.mesh, PartitionSpec('data'))

  def check_batch(self, batch_size: int, num_microbatches: int = 1) -> None:
    """Refuses a batch that the devices and microbatches do not divide.

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
    """Shardings of the variables in a collection.

    Args:
      variables: a collection such as `params`; its arrays may be abstract.
      axes: the collection that names the axes of these variables, such as
        `params_axes`: there, `kernel_axes` names the axes of `kernel`.
      rules: logical axis rules, such as `frozen_rules`; None takes `rules` of
        the partitioner.

    Returns:
      A tree like `variables`, with a `NamedSharding` in place of each array.

    Raises:
      UserError: the devices that an axis should lie on do not divide it.
    """
    shapes = {k: x.shape for k, x in trees.flatten_paths(variables).items()}
    shardings = {}
    for path, names in trees.flatten_paths(axes).items():
      name = path.removesuffix('_axes')
      spec = flax_partitioning.logical_to_mesh_axes(
        tuple(names.names), rules or self.rules
      )
      assert spec is not None  # it is None only if the names are None
      if quantization.is_scale(name):
        spec = divided(spec, shapes[name], self.mesh)
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
      params: the parameters that are optimized, as abstract arrays.
      param_shardings: the sharding of each parameter.

    Returns:
      A tree like the optimizer's state, with a sharding in place of each array.
    """
    state = jax.eval_shape(optimizer.init, params)

    def shard(
      slot: jax.ShapeDtypeStruct,
      param: jax.ShapeDtypeStruct,
      sharding: NamedSharding,
    ) -> NamedSharding:
      # The factors of Adafactor's moments do not have the shapes of the
      # weights. They are small enough for every device to hold them.
      return sharding if slot.shape == param.shape else self.replicated

    return optax.tree_map_params(
      optimizer,
      shard,
      state,
      params,
      param_shardings,
      transform_non_params=lambda _: self.replicated,
    )

  def compile(
    self, function: Callable, decodes: bool = False, **jit: Any
  ) -> 'Program':
    """`jax.jit`, with the mesh and the rules in force while it traces.

    Args:
      function: function that is compiled.
      decodes: whether the function reads answers token by token, see `jit`.
      **jit: further arguments of `jax.jit`.
    """
    return Program(self, function, decodes, jit)

  def jit(
    self,
    function: Callable,
    arguments: Any,
    decodes: bool = False,
    **jit: Any,
  ) -> Any:
    """`jax.jit` with the options of XLA for these devices and arguments.

    Args:
      function: function that is compiled.
      arguments: arguments of its first call, arrays or abstract arrays.
      decodes: whether the function reads answers token by token, which takes
        other options than a pass over whole texts.
      **jit: further arguments of `jax.jit`.
    """
    platform = self.mesh.devices.flat[0].platform
    options = compiler_options.for_program(platform, arguments, decodes)
    return jax.jit(function, compiler_options=options, **jit)

  @contextlib.contextmanager
  def context(self) -> Iterator[None]:
    """A context in which traced functions know the mesh and the rules."""
    # With `with self.mesh:` instead, flax ignores the constraints that say how
    # activations are divided.
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


class Program:
  """A function that is compiled for the devices of a `Partitioner`."""

  def __init__(
    self,
    partitioner: Partitioner,
    function: Callable,
    decodes: bool,
    jit: Mapping[str, Any],
  ) -> None:
    """Compiles nothing yet; for the arguments see `Partitioner.compile`."""
    self._partitioner, self._function = partitioner, function
    self._decodes, self._jit = decodes, jit
    self._jitted: Any = None

  def __call__(self, *arguments: Any) -> Any:
    """Calls the function, which the first call compiles."""
    jitted = self._for(arguments)
    with self._partitioner.context():
      return jitted(*arguments)

  def prepare(self, *arguments: Any) -> None:
    """Compiles the function, so that its first call need not.

    Args:
      *arguments: arguments like those of the first call, arrays or abstract
        arrays with their shardings.
    """
    jitted = self._for(arguments)
    with self._partitioner.context():
      jitted.lower(*arguments).compile()

  def _for(self, arguments: Any) -> Any:
    if self._jitted is None:
      self._jitted = self._partitioner.jit(
        self._function, arguments, self._decodes, **self._jit
      )
    return self._jitted


def divided(
  spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh
) -> PartitionSpec:
  """A spec without the axes that the devices do not divide.

  Args:
    spec: mesh axis, or None, of each axis of an array.
    shape: shape of the array.
    mesh: the devices.
  """
  return PartitionSpec(
    *(
      None if name is None or size % mesh.shape[name] else name
      for name, size in zip(spec, shape, strict=True)
    )
  )


def one_device() -> Partitioner:
  """A `Partitioner` of the first local device, whatever others there are."""
  return Partitioner(devices=(jax.local_devices()[0],))


def standard(
  num_partitions: Count = 1,
  activation_dims: Dimensions = 1,
  parameter_dims: Dimensions = 1,
  frozen_dims: Dimensions | None = None,
  devices: tuple[Any, ...] | None = None,
) -> Partitioner:
  """A `Partitioner` with t5x's rules.

  Args:
    num_partitions: number of devices per copy of the model, see `Partitioner`.
    activation_dims: number of divided axes of activations, 1 or 2, see
      `standard_logical_axis_rules`.
    parameter_dims: number of divided axes of trained parameters, 1 or 2, see
      `standard_logical_axis_rules`.
    frozen_dims: number of divided axes of frozen parameters, 1 or 2; None takes
      `parameter_dims`.
    devices: devices of the mesh, see `Partitioner`.

  Raises:
    UserError: a number of dimensions is neither 1 nor 2.
  """
  rules = standard_logical_axis_rules(activation_dims, parameter_dims)
  frozen_rules = None
  if frozen_dims is not None:
    frozen_rules = standard_logical_axis_rules(activation_dims, frozen_dims)
  return Partitioner(num_partitions, rules, frozen_rules, devices)
