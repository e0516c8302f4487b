"""What does a query cost with generated phi, and with examples in context?

    python -m hypertuning.benchmarks.query_cost \\
      --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=gin/experiments/toy.gin \\
      --gin_file=gin/benchmarks/query_cost.gin \\
      --gin.MIXTURE_OR_TASK_NAME="'toy'" ...

Takes the model's gin files of an evaluation, and one task in two forms: in the
first, the hypermodel reads the examples; in the second, the examples stand in
the frozen model's own input. An encoder reads such examples again with every
query, whereas phi is made once. Prints the cost of making phi, the cost of a
query in each form, and the number of queries after which phi has paid for
itself.

The cost of a query is that of one pass over its input and its target
(`score_batch`). This work has a fixed size, whereas decoding may stop early.
Padding is computed like text, and counts: the lengths should be no greater than
the texts need, and the lengths in context must have room for the examples.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.benchmarks.query_cost', 'measure')

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from hypertuning import files, saved_config
from hypertuning.data.features import check_lengths
from hypertuning.engine import batching, restarts, summaries, train_state
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.planning import flops
from hypertuning.ranges import Count, Natural, Path

MAKING_PHI = 'making phi'
WITH_PHI = 'query with phi'
IN_CONTEXT = 'query in context'
BREAK_EVEN = 'break even'
NO_BREAK_EVEN = 'never'
_COMMAND = 'benchmarks.query_cost'
HEADER = (
  '| way | MFLOPs | / query with phi | ms | fastest to slowest round '
  '| / query with phi |\n|' + ' --- |' * 6
)

Row = dict[str, Any]


def measure(
  *,
  model: HyperTuningModel,
  data: TaskData,
  in_context: TaskData,
  checkpoint_path: Path | None = None,
  output_dir: Path | None = None,
  rounds: Natural = 7,
  calls_a_round: Count = 3,
  moved_checkpoints: Mapping[Path, Path] | None = None,
) -> list[Row]:
  """Counts the FLOPs and measures the seconds of the three kinds of work.

  These are making phi, a query with phi, and a query with its examples in
  context. The results are printed as a table.

  Args:
    model: a model with a hypermodel.
    data: a task whose examples the hypermodel reads. One batch of it is drawn,
      and all of its queries are answered at once.
    in_context: the same task with its examples in the frozen model's input. Its
      batches have the same size, and its episodes as many queries with targets
      of the same length.
    checkpoint_path: folder of a run, or one of its checkpoints; None takes
      random weights, which cost the same.
    output_dir: folder that gets the results; None writes none.
    rounds: number of rounds; each measures the three in turn, and the medians
      over the rounds are printed. With 0, only FLOPs are counted, and no
      weights are made.
    calls_a_round: number of calls of each of the three per round.
    moved_checkpoints: maps folders of checkpoints that hold the frozen parts of
      others to the folders in which they are now, see `engine.frozen_parts`.

  Returns:
    A row for each of the three, with the FLOPs of all matmuls, the seconds
    (median, fastest and slowest round; None without rounds), and the bytes of
    an episode's phi in float32 and bfloat16. The costs of making phi are per
    episode, those of a query per query. The last row has the number of queries
    after which phi has paid for itself.

  Raises:
    UserError: the input is bad; the message names the binding at fault.
  """
  if output_dir is not None:
    files.check_writable(output_dir, 'COST_OUTPUT_DIR')
    restarts.refuse_other_commands(output_dir, 'COST_OUTPUT_DIR', _COMMAND)
  if not model.has_hypermodel:
    raise UserError(
      'HYPERMODEL = None: this model makes no phi; take a hypermodel, such as '
      'gin/models/hyper_t5_prefix.gin.'
    )
  _check_lengths(data.lengths, in_context.lengths)
  batch_size, queries = data.batch_size, data.queries
  partitioner = Partitioner()
  partitioner.check_batch(batch_size)
  for episodes in (data, in_context):
    episodes.check(model)

  counts = {
    MAKING_PHI: batch_size,
    WITH_PHI: batch_size * queries,
    IN_CONTEXT: batch_size * queries,
  }
  ways = _ways(model)
  shapes = data.shapes(model)
  abstract = _abstract(model, shapes, in_context.shapes(model), partitioner)
  with partitioner.context():
    work = {
      way: flops.matmul_flops(jax.make_jaxpr(function)(*abstract[way]))
      for way, function in ways.items()
    }
  times: dict[str, list[float]] = {}
  if rounds:
    batch, other = (_batch(model, x, partitioner) for x in (data, in_context))
    variables = _variables(
      model, shapes, partitioner, checkpoint_path, moved_checkpoints
    )
    times = _times(
      ways, variables, batch, other, partitioner, rounds, calls_a_round
    )
  leaves = jax.tree.leaves(abstract[WITH_PHI][-1])
  numbers = sum(x.size // x.shape[0] for x in leaves)  # per episode
  rows: list[Row] = []
  for way, count in counts.items():
    seconds = [x / count for x in times.get(way, ())]
    phi = 0 if way == IN_CONTEXT else numbers
    rows.append(
      {
        'way': way,
        'flops': work[way] // count,
        'seconds': statistics.median(seconds) if seconds else None,
        'seconds_low': min(seconds, default=None),
        'seconds_high': max(seconds, default=None),
        'phi_bytes': 4 * phi,
        'phi_bytes_bfloat16': 2 * phi,
      }
    )
  rows.append(
    {
      'way': BREAK_EVEN,
      'queries_by_flops': break_even(*(row['flops'] for row in rows)),
      'queries_by_seconds': (
        break_even(*(row['seconds'] for row in rows)) if rounds else None
      ),
    }
  )
  if output_dir is not None:
    files.remove(output_dir, 'results.jsonl')
    saved_config.save(output_dir, _COMMAND)
    summaries.write_jsonl(output_dir, 'results', rows)
  print(table(rows))
  return rows


def break_even(
  phi_cost: float, with_phi: float, in_context: float
) -> float | str:
  """The number of queries after which making phi has paid for itself.

  Args:
    phi_cost: cost of making an episode's phi.
    with_phi: cost of a query with this phi.
    in_context: cost of a query with the examples in context.

  Returns:
    The number, not rounded; 'never' if a query with phi is not cheaper.
  """
  saving = in_context - with_phi
  return phi_cost / saving if saving > 0 else NO_BREAK_EVEN


def table(rows: list[Row]) -> str:
  """A Markdown table of the costs, and sentences about what follows."""
  *ways, even = rows
  unit = next(row for row in ways if row['way'] == WITH_PHI)
  lines = [HEADER]
  for row in ways:
    each = 'an episode' if row['way'] == MAKING_PHI else 'each'
    cells = [f'{row["way"]}, {each}', f'{row["flops"] / 1e6:,.3f}']
    cells.append(_digits(row['flops'] / unit['flops']))
    if row['seconds'] is None:
      cells += ['-'] * 3
    else:
      low, middle, high = (
        _digits(1e3 * row[name])
        for name in ('seconds_low', 'seconds', 'seconds_high')
      )
      ratio = _digits(row['seconds'] / unit['seconds'])
      cells += [middle, f'{low} to {high}', ratio]
    lines.append(f'| {" | ".join(cells)} |')
  queries = _queries(even['queries_by_flops'])
  lines.append(f'\nMaking phi has paid for itself, by FLOPs: {queries}.')
  if even['queries_by_seconds'] is not None:
    queries = _queries(even['queries_by_seconds'])
    lines.append(f'Making phi has paid for itself, by seconds: {queries}.')
  lines.append(
    f'Phi of an episode: {unit["phi_bytes"]:,} bytes in float32, '
    f'{unit["phi_bytes_bfloat16"]:,} in bfloat16.'
  )
  return '\n'.join(lines)


def _digits(value: float) -> str:
  """A number with three significant digits, if possible without exponent."""
  return f'{float(f"{value:.3g}"):,g}'


def _queries(value: float | str) -> str:
  return value if isinstance(value, str) else f'after {value:,.2f} queries'


def _check_lengths(
  lengths: Mapping[str, Any], in_context: Mapping[str, Any]
) -> None:
  """Refuses lengths with which the two forms would not answer the same.

  Raises:
    UserError: names IN_CONTEXT_FEATURE_LENGTHS.
  """
  name = 'IN_CONTEXT_FEATURE_LENGTHS'
  check_lengths(lengths)
  check_lengths(in_context, binding=name)
  # This also compares the numbers of queries: `check_lengths` has made sure
  # that inputs and targets have the same number.
  if tuple(lengths['targets']) != tuple(in_context['targets']):
    raise UserError(
      f"{name}['targets'] = {in_context['targets']!r}, but TASK_FEATURE_LENGTHS"
      f' has {lengths["targets"]!r}: both ways must answer the same.'
    )


def _ways(model: HyperTuningModel) -> dict[str, Callable[..., Any]]:
  """Maps each kind of work to its function.

  The functions take `(params, frozen, batch)`, and a query with phi also phi.
  """

  def make_phi(params: Any, frozen: Any, batch: Any) -> Any:
    return model.generate_adapters(params, batch, {'frozen': frozen})

  def query(params: Any, frozen: Any, batch: Any, phi: Any = None) -> Any:
    return model.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=phi
    )

  return {MAKING_PHI: make_phi, WITH_PHI: query, IN_CONTEXT: query}


def _abstract(
  model: HyperTuningModel,
  shapes: Mapping[str, tuple[int, ...]],
  in_context_shapes: Mapping[str, tuple[int, ...]],
  partitioner: Partitioner,
) -> dict[str, tuple[Any, ...]]:
  """The arguments of the functions of `_ways`, as abstract arrays."""
  variables = jax.eval_shape(lambda: _initial(model, shapes))
  batch, in_context = (
    {
      name: jax.ShapeDtypeStruct(x, 'int32')
      for name, x in feature_shapes.items()
    }
    for feature_shapes in (shapes, in_context_shapes)
  )
  with partitioner.context():
    phi = jax.eval_shape(_ways(model)[MAKING_PHI], *variables, batch)
  return {
    MAKING_PHI: (*variables, batch),
    WITH_PHI: (*variables, batch, phi),
    IN_CONTEXT: (*variables, in_context),
  }


def _initial(
  model: HyperTuningModel, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Any, Any]:
  """Random `(params, frozen)`."""
  variables = model.get_initial_variables(jax.random.key(0), shapes)
  return variables['params'], variables.get('frozen', {})


def _variables(
  model: HyperTuningModel,
  shapes: Mapping[str, tuple[int, ...]],
  partitioner: Partitioner,
  checkpoint_path: str | None,
  moved: Mapping[str, str] | None,
) -> tuple[Any, Any]:
  """`(params, frozen)` on the devices, from a checkpoint or at random."""
  if checkpoint_path is not None:
    return train_state.restore_variables(
      model, shapes, partitioner, checkpoint_path, moved=moved
    )
  create = partitioner.compile(
    lambda: _initial(model, shapes), out_shardings=partitioner.replicated
  )
  return create()


def _batch(
  model: HyperTuningModel, data: TaskData, partitioner: Partitioner
) -> dict[str, jax.Array]:
  """The first batch of a task."""
  for batch in batching.on_devices(data.batches(model), partitioner.batch, 1):
    batch.pop('is_real')
    return batch
  raise UserError(f'{data.name} has no episodes in its split {data.split!r}.')


def _times(
  ways: Mapping[str, Callable[..., Any]],
  variables: tuple[Any, Any],
  batch: dict[str, jax.Array],
  in_context: dict[str, jax.Array],
  partitioner: Partitioner,
  rounds: int,
  calls: int,
) -> dict[str, list[float]]:
  """The seconds per call of each function, one number per round."""
  compiled = {
    way: partitioner.compile(function) for way, function in ways.items()
  }
  phi = compiled[MAKING_PHI](*variables, batch)
  arguments = {
    MAKING_PHI: (*variables, batch),
    WITH_PHI: (*variables, batch, phi),
    IN_CONTEXT: (*variables, in_context),
  }
  for way, function in compiled.items():
    jax.block_until_ready(function(*arguments[way]))  # compiles
  progress = summaries.Progress(rounds, label='rounds')
  times: dict[str, list[float]] = {way: [] for way in compiled}
  for _ in range(rounds):
    for way, function in compiled.items():
      start = time.perf_counter()
      for _ in range(calls):
        jax.block_until_ready(function(*arguments[way]))
      times[way].append((time.perf_counter() - start) / calls)
    progress.update()
  progress.close()
  return times
