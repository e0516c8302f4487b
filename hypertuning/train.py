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
import math
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from hypertuning import (
  files,
  gin_effect,
  gin_utils,
  locks,
  quantization,
  saved_config,
  tables,
)
from hypertuning.engine import (
  batching,
  checkpoint_folders,
  checkpoints,
  frozen_parts,
  restarts,
  summaries,
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
    restarts.refuse_other_commands(model_dir, 'MODEL_DIR', 'train')
  partitioner.check_batch(data.batch_size, num_microbatches)
  warm_start = warm_start or WarmStart()
  warm_start.check(model.module.teacher is not None, save_frozen)
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
  if eval_period:
    held_out = eval_data or data.held_out()
    held_out.check(model)
    evaluate = _make_evaluate(
      model, held_out.batches(model), eval_steps, partitioner
    )
  # All checks come before the checkpointer makes the run's folder: a mistake in
  # the configuration must not leave an empty folder behind.
  shapes = data.shapes(model)
  part = frozen = None
  if latest_step is None:
    batches.open()
    if not save_frozen:
      warm_start = warm_start.pinned()
    state, shardings = train_state.initial_state(
      model, shapes, partitioner, random_seed, warm_start, save_frozen
    )
    if not save_frozen:
      part = warm_start.frozen_part(state.frozen, model_dir)
  else:
    state, shardings = train_state.abstract_state(model, shapes, partitioner)
    frozen = warm_start.saved_frozen(model_dir, latest_step)
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
    step_fn = partitioner.compile(
      train_step.make_train_step(model, num_microbatches),
      **train_step.train_step_jit(partitioner, shardings),
    )
    rng = jax.random.key(random_seed)
    return _Loop(
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


class _Loop:
  """Takes the steps; logs, evaluates and saves whenever a period ends."""

  def __init__(
    self,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict]],
    evaluate: Callable[[TrainState], dict[str, float]] | None,
    checkpointer: checkpoints.Checkpointer,
    writer: summaries.Writer,
    model_dir: str,
    periods: Mapping[str, int],
  ) -> None:
    self._step_fn = step_fn
    self._evaluate = evaluate
    self._checkpointer = checkpointer
    self._writer = writer
    self._model_dir = model_dir
    self._periods = periods
    self._pending: list[tuple[int, dict]] = []

  def run(
    self, state: TrainState, batches: batching.TrainBatches
  ) -> TrainState:
    """Trains to the last step, or until a signal comes."""
    first, total = int(state.step), self._periods['total']
    label = files.folder(self._model_dir).name
    progress = summaries.Progress(total, first, label)
    with _Interruption() as interruption:
      for step in range(first + 1, total + 1):
        state, scalars = self._step_fn(state, next(batches))
        self._pending.append((step, scalars))
        last = step == total or interruption.signal is not None
        values = {}
        # `_write` refuses a loss that is not finite: it comes before the state
        # is saved, so that no checkpoint holds broken weights.
        if last or self._due('log', step) or self._due('checkpoint', step):
          values['loss'] = f'{self._write():.3f}'
        progress.update(**values)
        if self._evaluate and (step == total or self._due('eval', step)):
          results = self._evaluate(state)
          self._check_finite(results, step, 'held-out ')
          self._writer.write(step, {f'eval/{k}': v for k, v in results.items()})
          progress.say(_losses(step, results))
        if last or self._due('checkpoint', step):
          # A run that goes on from this checkpoint keeps the lines before it.
          self._writer.flush()
          self._checkpointer.save(step, state.as_saved(), batches.position())
        if last:
          break
    progress.close()
    if interruption.signal is not None and step < total:
      self._checkpointer.close()
      print(
        f'Stopped by {interruption.signal.name} at step {step}, which is '
        'saved: the same command goes on from there.',
        file=sys.stderr,
      )
      sys.exit(128 + interruption.signal)
    return state

  def _due(self, period_name: str, step: int) -> bool:
    period = self._periods[period_name]
    return period > 0 and step % period == 0

  def _check_finite(
    self, values: Mapping[str, float], step: int, prefix: str = ''
  ) -> None:
    """Refuses losses and gradient norms that are not finite.

    Args:
      values: maps names to the numbers of a step. Standard errors are not
        checked: they may be unknown.
      step: number of the step.
      prefix: words before the name in the message.

    Raises:
      UserError: names the number and the step.
    """
    for name, value in values.items():
      if name.endswith(tables.ERRORS) or math.isfinite(value):
        continue
      raise UserError(
        f'{prefix}{name} is {value} at step {step}: lower LEARNING_RATE and '
        'run the command again; it goes on from the last checkpoint in '
        f'MODEL_DIR = {self._model_dir!r}.'
      )

  def _write(self) -> float:
    """Writes the scalars of the steps since the last call.

    Returns:
      The loss of the last step.

    Raises:
      UserError: a number of a step is not finite.
    """
    loss = math.nan
    for step, scalars in self._pending:
      values = {k: float(x) for k, x in jax.device_get(scalars).items()}
      self._check_finite(values, step)
      self._writer.write(step, {f'train/{k}': x for k, x in values.items()})
      loss = values['loss']
    self._pending.clear()
    return loss


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


def _losses(step: int, results: Mapping[str, float]) -> str:
  """One line with the held-out loss in every phi mode."""
  losses = ', '.join(
    f'{name.removeprefix("loss/")} {value:.3f} '
    f'± {results[f"{name}_stderr"]:.3f}'
    for name, value in results.items()
    if name.startswith('loss/') and not name.endswith('_stderr')
  )
  return f'step {step}: held-out loss by phi: {losses}'


class _Interruption:
  """Notes SIGTERM and SIGINT, so that the loop can end after its step."""

  def __init__(self) -> None:
    self.signal: signal.Signals | None = None

  def __enter__(self) -> '_Interruption':
    self._before = {
      number: signal.signal(number, self._note)
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    return self

  def __exit__(self, *unused: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number: int, unused_frame: Any) -> None:
    self.signal = signal.Signals(number)
