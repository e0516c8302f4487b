"""Does training ever have to wait for the input pipeline?

    python -m hypertuning.benchmarks.input_pipeline \\
      --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=gin/experiments/toy.gin \\
      --gin_file=gin/optimizers/adamw.gin \\
      --gin_file=gin/benchmarks/input_pipeline.gin \\
      --gin.MIXTURE_OR_TASK_NAME="'toy'" ...

Takes the gin files of a training. Prints a row of a Markdown table: the
episodes per second of its pipeline, those of its training step on a batch that
is already on the devices, and the ratio of the two. BENCHMARK_OUTPUT is a JSON
file that gets them, with the machine and its versions. Pipeline and step are
measured in turn, so that each has all cores of the machine to itself.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.benchmarks.input_pipeline', 'measure')

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

from hypertuning import files, quantization
from hypertuning.benchmarks import machine, options
from hypertuning.engine import (
  data_process,
  summaries,
  train_state,
  train_step,
)
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Path

_OUTPUT = 'BENCHMARK_OUTPUT'

HEADER = (
  '| task | parameters | batch | pipeline, episodes/s | model, steps/s '
  '| model, episodes/s | pipeline / model |\n|' + ' --- |' * 7
)


def measure(
  *,
  model: HyperTuningModel,
  data: TaskData,
  rounds: Count = 7,
  batches_a_round: Count = 20,
  steps_a_round: Count = 1,
  output: Path | None = None,
) -> dict[str, Any]:
  """Measures the pipeline and the step of a training, and prints both.

  Args:
    model: the model whose training step is measured.
    data: the episodes of the training.
    rounds: number of rounds; each measures the pipeline, then the step. The
      medians over the rounds are printed.
    batches_a_round: number of batches that are drawn per round.
    steps_a_round: number of training steps per round.
    output: path of a JSON file that gets the results; None for none.

  Returns:
    `pipeline`: episodes per second of the pipeline; `steps`: training steps per
    second; `ratio`: episodes per second of the pipeline, divided by those of
    the training step; `rounds`: the first two in every round.

  Raises:
    UserError: the input is bad, as for training.
  """
  if output:
    files.check_file(output, _OUTPUT)
  episodes, _ = data_process.apart(model, data, None)  # as in a training
  partitioner = Partitioner()
  partitioner.check_batch(data.batch_size)
  episodes.check(model)
  batches = episodes.train_batches(model, partitioner)
  batch = next(batches)
  state, shardings = train_state.initial_state(
    model, data.shapes(model), partitioner, seed=0
  )
  step_fn = partitioner.compile(
    train_step.make_train_step(model),
    **train_step.train_step_jit(partitioner, shardings),
  )
  rng = jax.random.key(0)
  parameters = quantization.count((state.params, state.frozen))

  def draw() -> None:
    next(batches)

  def step() -> None:
    nonlocal state
    state, scalars = step_fn(state, batch, rng)
    jax.block_until_ready(scalars)

  draw()
  step()  # compiles
  progress = summaries.Progress(rounds, label='rounds')
  batch_rates, step_rates = [], []
  for _ in range(rounds):
    # Batches have been prepared in advance, during the steps of the round
    # before. They are used up here, so that they do not count as fast draws.
    _rate(draw, batches_a_round)
    batch_rates.append(_rate(draw, batches_a_round))
    step_rates.append(_rate(step, steps_a_round))
    progress.update()
  progress.close()
  batch_size = data.batch_size
  pipeline = batch_size * statistics.median(batch_rates)
  steps = statistics.median(step_rates)
  ratio = pipeline / (batch_size * steps)
  print(HEADER)
  print(
    f'| {data.name} | {parameters:,} | {batch_size} | '
    f'{pipeline:,.0f} | {steps:.3g} | {batch_size * steps:,.3g} | '
    f'{ratio:,.3g} |'
  )
  found = {
    **{'pipeline': pipeline, 'steps': steps, 'ratio': ratio},
    'rounds': {
      'pipeline': [batch_size * rate for rate in batch_rates],
      'steps': step_rates,
    },
  }
  run = {'task': data.name, 'batch': batch_size, 'parameters': parameters}
  options.write(
    output,
    {'subject': 'input_pipeline', **run, **found, **machine.describe()},
    _OUTPUT,
  )
  return found


def _rate(function: Callable[[], None], times: int) -> float:
  """Calls a function many times, and returns the calls per second."""
  start = time.perf_counter()
  for _ in range(times):
    function()
  return times / (time.perf_counter() - start)
