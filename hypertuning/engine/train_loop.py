"""Takes the steps of a run; logs, evaluates and saves between them."""

import math
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax

from hypertuning import files, tables
from hypertuning.engine import batching, checkpoints, summaries
from hypertuning.engine.train_state import TrainState
from hypertuning.errors import UserError


class Loop:
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
    """Keeps what the steps need.

    Args:
      step_fn: function that takes a step: from a state and a batch to the next
        state and its scalars.
      evaluate: function from a state to the numbers of an evaluation; None
        evaluates nothing.
      checkpointer: writes checkpoints.
      writer: writes scalars.
      model_dir: folder of the run, for messages.
      periods: number of steps between two of a kind: `log`, `eval` and
        `checkpoint`, of which 0 turns the last two off; and `total`, the number
        of steps of the run.
    """
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
    """Trains to the last step, or until a signal comes.

    Args:
      state: the state after the last step that was taken.
      batches: the batches of the steps.

    Returns:
      The state after the last step.

    Raises:
      UserError: a number is not finite, or a file cannot be written.
      SystemExit: SIGTERM or SIGINT came; the state has been saved.
    """
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
