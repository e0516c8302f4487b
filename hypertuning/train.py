"""Trains a model on this machine's devices.

    python -m hypertuning.train --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/train.gin --gin.MODEL_DIR="'run'"

The gin files say which model is trained on which data; `--gin.NAME=value`
overrides one binding. A run that is started again with the same MODEL_DIR
continues where it stopped.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.train', 'train')

import contextlib
import sys
from collections.abc import Callable, Iterable

import jax

from hypertuning import (
  background,
  files,
  gin_effect,
  gin_utils,
  locks,
  quantization,
  saved_config,
)
from hypertuning.engine import (
  batching,
  checkpoint_folders,
  checkpoints,
  data_process,
  frozen_parts,
  restarts,
  summaries,
  train_loop,
  train_state,
  train_step,
)
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.train_state import TrainState
from hypertuning.engine.warm_start import WarmStart
from hypertuning.errors import UserError
from hypertuning.evaluation import eval_step, phi_modes, statistics
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Natural, Path


def train(
  *,
  model: HyperTuningModel,
  data: EpisodeData,
  total_steps: Count,
  model_dir: Path,
  partitioner: Partitioner,
  eval_data: EpisodeData | None = None,
  warm_start: WarmStart | None = None,
  eval_period: Natural = 500,
  eval_steps: Count | None = 8,
  checkpoint_period: Natural = 500,
  keep_checkpoints: Count = 3,
  log_period: Count = 20,
  num_microbatches: Count = 1,
  random_seed: Natural = 0,
  save_frozen: bool = True,
) -> TrainState | None:
  """Trains a model until it has done `total_steps` steps.

  Args:
    model: the model; its `trainable_regex` says which part of it is trained.
    data: the episodes that the model is trained on.
    total_steps: number of steps in the whole run, including those that earlier
      starts of the run have done.
    model_dir: folder of the run. It gets the checkpoints, the summaries,
      `config.gin`, and `model.gin`, which builds the model without the run.
    partitioner: the devices, and how the model and the batches are divided over
      them.
    eval_data: the episodes that the model is evaluated on, from a split whose
      tasks are not trained on. None takes the split `validation` of the
      training mixture.
    warm_start: the checkpoints that the first weights come from. None starts
      from random weights.
    eval_period: number of steps between two evaluations; 0 turns evaluation
      off.
    eval_steps: number of batches per evaluation; None evaluates the whole
      split.
    checkpoint_period: number of steps between two checkpoints; 0 saves only the
      last step, which always gets a checkpoint.
    keep_checkpoints: number of checkpoints that are kept; older ones are
      deleted.
    log_period: number of steps between two reads of the loss from the devices.
      The losses of all steps are recorded, whatever the period.
    num_microbatches: number of equal parts in which each batch is computed.
    random_seed: seed of the initial weights and of dropout.
    save_frozen: whether checkpoints hold the frozen variables. If not, they
      refer to the initial checkpoint, see `engine.frozen_parts`.

  Returns:
    The state after the last step, or None if an earlier start of the run has
    already done all steps.

  Raises:
    UserError: the input is bad; the message names the binding or file at fault.
    SystemExit: SIGTERM or SIGINT came; the state has been saved.
  """
  latest_step = checkpoint_folders.latest_step(model_dir)
  is_finished = latest_step is not None and latest_step >= total_steps
  folder = files.folder(model_dir, 'MODEL_DIR')
  if not is_finished:
    files.check_writable(model_dir, 'MODEL_DIR')
    checkpoint_folders.check_saving(folder)
    locks.check_free(model_dir, 'MODEL_DIR')
    restarts.refuse_other_commands(model_dir, 'MODEL_DIR', 'train')
  warm_start = warm_start or WarmStart()
  held_out = (eval_data or data.held_out()) if eval_period else None
  if not is_finished:
    data, held_out = data_process.apart(model, data, held_out)
  partitioner.check_batch(data.batch_size, num_microbatches)
  warm_start.check(model.module.teacher is not None, save_frozen)
  start = warm_start
  if latest_step is None and not save_frozen:
    start = warm_start.pinned()

  def prepare() -> tuple[TrainState, Callable]:
    """The state, abstract if it will be restored, and the compiled step."""
    shapes = data.shapes(model)
    if latest_step is None:
      state, shardings = train_state.initial_state(
        model, shapes, partitioner, random_seed, start, save_frozen
      )
    else:
      state, shardings = train_state.abstract_state(model, shapes, partitioner)
    step_fn = partitioner.compile(
      train_step.make_train_step(model, num_microbatches),
      **train_step.train_step_jit(partitioner, shardings),
    )
    step_fn.prepare(*train_step.arguments(state, shapes, partitioner))
    return state, step_fn

  prepared: Callable = prepare
  if isinstance(data, data_process.RemoteData):
    # Meanwhile, the other process opens the data.
    prepared = background.in_thread(prepare)
  data.check(model)
  data.check_steps(total_steps)
  settings = restarts.settings(model, data, warm_start, random_seed)
  if latest_step is not None:
    restarts.check(model_dir, settings)
  if is_finished:
    print(
      f'{model_dir}: finished, {latest_step} of TRAIN_STEPS = {total_steps} '
      'done.'
    )
    return None
  batches = data.train_batches(model, partitioner)
  evaluate = None
  if held_out is not None:
    held_out.check(model)
    evaluate = _make_evaluate(
      model, held_out.batches(model), eval_steps, partitioner
    )
  # All checks come before the checkpointer makes the run's folder: a mistake in
  # the configuration must not leave an empty folder behind.
  if latest_step is None:
    batches.open()
  state, step_fn = prepared()
  del prepared  # which may hold the arrays of the first step
  part = frozen = None
  if latest_step is not None:
    frozen = warm_start.saved_frozen(model_dir, latest_step)
  elif not save_frozen:
    part = start.frozen_part(state.frozen, model_dir)
  as_saved = state.as_saved()
  if not save_frozen:
    as_saved = frozen_parts.without_frozen(as_saved)
  checkpoint_size = checkpoints.size(as_saved)
  del as_saved  # which holds the arrays of the first step
  num_steps = total_steps - (latest_step or 0)
  num_saves = -(-num_steps // checkpoint_period) if checkpoint_period else 1
  files.check_writable(
    model_dir,
    'MODEL_DIR',
    # A checkpoint is deleted once a newer one is saved.
    min(num_saves, keep_checkpoints + 1 - checkpoint_folders.count(folder))
    * checkpoint_size,
  )
  _print_counts(state)

  gin_effect.check_overridden()
  with contextlib.ExitStack() as stack:
    stack.enter_context(locks.folder_lock(model_dir, 'MODEL_DIR'))
    if checkpoint_folders.latest_step(model_dir) != latest_step:
      raise UserError(
        f'MODEL_DIR = {model_dir!r}: another command has trained there in the '
        'meantime; run this one again to go on from there.'
      )
    checkpointer = checkpoints.Checkpointer(model_dir, keep_checkpoints)
    stack.callback(checkpointer.close)
    if latest_step is not None:
      saved_state, position = checkpointer.restore(
        latest_step, state.as_saved(), frozen
      )
      state = state.from_saved(saved_state)
      if not save_frozen:
        part = warm_start.part_to_save(state.frozen, model_dir, latest_step)
      batches.move(position)
      print(f'Going on from step {latest_step}.', file=sys.stderr)
      restarts.keep_config(model_dir, latest_step, saved_config.text('train'))
    checkpointer.frozen_part = part
    restarts.record(model_dir, settings)
    saved_config.save(model_dir, 'train')
    saved_config.save_model(model_dir)
    rng = jax.device_put(jax.random.key(random_seed), partitioner.replicated)
    return train_loop.Loop(
      lambda state, batch: step_fn(state, batch, rng),
      evaluate,
      checkpointer,
      summaries.Writer(model_dir, latest_step or 0),
      model_dir,
      {
        'total': total_steps,
        'log': log_period,
        'eval': eval_period,
        'checkpoint': checkpoint_period,
      },
    ).run(state, batches)


def _make_evaluate(
  model: HyperTuningModel,
  batches: Iterable[batching.Batch],
  count: int | None,
  partitioner: Partitioner,
) -> Callable[[TrainState], dict[str, float]]:
  """Makes the function that evaluates a state on held-out episodes.

  Args:
    model: the model that is trained.
    batches: batches of held-out episodes, which can be read many times.
    count: number of batches per evaluation; None takes all.
    partitioner: the devices that evaluate.

  Returns:
    A function from a state to the numbers of `statistics.summarize`: the loss
    in every phi mode, and the gaps between modes.
  """
  modes = phi_modes.default_modes(model)
  step_fn = partitioner.compile(eval_step.make_step(model, modes))

  def evaluate(state: TrainState) -> dict[str, float]:
    outputs = eval_step.collect(
      lambda batch, first: step_fn(
        state.params,
        state.frozen,
        batch,
        eval_step.episode_keys(0, '', first, len(batch['is_real'])),
      ),
      batching.on_devices(batches, partitioner.batch, count),
    )
    return statistics.summarize(outputs)

  return evaluate


def _print_counts(state: TrainState) -> None:
  """Prints how many parameters train, in the words that PEFT uses."""
  trainable = quantization.count(state.params)
  total = trainable + quantization.count(state.frozen)
  print(
    f'trainable params: {trainable:,} || all params: {total:,} || '
    f'trainable%: {100 * trainable / total:.2f}',
    flush=True,
  )
