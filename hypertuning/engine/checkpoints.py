"""Orbax checkpoints: saving in the background, resuming and warm starts.

A checkpoint is a folder `MODEL_DIR/checkpoint_N` with two items. `state` has
t5x's layout: `target`, `flax_mutables`, `state/step` and `state/param_states`.
`dataset` is the place in the data. With a third item, `frozen`, the state lacks
the frozen variables (see `frozen_parts`). A checkpoint appears with all of its
items or not at all. Checkpoints of t5x are read as well, whether
t5x wrote them in Orbax's format or in its own.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from hypertuning import files, quiet, trees
from hypertuning.engine import (
  checkpoint_folders,
  frozen_parts,
  matching,
  saved_shapes,
  t5x_format,
  trained_file,
)
from hypertuning.engine.frozen_parts import FrozenPart
from hypertuning.errors import UserError

_PREFIX = checkpoint_folders.PREFIX
# For the name, shape and sharding of an array.
_BYTES_PER_ARRAY = 2000
SAME = matching.SAME


class Checkpointer:
  """Saves and restores the states of one run.

  Attributes:
    frozen_part: where the frozen variables come from, if checkpoints are saved
      without them; None saves them.
  """

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
    self.frozen_part: FrozenPart | None = None

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
    items = {'dataset': ocp.args.StandardSave(dict(position))}
    if self.frozen_part is not None:
      state = frozen_parts.without_frozen(state)
      contents = self.frozen_part.to_json()
      items[checkpoint_folders.FROZEN] = ocp.args.JsonSave(contents)
    items['state'] = ocp.args.StandardSave(state)
    with self._save_errors():
      self._manager.save(step, args=ocp.args.Composite(**items))

  def restore(
    self,
    step: int,
    abstract_state: Any,
    frozen: Mapping[str, Any] | None = None,
  ) -> tuple[Any, dict]:
    """Reads a saved state, and the place in the data.

    Args:
      step: step of a finished checkpoint.
      abstract_state: the state with abstract arrays, which have the shapes,
        dtypes and shardings that the restored arrays get.
      frozen: the frozen variables, a tree of arrays, for a checkpoint that was
        saved without them.

    Returns:
      The state, and a position for `batching.TrainBatches.move`.

    Raises:
      UserError: the checkpoint was saved from another model or optimizer, or
        it is damaged.
    """
    folder = epath.Path(self._manager.directory) / f'{_PREFIX}_{step}'
    has_position = (folder / 'dataset' / '_METADATA').exists()
    with _read_errors(folder):
      part = FrozenPart.read(folder)
      saved_state = saved_shapes.check(
        folder, _metadata(folder / 'state'), abstract_state, part
      )
      if part is not None:
        saved_state = frozen_parts.without_frozen(saved_state)
      items = {'state': ocp.args.StandardRestore(saved_state)}
      if has_position:
        items['dataset'] = ocp.args.StandardRestore()
      contents = self._manager.restore(step, args=ocp.args.Composite(**items))
    state = contents['state']
    if part is not None:
      state['flax_mutables'] = {'frozen': frozen}
    state = jax.tree.map(saved_shapes.placed, state, abstract_state)
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


def restore_variables(
  path: str,
  binding: str = 'CHECKPOINT_PATH',
  moved: Mapping[str, str] | None = None,
) -> dict:
  """All variables of a checkpoint as one tree of numpy arrays.

  Args:
    path: folder of a run, or of one of its checkpoints; or the file of a
      trained part, see `trained_file`.
    binding: name that the user bound the path to, for the error message.
    moved: new folders of the checkpoints that hold frozen parts, see
      `read_frozen`.

  Returns:
    `{'hypermodel': ..., 'downstream': ...}`, where trained and frozen variables
    are joined. A public T5 gives `{'token_embedder': ..., 'encoder': ...,
    'decoder': ...}`.
  """
  if os.fspath(path).endswith(trained_file.SUFFIX):
    trained, part = trained_file.read(os.fspath(path), binding)
    frozen = read_frozen(epath.Path(path), part, moved)
    return trees.join(trained, frozen)
  folder = checkpoint_folders.find(path, binding)
  try:
    return _variables(folder, moved)
  except Exception:
    # A training may be deleting the checkpoint, one file after another.
    time.sleep(0.5)
    if (newest := checkpoint_folders.find(path, binding)) == folder:
      raise
    return _variables(newest, moved)


def restore_trained(path: str, binding: str) -> tuple[dict, FrozenPart]:
  """The trained variables of a run, and what it has in place of the others.

  Args:
    path: folder of a run, or of one of its checkpoints.
    binding: name that the user bound the path to, for the error message.

  Raises:
    UserError: there is no checkpoint, or it holds its frozen variables.
  """
  folder = checkpoint_folders.find(path, binding)
  part = FrozenPart.read(folder)
  if part is None:
    raise UserError(
      f'{binding} = {path!r}: holds its frozen weights as well; train with '
      'SAVE_FROZEN = False, which a restart may change.'
    )
  return _contents(folder)['target'], part


def _contents(folder: epath.Path) -> dict:
  """What a checkpoint holds, with numpy arrays."""
  if t5x_format.is_checkpoint(folder):
    return t5x_format.read(folder)
  state = folder / 'state'
  with _read_errors(folder):
    return ocp.PyTreeCheckpointer().restore(
      state, restore_args=_as_numpy(state)
    )


def _variables(folder: epath.Path, moved: Mapping[str, str] | None) -> dict:
  """All variables of the checkpoint in a folder, see `restore_variables`."""
  contents = _contents(folder)
  part = FrozenPart.read(folder)
  if part is None:
    frozen = (contents.get('flax_mutables') or {}).get('frozen', {})
  else:
    frozen = read_frozen(folder, part, moved)
  return trees.join(contents['target'], frozen)


def read_frozen(
  folder: epath.Path,
  part: FrozenPart,
  moved: Mapping[str, str] | None = None,
  current: tuple[str | None, str | None] = (None, None),
) -> dict:
  """Reads the frozen variables of a checkpoint that was saved without them.

  Args:
    folder: folder of the checkpoint.
    part: the checkpoints that hold the variables.
    moved: value of MOVED_CHECKPOINTS, which maps the recorded folders of
      checkpoints to new ones.
    current: paths of the initial checkpoint and of the teacher's, for where the
      recorded ones are gone.

  Returns:
    A tree of numpy arrays.

  Raises:
    UserError: a checkpoint is missing, or its values have changed.
  """
  moved = moved or {}
  variables = restore_variables(
    part.initial.locate(folder, moved, current[0]),
    'INITIAL_CHECKPOINT_PATH',
    moved,
  )
  if part.teacher:
    teacher = part.teacher.locate(folder, moved, current[1])
    variables['teacher'] = _downstream(teacher, moved)
  frozen, problems = matching.match(
    part.abstract(), variables, part.rules, '', '.*'
  )
  if problems:
    raise part.initial.refuse(folder, matching.summary(problems))
  part.check(folder, frozen)
  return frozen


def fill(
  target: Mapping[str, Any],
  path: str,
  binding: str,
  rules: Sequence[tuple[str, str]] = SAME,
  fresh: str = '',
  unused: str = '.*',
  teacher: str | None = None,
  moved: Mapping[str, str] | None = None,
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
    moved: new folders of the checkpoints that hold frozen parts, see
      `read_frozen`.

  Returns:
    A new tree like `target`; no two leaves share a buffer.

  Raises:
    UserError: lists the variables that are missing in the checkpoint, that have
      another shape there, or that `target` has no place for.
  """
  variables = restore_variables(path, binding, moved)
  if teacher:
    variables['teacher'] = _downstream(teacher, moved)
  filled, problems = matching.match(target, variables, rules, fresh, unused)
  if problems:
    raise UserError(
      f'{binding} = {path!r} does not fit the model: '
      f'{matching.summary(problems)}. Were sizes, HYPERMODEL or the adapter '
      'the same?'
    )
  return filled


def _downstream(path: str, moved: Mapping[str, str] | None) -> dict:
  """The downstream model of a checkpoint, which may itself be a public T5."""
  variables = restore_variables(path, 'TEACHER_CHECKPOINT_PATH', moved)
  return variables.get('downstream', variables)


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
