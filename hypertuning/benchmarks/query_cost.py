"""What does a query cost with generated phi, and with examples in context?

    python -m hypertuning.benchmarks.query_cost \\
      --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=gin/experiments/toy.gin \\
      --gin_file=gin/benchmarks/query_cost.gin \\
      --gin.MIXTURE_OR_TASK_NAME="'toy'" ...

Takes the model's gin files of an evaluation, and one task in two forms: in the
first, the hypermodel reads the examples; in the second, the examples stand in
the frozen model's own input. Three ways of answering are compared:

* with phi, which is made once per episode;
* with the examples in context, which are read again with every query;
* with the examples in context, whose keys and values are cached once per
  episode. A decoder-only network can do this, an encoder cannot.

Prints the cost of making phi and the cache, the cost of a query in each form,
and the number of queries after which phi has paid for itself.

The cost of a query is that of one pass over its input and its target
(`score_batch`). This work has a fixed size, whereas decoding may stop early.
Padding is computed like text, and counts: the lengths should be no greater than
the texts need, and the lengths in context must have room for the examples.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.benchmarks.query_cost', 'measure')

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from hypertuning import files, saved_config
from hypertuning.benchmarks import cached_context, cost_table, machine
from hypertuning.benchmarks.cost_table import (
  IN_CONTEXT,
  MAKING_CACHE,
  MAKING_PHI,
  PER_EPISODE,
  WITH_CACHE,
  WITH_PHI,
  Row,
)
from hypertuning.data import lengths as lengths_lib
from hypertuning.engine import batching, restarts, summaries, train_state
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.planning import flops
from hypertuning.ranges import Count, Natural, Path

_COMMAND = 'benchmarks.query_cost'
_Batches = Mapping[str, Mapping[str, Any]]


class _Way(NamedTuple):
  """One kind of work.

  Attributes:
    function: function of `(params, frozen, batch)`, and of adapters if it reads
      any.
    batch: name of the batch that it reads.
    adapters: name of the way that makes the adapters it reads; None for none.
  """

  function: Callable[..., Any]
  batch: str
  adapters: str | None = None


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
  """Counts the FLOPs and measures the seconds of every way.

  These are making phi, a query with phi, and a query with its examples in
  context; if the network can, also making a cache of the examples, and a query
  that goes on from it. The results are printed as a table.

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
    rounds: number of rounds; each measures all ways in turn, and the medians
      over the rounds are printed. With 0, only FLOPs are counted, and no
      weights are made.
    calls_a_round: number of calls of each way per round.
    moved_checkpoints: maps folders of checkpoints that hold the frozen parts of
      others to the folders in which they are now, see `engine.frozen_parts`.

  Returns:
    A row for each way, with the FLOPs of all matmuls, the seconds (median,
    fastest and slowest round; None without rounds), and the bytes that are kept
    of an episode, which are those of phi or of the cache, in float32 and
    bfloat16. The costs of making phi and the cache are per episode, those of a
    query per query. If the network cannot cache, the row of the cached query
    has the `reason` in place of numbers. The last row has the numbers of
    queries after which phi has paid for itself.

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
  partitioner = Partitioner()
  partitioner.check_batch(data.batch_size)
  for episodes in (data, in_context):
    episodes.check(model)

  ways = _ways(model)
  shapes = data.shapes(model)
  abstract = _abstract(ways, model, shapes, in_context.shapes(model))
  with partitioner.context():
    arguments = _arguments(ways, *abstract, jax.eval_shape)
    work = {
      name: flops.matmul_flops(jax.make_jaxpr(way.function)(*arguments[name]))
      for name, way in ways.items()
    }
  times: dict[str, list[float]] = {}
  if rounds:
    batches = _batches(model, data, in_context, partitioner)
    variables = _variables(
      model, shapes, partitioner, checkpoint_path, moved_checkpoints
    )
    times = _times(ways, variables, batches, partitioner, rounds, calls_a_round)
  sizes = {
    way.adapters: _numbers(arguments[name][-1])
    for name, way in ways.items()
    if way.adapters is not None
  }
  rows: list[Row] = []
  for name, way in ways.items():
    count = data.batch_size * (1 if name in PER_EPISODE else data.queries)
    size = sizes.get(way.adapters or name, 0)
    rows.append(
      _row(name, work[name] // count, times.get(name, ()), count, size)
    )
  reason = cached_context.reason_against(model)
  if reason:
    rows.append({'way': WITH_CACHE, 'reason': reason})
  rows.append(cost_table.break_even_row(rows))
  if output_dir is not None:
    files.remove(output_dir, 'results.jsonl')
    saved_config.save(output_dir, _COMMAND)
    summaries.write_jsonl(output_dir, 'results', rows)
    text = json.dumps(machine.describe(), indent=2)
    files.write_text(output_dir, 'machine.json', f'{text}\n')
  print(cost_table.table(rows))
  return rows


def _row(
  name: str, work: int, times: Sequence[float], count: int, size: int
) -> Row:
  seconds = [x / count for x in times]
  return {
    'way': name,
    'flops': work,
    'seconds': statistics.median(seconds) if seconds else None,
    'seconds_low': min(seconds, default=None),
    'seconds_high': max(seconds, default=None),
    'phi_bytes': 4 * size,
    'phi_bytes_bfloat16': 2 * size,
  }


def _numbers(adapters: Any) -> int:
  """How many numbers are kept of one episode; a mask is not counted."""
  leaves = jax.tree.leaves(adapters)
  return sum(x.size // x.shape[0] for x in leaves if x.dtype != bool)


def _check_lengths(
  lengths: Mapping[str, Any], in_context: Mapping[str, Any]
) -> None:
  """Refuses lengths with which the two forms would not answer the same.

  Raises:
    UserError: names IN_CONTEXT_FEATURE_LENGTHS.
  """
  name = 'IN_CONTEXT_FEATURE_LENGTHS'
  lengths_lib.check(lengths)
  lengths_lib.check(in_context, binding=name)
  # This also compares the numbers of queries: `lengths.check` has made sure
  # that inputs and targets have the same number.
  if tuple(lengths['targets']) != tuple(in_context['targets']):
    raise UserError(
      f"{name}['targets'] = {in_context['targets']!r}, but TASK_FEATURE_LENGTHS"
      f' has {lengths["targets"]!r}: both ways must answer the same.'
    )


def _ways(model: HyperTuningModel) -> dict[str, _Way]:
  """Maps the name of each kind of work to what it is."""

  def make_phi(params: Any, frozen: Any, batch: Any) -> Any:
    return model.generate_adapters(params, batch, {'frozen': frozen})

  def make_cache(params: Any, frozen: Any, batch: Any) -> Any:
    return cached_context.make(model, params, frozen, batch['hyper_tokens'])

  def query(params: Any, frozen: Any, batch: Any, adapters: Any = None) -> Any:
    return model.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=adapters
    )

  ways = {
    MAKING_PHI: _Way(make_phi, 'phi'),
    WITH_PHI: _Way(query, 'phi', MAKING_PHI),
    IN_CONTEXT: _Way(query, 'in context'),
  }
  if not cached_context.reason_against(model):
    ways |= {
      MAKING_CACHE: _Way(make_cache, 'cached'),
      WITH_CACHE: _Way(query, 'cached', MAKING_CACHE),
    }
  return ways


def _arguments(
  ways: Mapping[str, _Way],
  variables: tuple[Any, Any],
  batches: _Batches,
  call: Callable[..., Any],
) -> dict[str, tuple[Any, ...]]:
  """The arguments of every way.

  Args:
    ways: all ways; one that makes adapters stands before those that read them.
    variables: params and frozen variables.
    batches: the batches, by name.
    call: function of a way's function and its arguments that gives its result.
  """
  arguments: dict[str, tuple[Any, ...]] = {}
  for name, way in ways.items():
    arguments[name] = (*variables, batches[way.batch])
    if way.adapters is not None:
      made = call(ways[way.adapters].function, *arguments[way.adapters])
      arguments[name] = (*arguments[name], made)
  return arguments


def _abstract(
  ways: Mapping[str, _Way],
  model: HyperTuningModel,
  shapes: Mapping[str, tuple[int, ...]],
  in_context_shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Any, Any]:
  """The variables and the batches as abstract arrays."""
  by_name = {'phi': shapes, 'in context': in_context_shapes}
  if MAKING_CACHE in ways:
    by_name['cached'] = cached_context.shapes(model.text_format, shapes)
  batches = {
    name: {k: jax.ShapeDtypeStruct(x, 'int32') for k, x in features.items()}
    for name, features in by_name.items()
  }
  return jax.eval_shape(lambda: _initial(model, shapes)), batches


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


def _batches(
  model: HyperTuningModel,
  data: TaskData,
  in_context: TaskData,
  partitioner: Partitioner,
) -> _Batches:
  """The first batch of both forms, and the first one divided for a cache."""
  batches = {
    name: _batch(model, source, partitioner)
    for name, source in (('phi', data), ('in context', in_context))
  }
  if not cached_context.reason_against(model):
    divided = cached_context.divide(
      model.text_format, {k: np.asarray(x) for k, x in batches['phi'].items()}
    )
    batches['cached'] = jax.device_put(divided, partitioner.batch)
  return batches


def _batch(
  model: HyperTuningModel, data: TaskData, partitioner: Partitioner
) -> dict[str, jax.Array]:
  """The first batch of a task."""
  for batch in batching.on_devices(data.batches(model), partitioner.batch, 1):
    batch.pop('is_real')
    return batch
  raise UserError(f'{data.name} has no episodes in its split {data.split!r}.')


def _times(
  ways: Mapping[str, _Way],
  variables: tuple[Any, Any],
  batches: _Batches,
  partitioner: Partitioner,
  rounds: int,
  calls: int,
) -> dict[str, list[float]]:
  """The seconds per call of each way, one number per round."""
  compiled = {
    name: partitioner.compile(way.function) for name, way in ways.items()
  }
  arguments = _arguments(
    {name: ways[name]._replace(function=x) for name, x in compiled.items()},
    variables,
    batches,
    lambda function, *args: function(*args),
  )
  for name, function in compiled.items():
    jax.block_until_ready(function(*arguments[name]))  # compiles
  progress = summaries.Progress(rounds, label='rounds')
  times: dict[str, list[float]] = {name: [] for name in compiled}
  for _ in range(rounds):
    for name, function in compiled.items():
      start = time.perf_counter()
      for _ in range(calls):
        jax.block_until_ready(function(*arguments[name]))
      times[name].append((time.perf_counter() - start) / calls)
    progress.update()
  progress.close()
  return times
