"""Orbax checkpoints: rotation, asynchronous saving, resume and warm start.

A checkpoint is `MODEL_DIR/checkpoint_N` with the items `state` (t5x's layout:
`target`, `flax_mutables`, `state/step`, `state/param_states`) and `dataset`
(the place in the data). Both appear together or not at all. Checkpoints of t5x
are read as well, in Orbax's format and in its own.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from hypertuning import trees
from hypertuning.engine import t5x_format
from hypertuning.errors import UserError

_PREFIX = 'checkpoint'
# A whole model of ours, or a public T5 that is the downstream model.
SAME = (('(.*)', r'\1'), ('downstream/(.*)', r'\1'))


class Checkpointer:
  """Saves and restores the states of one run."""

  def __init__(self, model_dir: str, keep: int = 3) -> None:
    """Opens a run's folder.

    Args:
      model_dir: the run's folder; made if it is missing.
      keep: how many checkpoints are kept; older ones are deleted.
    """
    self._manager = ocp.CheckpointManager(
      _folder(model_dir),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, step_prefix=_PREFIX, create=True
      ),
    )

  @property
  def latest_step(self) -> int | None:
    """The newest finished checkpoint's step."""
    return self._manager.latest_step()

  def save(
    self, step: int, state: Any, position: Mapping[str, np.ndarray]
  ) -> None:
    """Starts to save in the background; returns when arrays may change.

    Args:
      step: number of finished steps.
      state: a pytree of arrays.
      position: the place in the data, see `batching.TrainBatches.position`.
    """
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        dataset=ocp.args.StandardSave(dict(position)),
      ),
    )

  def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict]:
    """A saved state, and the place in the data.

    Args:
      step: step of a finished checkpoint.
      abstract_state: shapes, types and shardings of the state.

    Returns:
      The state, and a position for `batching.TrainBatches.move`.

    Raises:
      UserError: the checkpoint is of another model or optimizer.
    """
    folder = epath.Path(self._manager.directory) / f'{_PREFIX}_{step}'
    saved_state = _check_fits(folder, abstract_state)
    items = {'state': ocp.args.StandardRestore(saved_state)}
    ours = (folder / 'dataset' / '_METADATA').exists()
    if ours:
      items['dataset'] = ocp.args.StandardRestore()
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    state = jax.tree.map(_flat, restored['state'], abstract_state)
    if not ours:  # t5x's, which drew one batch per step
      return state, {'batches': np.asarray(step, np.int64)}
    position = {k: np.asarray(v) for k, v in restored['dataset'].items()}
    return state, position

  def close(self) -> None:
    """Waits for what is being saved."""
    self._manager.wait_until_finished()
    self._manager.close()


def latest_step(model_dir: str) -> int | None:
  """The newest finished checkpoint's step, without opening the run."""
  return max(_steps(_folder(model_dir)), default=None)


def find(path: str, binding: str = 'CHECKPOINT_PATH') -> epath.Path:
  """A checkpoint's folder: `path` itself, or the newest one of the run there.

  Args:
    path: `MODEL_DIR` or `MODEL_DIR/checkpoint_N`.
    binding: what the user bound it to, for the message.

  Raises:
    UserError: there is none.
  """
  folder = _folder(path)
  try:
    if (folder / 'state').is_dir() or t5x_format.is_checkpoint(folder):
      return folder
  except Exception as error:  # whatever a bucket that cannot be read raises
    raise UserError(
      f'{binding} = {path!r}: cannot be read ({type(error).__name__}: '
      f'{error}); is the bucket there, and may this machine read it?'
    ) from error
  steps = _steps(folder)
  if not steps:
    raise UserError(
      f'{binding} = {path!r}: no checkpoint there; give a MODEL_DIR or a '
      f'{_PREFIX}_N folder.'
    )
  return steps[max(steps)]


def check_teacher(needed: bool, path: str | None, initial: str | None) -> None:
  """Refuses a teacher without weights, and weights without a teacher.

  Args:
    needed: whether the model has a network `teacher`.
    path: TEACHER_CHECKPOINT_PATH.
    initial: INITIAL_CHECKPOINT_PATH.

  Raises:
    UserError: says what to bind.
  """
  if not needed and not path:
    return
  if not (needed and path and initial):
    raise UserError(
      f'TEACHER_CHECKPOINT_PATH = {path!r}: a model with a TEACHER needs it '
      'and INITIAL_CHECKPOINT_PATH; one without cannot use it.'
    )
  find(path, 'TEACHER_CHECKPOINT_PATH')


def restore_variables(path: str, binding: str = 'CHECKPOINT_PATH') -> dict:
  """All variables of a checkpoint as one tree of numpy arrays.

  Args:
    path: see `find`.
    binding: see `find`.

  Returns:
    `{'hypermodel': ..., 'downstream': ...}`, trained and frozen parts joined; a
    public T5 has `{'token_embedder': ..., 'encoder': ..., 'decoder': ...}`.
  """
  folder = find(path, binding)
  if t5x_format.is_checkpoint(folder):
    saved = t5x_format.read(folder)
  else:
    state = folder / 'state'
    saved = ocp.PyTreeCheckpointer().restore(
      state, restore_args=_as_numpy(state)
    )
  frozen = (saved.get('flax_mutables') or {}).get('frozen', {})
  return trees.join(saved['target'], frozen)


def fill(
  target: Mapping[str, Any],
  path: str,
  binding: str,
  rules: Sequence[tuple[str, str]] = SAME,
  fresh: str = '',
  unused: str = '.*',
  teacher: str | None = None,
) -> dict:
  """Variables as in `target`, their values from a checkpoint.

  Layers that are scanned on one side and not on the other are stacked, or taken
  from the stack.

  Args:
    target: a tree of (abstract) arrays.
    path: see `find`.
    binding: see `find`.
    rules: (regex, replacement) from a name in `target` to a name in the
      checkpoint; the first that matches and is found there wins.
    fresh: regex of the names that stay as they are in `target` if the
      checkpoint does not have them.
    unused: regex of the checkpoint's names that `target` may leave out.
    teacher: another checkpoint, whose downstream model is the teacher.

  Returns:
    A new tree; no two leaves share a buffer.

  Raises:
    UserError: lists what is missing, what has another shape and what is left.
  """
  variables = restore_variables(path, binding)
  if teacher:
    variables['teacher'] = _downstream(teacher, 'TEACHER_CHECKPOINT_PATH')
  source = trees.flatten_paths(variables)
  filled: dict[str, Any] = {}
  missing: list[str] = []
  other: list[str] = []
  left = {name for name in source if not re.fullmatch(unused, name)}
  for name, leaf in trees.flatten_paths(target).items():
    found, value = _lookup(name, source, rules)
    left -= found
    if value is None and re.fullmatch(fresh, name):
      filled[name] = leaf
    elif value is None:
      missing.append(f'{name} {leaf.shape} is not there')
    elif not _is_flat(value.shape, leaf.shape):
      other.append(
        f'{name} is {leaf.shape}, but {min(found)} there is {value.shape}'
      )
    else:
      filled[name] = np.array(value, leaf.dtype).reshape(leaf.shape)
  unplaced = [f'{x} {source[x].shape} has no place here' for x in sorted(left)]
  problems = other + missing + unplaced
  if problems:
    more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
    raise UserError(
      f'{binding} = {path!r} does not fit the model: '
      f'{"; ".join(problems[:4])}{more}. Were sizes, HYPERMODEL or the adapter '
      'the same?'
    )
  return trees.unflatten_paths(filled)


def _downstream(path: str, binding: str) -> dict:
  """A checkpoint's downstream model, or the public T5 that it is."""
  variables = restore_variables(path, binding)
  return variables.get('downstream', variables)


def _lookup(
  name: str,
  source: Mapping[str, np.ndarray],
  rules: Sequence[tuple[str, str]],
) -> tuple[set[str], np.ndarray | None]:
  """Names in the checkpoint that a variable comes from, and its value."""
  for pattern, replacement in rules:
    match = re.fullmatch(pattern, name)
    if not match:
      continue
    saved = match.expand(replacement)
    if saved in source:
      return {saved}, source[saved]
    # A scanned stack is `layers` in one model, and `layers_0`, `layers_1`, ...
    # in the other.
    parts = list(
      itertools.takewhile(
        source.__contains__,
        (saved.replace('/layers/', f'/layers_{i}/') for i in itertools.count()),
      )
    )
    if '/layers/' in saved and parts:
      return set(parts), np.stack([source[part] for part in parts])
    layer = re.search(r'/layers_(\d+)/', saved)
    stack = re.sub(r'/layers_\d+/', '/layers/', saved)
    if layer and stack in source and int(layer[1]) < len(source[stack]):
      return {stack}, source[stack][int(layer[1])]
  return set(), None


def _folder(path: str) -> epath.Path:
  """Absolute, which Orbax asks for; buckets are."""
  folder = epath.Path(path).expanduser()
  return folder if '://' in str(path) else folder.absolute()


def _metadata(state_folder: epath.Path) -> Any:
  """The tree of a saved state, with what is known of every array."""
  return ocp.PyTreeCheckpointer().metadata(state_folder).item_metadata.tree


def _as_numpy(state_folder: epath.Path) -> Any:
  """Restore arguments for every leaf: no devices, no shardings."""
  return jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _metadata(state_folder)
  )


def _check_fits(folder: epath.Path, abstract_state: Any) -> Any:
  """Refuses a checkpoint whose arrays are not those of the state.

  Returns:
    The abstract state with the shapes that were saved, see `_is_flat`.
  """
  saved, expected = (
    {
      name: tuple(leaf.shape)
      for name, leaf in trees.flatten_paths(tree).items()
      if hasattr(leaf, 'shape')  # not the empty states of optimizers
    }
    for tree in (_metadata(folder / 'state'), abstract_state)
  )
  names = sorted({*saved, *expected})
  other = [
    name for name in names if not _is_flat(saved.get(name), expected.get(name))
  ]
  if other:
    name = other[0]
    raise UserError(
      f'{folder} is not of this model and optimizer: {name} is '
      f'{saved.get(name, "missing")} there, '
      f'{expected.get(name, "not used")} here '
      f'({len(other)} differ in all). Use another MODEL_DIR, or the config.gin '
      'that stands in this one.'
    )

  def as_saved(path: Any, leaf: Any) -> Any:
    shape = saved['/'.join(key.key for key in path)]
    if shape == leaf.shape:
      return leaf
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):  # made for fewer axes
      sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(as_saved, abstract_state)


def _is_flat(saved: Any, expected: Any) -> bool:
  """Whether an array was saved in the expected shape, or before its last axis
  was `heads * head_dim`: once, learned LoRA factors had the two apart."""
  if saved == expected or saved is None or expected is None:
    return saved == expected
  return len(saved) == 4 and (*saved[:2], saved[2] * saved[3]) == expected


def _flat(value: Any, abstract: Any) -> Any:
  """A restored array in the shape and at the place where it is expected."""
  if value.shape == abstract.shape:
    return value
  return jax.device_put(value.reshape(abstract.shape), abstract.sharding)


def _steps(folder: epath.Path) -> dict[int, epath.Path]:
  """Finished checkpoints by step; orbax renames a folder when it is whole."""
  children = folder.iterdir() if folder.is_dir() else ()
  matches = ((re.fullmatch(rf'{_PREFIX}_(\d+)', c.name), c) for c in children)
  return {int(match[1]): child for match, child in matches if match}
