"""Is the input pipeline ever what training waits for?

    python -m hypertuning.benchmarks.input_pipeline \\
      --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=gin/experiments/toy.gin \\
      --gin_file=gin/optimizers/adamw.gin \\
      --gin_file=gin/benchmarks/input_pipeline.gin \\
      --gin.MIXTURE_OR_TASK_NAME="'toy'" ...

takes the gin files of a run, and prints a row of Markdown: episodes a second
of its pipeline, of its training step on batches that are there already, and
their ratio. The two take turns on this machine's cores.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.benchmarks.input_pipeline', 'measure')

import statistics
import time
from collections.abc import Callable

import jax

from hypertuning.engine import summaries, train_state, train_step
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

HEADER = (
  '| task | parameters | batch | pipeline, episodes/s | model, steps/s '
  '| model, episodes/s | pipeline / model |\n|' + ' --- |' * 7
)


def measure(
  *,
  model: HyperTuningModel,
  data: TaskData,
  rounds: int = 7,
  batches_a_round: int = 20,
  steps_a_round: int = 1,
) -> dict[str, float]:
  """Measures a run's pipeline and its step, and prints the two.

  Args:
    model: the model whose step is measured.
    data: the episodes of its training.
    rounds: rounds of measuring one, then the other; medians over rounds are
      printed.
    batches_a_round: batches of the pipeline per round.
    steps_a_round: steps of training per round.

  Returns:
    `pipeline`, its episodes per second; `steps`, the model's steps per second;
    and `ratio`, the pipeline's episodes divided by those of the model.

  Raises:
    UserError: bad input, as for training.
  """
  for name, value in (
    ('ROUNDS', rounds),
    ('BATCHES_A_ROUND', batches_a_round),
    ('STEPS_A_ROUND', steps_a_round),
  ):
    if value < 1:
      raise UserError(f'{name} = {value}: must be 1 or more.')
  partitioner = Partitioner()
  partitioner.check_batch(data.batch_size)
  data.check(model)
  batches = data.train_batches(model, partitioner)
  batch = next(batches)
  state, shardings = train_state.initial_state(
    model, data.shapes(model), partitioner, seed=0
  )
  step_fn = partitioner.compile(
    train_step.make_train_step(model),
    donate_argnums=0,
    out_shardings=(shardings, partitioner.replicated),
  )
  rng = jax.random.key(0)
  leaves = jax.tree.leaves((state.params, state.frozen))
  parameters = sum(leaf.size for leaf in leaves)

  def draw() -> None:
    next(batches)

  def step() -> None:
    nonlocal state
    state, scalars = step_fn(state, batch, rng)
    jax.block_until_ready(scalars)

  draw()
  step()  # compiles
  progress = summaries.Progress(rounds, label='rounds')
  drawn, stepped = [], []
  for _ in range(rounds):
    _rate(draw, batches_a_round)  # what was drawn in advance, during the step
    drawn.append(_rate(draw, batches_a_round))
    stepped.append(_rate(step, steps_a_round))
    progress.update()
  progress.close()
  batch_size = data.batch_size
  pipeline = batch_size * statistics.median(drawn)
  steps = statistics.median(stepped)
  ratio = pipeline / (batch_size * steps)
  print(HEADER)
  print(
    f'| {data.name} | {parameters:,} | {batch_size} | '
    f'{pipeline:,.0f} | {steps:.3g} | {batch_size * steps:,.3g} | '
    f'{ratio:,.3g} |'
  )
  return {'pipeline': pipeline, 'steps': steps, 'ratio': ratio}


def _rate(function: Callable[[], None], times: int) -> float:
  """Calls per second."""
  start = time.perf_counter()
  for _ in range(times):
    function()
  return times / (time.perf_counter() - start)
