"""Compares the arrays of a saved state with those that a run expects."""

from typing import Any

import jax
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from hypertuning import trees
from hypertuning.engine import matching
from hypertuning.engine.frozen_parts import FrozenPart
from hypertuning.errors import UserError


def check(
  folder: epath.Path,
  saved_state: Any,
  abstract_state: Any,
  part: FrozenPart | None,
) -> Any:
  """Refuses a checkpoint whose arrays do not fit the state.

  Args:
    folder: folder of the checkpoint.
    saved_state: tree of the saved state, with the metadata of each array.
    abstract_state: the state with abstract arrays.
    part: the frozen part, if the checkpoint does not hold it.

  Returns:
    The abstract state with the shapes in which its arrays were saved; they may
    differ from those of the state as `matching.is_flat` allows.

  Raises:
    UserError: names the first array that does not fit.
  """
  shapes_there, own_shapes = (
    {
      name: tuple(leaf.shape)
      for name, leaf in trees.flatten_paths(tree).items()
      if hasattr(leaf, 'shape')  # an optimizer's empty states have none
    }
    for tree in (saved_state, abstract_state)
  )
  if part is not None:
    shapes_there |= part.saved_shapes()
  names = sorted({*shapes_there, *own_shapes})
  other = [
    name
    for name in names
    if not matching.is_flat(shapes_there.get(name), own_shapes.get(name))
  ]
  if other:
    name = other[0]
    raise UserError(
      f'{folder} is not of this model and optimizer: {name} is '
      f'{shapes_there.get(name, "missing")} there, '
      f'{own_shapes.get(name, "not used")} here '
      f'({len(other)} differ in all). Use another MODEL_DIR, or the config.gin '
      'that stands in this one.'
    )

  def as_saved(path: Any, leaf: Any) -> Any:
    shape = shapes_there['/'.join(key.key for key in path)]
    if shape == leaf.shape:
      return leaf
    sharding = leaf.sharding
    # The saved shape has one more axis than the sharding names.
    if isinstance(sharding, NamedSharding):
      sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(as_saved, abstract_state)


def placed(value: Any, abstract: Any) -> Any:
  """A restored array in the expected shape (see `is_flat`) and sharding."""
  if isinstance(value, jax.Array) and value.shape == abstract.shape:
    return value
  return jax.device_put(value.reshape(abstract.shape), abstract.sharding)
