"""The parts that t5x's trainer needs; no other module imports t5x.

`gin/runs/*.gin` bind these parts. Importing this module also makes
`python -m t5x.train`, `t5x.eval` and `t5x.infer` report a user's error in one
line.
"""

import atexit
import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import gin
import jax
import numpy as np
import optax
import seqio
import tensorflow as tf
from absl import logging
from jax.sharding import Mesh, NamedSharding
from t5x import infer, optimizers, partitioning, utils

from hypertuning import bindings, quantization, trees
from hypertuning.adapters import io
from hypertuning.data import lookup
from hypertuning.data.text_format import TextFormat
from hypertuning.engine import checkpoint_folders
from hypertuning.engine import partitioning as engine_partitioning
from hypertuning.engine import warm_start as warm_start_lib
from hypertuning.errors import UserError, mendable
from hypertuning.old_names import takes_text_format

Rules = Sequence[tuple[str, str | None]]


class OptaxOptimizer(optimizers.OptaxWrapper):
  """An optax optimizer whose moments lie where their weights do.

  t5x's own wrapper supports the states of only some optax transformations.
  """

  def derive_logical_axes(self, optimizer: Any, param_logical_axes: Any) -> Any:
    """The logical axes of an optimizer's parameters and of its state.

    Args:
      optimizer: the t5x optimizer with its state.
      param_logical_axes: the logical axes of each parameter.

    Returns:
      The optimizer, with logical axes in place of arrays.
    """

    def axes_of(slot: Any, param: Any, axes: Any) -> Any:
      # The factors of Adafactor's moments do not have the shapes of the
      # weights. They are small enough for every device to hold them.
      return axes if slot.shape == param.shape else None

    axes = optax.tree_map_params(
      self.optax_optimizer,
      axes_of,
      optimizer.state.param_states,
      optimizer.target,
      param_logical_axes,
      transform_non_params=lambda _: None,
    )
    return optimizer.replace(
      target=param_logical_axes,
      state=optimizer.state.replace(step=None, param_states=axes),
    )


class WarmStart(utils.TrainStateInitializer):
  """Fills the first state of a run with the weights of checkpoints.

  The rules are those of the runner of hypertuning, see `warm_start.WarmStart`:
  a variable that has no match on the other side is an error.
  """

  def __init__(
    self,
    *args: Any,
    warm_start: warm_start_lib.WarmStart | None = None,
    **kwargs: Any,
  ) -> None:
    """Prepares the state.

    Args:
      *args: t5x's arguments.
      warm_start: the checkpoints that the first weights come from, in Orbax's
        format or in t5x's; None starts from random weights.
      **kwargs: t5x's arguments.

    Raises:
      UserError: there is no such checkpoint.
    """
    self._start = warm_start or warm_start_lib.WarmStart()
    if self._start.path:
      checkpoint_folders.find(self._start.path, 'INITIAL_CHECKPOINT_PATH')
    super().__init__(*args, **kwargs)

  def from_scratch(self, init_rng: jax.Array) -> Any:
    """A state at step 0.

    Raises:
      UserError: the checkpoint does not fit the model.
    """
    state = super().from_scratch(init_rng)
    params = trees.flatten_paths(state.params)
    frozen = state.flax_mutables.get('frozen', {})
    frozen_leaves = trees.flatten_paths(frozen)
    needs_teacher = any(name.startswith('teacher/') for name in frozen_leaves)
    self._start.check(needs_teacher)
    if not self._start.path:
      return state
    # Every host reads whole arrays, and keeps the parts that its devices hold.
    values_by_name = trees.flatten_paths(
      self._start.fill(trees.join(state.params, frozen))
    )
    leaves = {
      name: _put_on_devices(values_by_name[name], old.sharding)
      for part in (params, frozen_leaves)
      for name, old in part.items()
    }

    def values(part: Any) -> Any:
      return jax.tree_util.tree_map_with_path(
        lambda path, _: leaves['/'.join(key.key for key in path)], part
      )

    state = state.replace_params(values(state.params))
    if frozen:
      mutables = state.flax_mutables.copy({'frozen': values(frozen)})
      state = state.replace_flax_mutables(mutables)
    return state


def _put_on_devices(
  value: np.ndarray | jax.Array, sharding: NamedSharding
) -> Any:
  """A value on the devices, with this sharding."""
  if isinstance(value, jax.Array):  # a random weight, which t5x has placed
    return value
  return jax.make_array_from_callback(
    value.shape, sharding, lambda index: value[index]
  )


class Partitioner(partitioning.PjitPartitioner):
  """t5x's partitioner, with other axis rules for frozen variables.

  With such rules, every data-parallel device can hold the whole of a frozen
  tower in bfloat16, which then need not be gathered at each step.
  """

  _logical_axis_rules: tuple[Any, ...]

  def __init__(
    self, *args: Any, frozen_rules: Rules | None = None, **kwargs: Any
  ) -> None:
    """Takes t5x's arguments, and the rules for frozen variables.

    Args:
      *args: t5x's arguments.
      frozen_rules: logical axis rules for frozen variables, in the form of
        t5x's `logical_axis_rules`; None takes those.
      **kwargs: t5x's arguments.
    """
    super().__init__(*args, **kwargs)
    self._frozen_rules = frozen_rules

  def get_mesh_axes(self, train_state: Any) -> Any:
    """A `TrainState` with a `PartitionSpec` in place of each array."""
    axes = super().get_mesh_axes(train_state)
    if not train_state.flax_mutables:
      return axes
    frozen = axes
    if self._frozen_rules is not None:
      rules = self._logical_axis_rules
      self._logical_axis_rules = tuple(self._frozen_rules)
      try:
        frozen = super().get_mesh_axes(train_state)
      finally:
        self._logical_axis_rules = rules
    specs = trees.flatten_paths(frozen.flax_mutables)
    for path, leaf in trees.flatten_paths(train_state.flax_mutables).items():
      if quantization.is_scale(path):
        specs[path] = engine_partitioning.divided(
          specs[path], leaf.shape, self.mesh
        )
    return axes.replace_flax_mutables(
      flax.core.freeze(trees.unflatten_paths(specs))
    )


class HostPartitioner(Partitioner):
  """A partitioner whose mesh can have any shape on devices other than TPUs.

  t5x's own puts a whole model on each CPU device, whatever `num_partitions` is.
  """

  @functools.cached_property
  def mesh(self) -> Mesh:
    """A mesh `('data', 'model')` over all devices.

    Raises:
      UserError: `num_partitions` does not divide the number of devices.
    """
    devices = np.array(jax.devices())
    if len(devices) % self._num_partitions:
      raise UserError(
        f'NUM_PARTITIONS = {self._num_partitions} does not divide the '
        f'{len(devices)} devices.'
      )
    return Mesh(devices.reshape(-1, self._num_partitions), ('data', 'model'))


@takes_text_format
def get_dataset(
  cfg: utils.DatasetConfig,
  shard_id: int,
  num_shards: int,
  feature_converter_cls: Callable[..., seqio.FeatureConverter],
  num_epochs: int | None = None,
  continue_from_last_checkpoint: bool = False,
  save_dataset: bool = True,
  *,
  text_format: TextFormat,
) -> tf.data.Dataset:
  """t5x's batches; refuses data in which a stopped run cannot continue.

  Args:
    cfg: t5x's argument.
    shard_id: t5x's argument.
    num_shards: t5x's argument.
    feature_converter_cls: t5x's argument.
    num_epochs: t5x's argument.
    continue_from_last_checkpoint: t5x's argument.
    save_dataset: whether checkpoints hold the place in the data, as bound to
      `utils.SaveCheckpointConfig`. If not, a line warns that a stopped run
      reads its data from the beginning again.
    text_format: text format of the model, which the task's format must equal.
      t5x itself compares vocabularies, and for its own models only.

  Raises:
    UserError: there is no such task, its text has another format, or the place
      in its data cannot be saved; the message says what to do.
  """
  lookup.import_tasks(cfg.module)
  lookup.check_text(cfg.mixture_or_task_name, text_format)
  dataset = utils.get_dataset(
    cfg,
    shard_id,
    num_shards,
    feature_converter_cls,
    num_epochs,
    continue_from_last_checkpoint,
  )
  if not save_dataset:
    print(
      'SAVE_DATASET = False: a run that is stopped and started again reads its '
      'data from the beginning once more.',
      file=sys.stderr,
    )
    return dataset
  with tempfile.TemporaryDirectory() as folder:
    try:
      iterator = iter(dataset)
      next(iterator)  # sources are only opened when the first batch is read
      tf.train.Checkpoint(iterator=iterator).write(f'{folder}/position')
    except tf.errors.FailedPreconditionError as error:
      raise UserError(
        f'MIXTURE_OR_TASK_NAME = {cfg.mixture_or_task_name!r}: the position in '
        'its data cannot be saved, as its source runs Python. Cache it with '
        'seqio_cache_tasks and set USE_CACHED_TASKS = True, or set '
        'SAVE_DATASET = False: then a run that is stopped reads its data from '
        'the beginning again.'
      ) from error
  return dataset


def write_adapters(
  path: str,
  inferences: tuple[Sequence[Any], Mapping[str, Any]],
  task_ds: tf.data.Dataset,
  mode: str,
  vocabulary: seqio.Vocabulary | None = None,
  folder: str = '',
  **kwargs: Any,
) -> None:
  """A `write_fn` for t5x's `infer`, which saves the generated phi as well.

  It needs `mode = 'predict_with_aux'` and a model with `return_adapters`.

  Args:
    path: file that gets one part of the answers.
    inferences: the answers, and `{'scores': ..., 'adapters': ...}`.
    task_ds: the episodes of this part.
    mode: t5x's argument.
    vocabulary: t5x's argument.
    folder: folder that gets `<name of the part>.safetensors` (see
      `adapters.io`), with the phi of this part's episodes in their order.
    **kwargs: t5x's arguments.

  Raises:
    UserError: the model returned no adapters.
  """
  answers, aux = inferences
  aux = dict(aux)
  phi = aux.pop('adapters', None)
  if phi is None:
    raise UserError(
      'SAVE_ADAPTERS: set `infer.mode = "predict_with_aux"`, and '
      '`models.HyperTuningModel.return_adapters = True` for a model with a '
      'hypermodel.'
    )
  stacked = jax.tree.map(np.stack, phi, is_leaf=lambda x: isinstance(x, list))
  io.save(
    stacked,
    os.path.join(folder, f'{os.path.basename(path)}.safetensors'),
    model='',
    config={'answers': os.path.basename(path)},
  )
  infer.write_inferences_to_file(
    path, (answers, aux), task_ds, mode, vocabulary, **kwargs
  )


def _one_line(
  kind: type[BaseException], error: BaseException, trace: Any
) -> None:
  """Prints a user's error in one line, and any other error with its trace."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, Exception) and (line := mendable(cause)):
      print(f'error: {line}', file=sys.stderr)
      atexit.register(_leave)
      return
    cause = cause.__cause__  # t5x wraps what a metric raises
  traceback.print_exception(kind, error, trace)


def _leave() -> None:
  """Ends the process at once.

  Python's own shutdown can hang if a tf.data pipeline calls Python functions.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(1)


sys.excepthook = _one_line
# t5x reads the gin files itself, and finalizes the configuration.
gin.config.register_finalize_hook(bindings.check)
logging.set_verbosity(logging.WARNING)
