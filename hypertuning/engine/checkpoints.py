"""Orbax checkpoints: saving in the background, resuming and warm starts.

A checkpoint is a folder `MODEL_DIR/checkpoint_N` with two items. `state` has
t5x's layout: `target`, `flax_mutables`, `state/step` and `state/param_states`.
`dataset` is the place in the data. A checkpoint appears with both items or not
at all. Checkpoints of t5x are read as well, whether t5x wrote them in Orbax's
format or in its own.
"""

import contextlib
import itertools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from hypertuning import files, quiet, trees
from hypertuning.adapters.lora import without_heads
from hypertuning.engine import checkpoint_folders, t5x_format
from hypertuning.errors import UserError

_PREFIX = checkpoint_folders.PREFIX
# For the name, shape and sharding of an array.
_BYTES_PER_ARRAY = 2000
# Rules of `fill` for two kinds of checkpoint: that of the whole model, and that
# of a public T5, which becomes the downstream model.
SAME = (('(.*)', r'\1'), ('downstream/(.*)', r'\1'))


class Checkpointer:
  """Saves and restores the states of one run."""

  def __init__(self, model_dir: str, keep: int = 3) -> None:
    """Opens the folder of a run.

    Args:
      model_dir: folder of the run; it is made if it is missing.
      keep: number of checkpoints that are kept; older ones are deleted.
    """
    self._manager = ocp.CheckpointManager(
      checkpoint_folders.folder(model_dir, 'MODEL_DIR'),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, step_prefix=_PREFIX, create=True
      ),
    )

  @property
  def latest_step(self) -> int | None:
    """Step of the newest finished checkpoint; None without one."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: Any, position: Mapping[str, np.ndarray]
  ) -> None:
    """Starts to save a state; most of the work is done in the background.

    The arrays have been copied when this returns: the caller may change them.
    A step that has a checkpoint is not saved again.

    Args:
      step: number of finished steps.
      state: a pytree of arrays.
      position: the place in the data, see `batching.TrainBatches.position`.

    Raises:
      UserError: this state, or the previous one, cannot be saved.
    """
    if step in self._manager.all_steps():
      return
    with self._save_errors():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          dataset=ocp.args.StandardSave(dict(position)),
        ),
      )

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
    """Reads a saved state, and the place in the data.

    Args:
      step: step of a finished checkpoint.
      abstract_state: the state with abstract arrays, which have the shapes,
        dtypes and shardings that the restored arrays get.

    Returns:
      The state, and a position for `batching.TrainBatches.move`.

    Raises:
      UserError: the checkpoint was saved from another model or optimizer, or
        it is damaged.
    """
    folder = epath.Path(self._manager.directory) / f'{_PREFIX}_{step}'
    has_position = (folder / 'dataset' / '_METADATA').exists()
    with _read_errors(folder):
      saved_state = _check_fits(folder, abstract_state)
      items = {'state': ocp.args.StandardRestore(saved_state)}
      if has_position:
        items['dataset'] = ocp.args.StandardRestore()
      contents = self._manager.restore(step, args=ocp.args.Composite(**items))
    state = jax.tree.map(_flat, contents['state'], abstract_state)
    if not has_position:  # t5x saved it, and reads one batch per step
      return state, {'batches': np.asarray(step, np.int64)}
    position = {k: np.asarray(v) for k, v in contents['dataset'].items()}
    return state, position

  def close(self) -> None:
    """Waits until the last checkpoint is saved, and closes the folder.

    Raises:
      UserError: the last state cannot be saved.
    """
    with self._save_errors():
      try:
        self._manager.wait_until_finished()
      finally:
        self._manager.close()

  @contextlib.contextmanager
  def _save_errors(self) -> Iterator[None]:
    """Turns Orbax's errors into one line that names the binding."""
    try:
      yield
    except Exception as error:  # TensorStore raises types of its own
      folder = epath.Path(self._manager.directory)
      step = max(checkpoint_folders.steps(folder), default=None)
      place = 'the start' if step is None else f'{_PREFIX}_{step}'
      raise UserError(
        f'MODEL_DIR = {str(folder)!r}: a checkpoint cannot be saved '
        f'({files.reason(error)}); the same command goes on from {place}.'
      ) from error


def size(state: Any) -> int:
  """Estimates the number of bytes that a checkpoint takes.

  Args:
    state: the state that is saved, a pytree of arrays or abstract arrays.
  """
  leaves = jax.tree.leaves(state)
  arrays = sum(x.size * x.dtype.itemsize for x in leaves)
  return arrays + _BYTES_PER_ARRAY * len(leaves)


def restore_variables(path: str, binding: str = 'CHECKPOINT_PATH') -> dict:
  """All variables of a checkpoint as one tree of numpy arrays.

  Args:
    path: folder of a run, or of one of its checkpoints.
    binding: name that the user bound the path to, for the error message.

  Returns:
    `{'hypermodel': ..., 'downstream': ...}`, where trained and frozen variables
    are joined. A public T5 gives `{'token_embedder': ..., 'encoder': ...,
    'decoder': ...}`.
  """
  folder = checkpoint_folders.find(path, binding)
  try:
    return _variables(folder)
  except Exception:
    # A training may be deleting the checkpoint, one file after another.
    time.sleep(0.5)
    if (newest := checkpoint_folders.find(path, binding)) == folder:
      raise
    return _variables(newest)


def _variables(folder: epath.Path) -> dict:
  """All variables of the checkpoint in a folder, see `restore_variables`."""
  if t5x_format.is_checkpoint(folder):
    contents = t5x_format.read(folder)
  else:
    state = folder / 'state'
    with _read_errors(folder):
      contents = ocp.PyTreeCheckpointer().restore(
        state, restore_args=_as_numpy(state)
      )
  frozen = (contents.get('flax_mutables') or {}).get('frozen', {})
  return trees.join(contents['target'], frozen)


def fill(
  target: Mapping[str, Any],
  path: str,
  binding: str,
  rules: Sequence[tuple[str, str]] = SAME,
  fresh: str = '',
  unused: str = '.*',
  teacher: str | None = None,
) -> dict:
  """Fills the variables of a model with the values of a checkpoint.

  If only one of the two scans its layers, the layers of the checkpoint are
  stacked, or taken out of their stack.

  Args:
    target: the variables of the model, a tree of arrays or abstract arrays.
    path: folder of a run, or of one of its checkpoints.
    binding: name that the user bound the path to, for the error message.
    rules: pairs (regex, replacement), which turn a name in `target` into a name
      in the checkpoint. The first pair wins that matches and gives a name that
      the checkpoint has.
    fresh: regex of the names in `target` that the checkpoint may lack; such
      leaves stay as they are.
    unused: regex of the names in the checkpoint that `target` may lack.
    teacher: path of another checkpoint, whose downstream model becomes the
      teacher.

  Returns:
    A new tree like `target`; no two leaves share a buffer.

  Raises:
    UserError: lists the variables that are missing in the checkpoint, that have
      another shape there, or that `target` has no place for.
  """
  variables = restore_variables(path, binding)
  if teacher:
    variables['teacher'] = _downstream(teacher, 'TEACHER_CHECKPOINT_PATH')
  source = trees.flatten_paths(variables)
  filled: dict[str, Any] = {}
  missing_names: list[str] = []
  other_shapes: list[str] = []
  extras = {name for name in source if not re.fullmatch(unused, name)}
  for name, leaf in trees.flatten_paths(target).items():
    source_names, value = _lookup(name, source, rules)
    extras -= source_names
    if value is None and re.fullmatch(fresh, name):
      filled[name] = leaf
    elif value is None:
      missing_names.append(f'{name} {leaf.shape} is not there')
    elif not _is_flat(value.shape, leaf.shape):
      other_shapes.append(
        f'{name} is {leaf.shape}, but {min(source_names)} there is '
        f'{value.shape}'
      )
    else:
      filled[name] = np.array(value, leaf.dtype).reshape(leaf.shape)
  extra = [f'{x} {source[x].shape} has no place here' for x in sorted(extras)]
  problems = other_shapes + missing_names + extra
  if problems:
    more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
    raise UserError(
      f'{binding} = {path!r} does not fit the model: '
      f'{"; ".join(problems[:4])}{more}. Were sizes, HYPERMODEL or the adapter '
      'the same?'
    )
  return trees.unflatten_paths(filled)


def _downstream(path: str, binding: str) -> dict:
  """The downstream model of a checkpoint, which may itself be a public T5."""
  variables = restore_variables(path, binding)
  return variables.get('downstream', variables)


def _lookup(
  name: str,
  source: Mapping[str, np.ndarray],
  rules: Sequence[tuple[str, str]],
) -> tuple[set[str], np.ndarray | None]:
  """Finds the value of a variable.

  Args:
    name: name of the variable in the model.
    source: maps the names in the checkpoint to arrays.
    rules: pairs (regex, replacement), see `fill`.

  Returns:
    The names in the checkpoint that the value comes from, and the value; an
    empty set and None if the checkpoint does not have it.
  """
  for pattern, replacement in rules:
    match = re.fullmatch(pattern, name)
    if not match:
      continue
    source_name = match.expand(replacement)
    if source_name in source:
      return {source_name}, source[source_name]
    # A scanned stack of layers is called `layers`; layers that are not scanned
    # are called `layers_0`, `layers_1`, ...
    parts = list(
      itertools.takewhile(
        source.__contains__,
        (
          source_name.replace('/layers/', f'/layers_{i}/')
          for i in itertools.count()
        ),
      )
    )
    if '/layers/' in source_name and parts:
      return set(parts), np.stack([source[part] for part in parts])
    layer = re.search(r'/layers_(\d+)/', source_name)
    stack = re.sub(r'/layers_\d+/', '/layers/', source_name)
    if layer and stack in source and int(layer[1]) < len(source[stack]):
      return {stack}, source[stack][int(layer[1])]
  return set(), None


@contextlib.contextmanager
def _read_errors(folder: epath.Path) -> Iterator[None]:
  """Turns an error in reading a checkpoint into one line that names it.

  Args:
    folder: folder of the checkpoint.
  """
  # Orbax reads arrays in threads, which print tracebacks once one has failed.
  with quiet.hidden_stderr():
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
      raise UserError(
        checkpoint_folders.damage_message(folder, files.reason(error))
      ) from error


def _metadata(state_folder: epath.Path) -> Any:
  """The tree of a saved state, with the metadata of each array."""
  return ocp.PyTreeCheckpointer().metadata(state_folder).item_metadata.tree


def _as_numpy(state_folder: epath.Path) -> Any:
  """Orbax arguments that restore every leaf as a numpy array."""
  return jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _metadata(state_folder)
  )


def _check_fits(folder: epath.Path, abstract_state: Any) -> Any:
  """Refuses a checkpoint whose arrays do not fit the state.

  Returns:
    The abstract state with the shapes in which its arrays were saved; they may
    differ from those of the state as `_is_flat` allows.

  Raises:
    UserError: names the first array that does not fit.
  """
  saved_shapes, own_shapes = (
    {
      name: tuple(leaf.shape)
      for name, leaf in trees.flatten_paths(tree).items()
      if hasattr(leaf, 'shape')  # an optimizer's empty states have none
    }
    for tree in (_metadata(folder / 'state'), abstract_state)
  )
  names = sorted({*saved_shapes, *own_shapes})
  other = [
    name
    for name in names
    if not _is_flat(saved_shapes.get(name), own_shapes.get(name))
  ]
  if other:
    name = other[0]
    raise UserError(
      f'{folder} is not of this model and optimizer: {name} is '
      f'{saved_shapes.get(name, "missing")} there, '
      f'{own_shapes.get(name, "not used")} here '
      f'({len(other)} differ in all). Use another MODEL_DIR, or the config.gin '
      'that stands in this one.'
    )

  def as_saved(path: Any, leaf: Any) -> Any:
    shape = saved_shapes['/'.join(key.key for key in path)]
    if shape == leaf.shape:
      return leaf
    sharding = leaf.sharding
    # The saved shape has one more axis than the sharding names.
    if isinstance(sharding, NamedSharding):
      sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(as_saved, abstract_state)


def _is_flat(saved_shape: Any, own_shape: Any) -> bool:
  """Whether an array was saved in the expected shape, or in an older form.

  The older form is that of learned LoRA factors, see `without_heads`.
  """
  if saved_shape == own_shape or saved_shape is None or own_shape is None:
    return saved_shape == own_shape
  return len(saved_shape) == 4 and without_heads(saved_shape) == own_shape


def _flat(value: Any, abstract: Any) -> Any:
  """A restored array in the expected shape and sharding, see `_is_flat`."""
  if value.shape == abstract.shape:
    return value
  return jax.device_put(value.reshape(abstract.shape), abstract.sharding)
