"""The training step of hypertuning, compiled, and what its program costs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax

from hypertuning import quantization
from hypertuning.benchmarks import built
from hypertuning.engine import train_state, train_step
from hypertuning.engine.partitioning import one_device
from hypertuning.models import HyperTuningModel
from hypertuning.planning import flops

_COMPILED = '/jax/core/compile/backend_compile_duration'


class Costs(NamedTuple):
  """What a compiled program costs.

  Attributes:
    flops: FLOPs of all matmuls, from the traced program.
    accessed_bytes: bytes that its instructions read and write, by XLA's count,
      which takes the body of a loop once.
    argument_bytes: bytes of the arguments.
    temporary_bytes: bytes of what is made and dropped within the program.
    peak_bytes: bytes of arguments, results that take no argument's place, and
      temporaries together.
  """

  flops: int
  accessed_bytes: int
  argument_bytes: int
  temporary_bytes: int
  peak_bytes: int


class OwnStep:
  """A training step that is ready to run.

  Attributes:
    costs: what the program costs.
    compile_seconds: seconds of tracing and compiling.
    compilations: number of programs compiled so far, the one that draws the
      weights among them.
    trained: number of parameters that are trained.
  """

  def __init__(
    self, model: HyperTuningModel, features: Mapping[str, Any]
  ) -> None:
    """Draws random weights, compiles the step and takes two.

    Args:
      model: the model that is trained.
      features: the batch of every step.
    """
    self._partitioner = one_device()
    with compilations() as counted:
      self._state, shardings = train_state.initial_state(
        model, built.shapes(features), self._partitioner, seed=0
      )
      self._batch = jax.device_put(dict(features), self._partitioner.batch)
      self._rng = jax.device_put(
        jax.random.key(0), self._partitioner.replicated
      )
      jax.block_until_ready(self._state)
      self.trained = quantization.count(self._state.params)
      start = time.perf_counter()
      with self._partitioner.context():
        arguments = (self._state, self._batch, self._rng)
        traced = self._partitioner.jit(
          train_step.make_train_step(model),
          arguments,
          **train_step.train_step_jit(self._partitioner, shardings),
        ).trace(*arguments)
        self._compiled = traced.lower().compile()
      self.compile_seconds = time.perf_counter() - start
      self()
      self()
    self.compilations = counted()
    self.costs = costs(traced.jaxpr, self._compiled)
    self._rows = features['input_tokens'][..., 0].size

  def __call__(self) -> float:
    """Takes a step, waits for it, and returns its loss."""
    self._state, scalars = self._compiled(self._state, self._batch, self._rng)
    jax.block_until_ready(self._state)
    return float(scalars['loss'])

  def row(self) -> dict[str, Any]:
    """What a row of results has about the step."""
    fields = self.costs._asdict()
    # What the allocator of a GPU has seen, in place of the program's plan.
    seen = (jax.devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
    if seen:
      fields['peak_bytes'] = seen
    return {
      'rows': self._rows,
      'trained': self.trained,
      'compile_seconds': self.compile_seconds,
      'compilations': self.compilations,
      **fields,
    }


def costs(jaxpr: Any, compiled: Any) -> Costs:
  """What a program costs.

  Args:
    jaxpr: the traced program.
    compiled: the same program, compiled.
  """
  memory = compiled.memory_analysis()
  analysis = compiled.cost_analysis() or {}
  return Costs(
    flops=flops.matmul_flops(jaxpr),
    accessed_bytes=int(analysis.get('bytes accessed', 0)),
    argument_bytes=memory.argument_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    peak_bytes=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
  )


def useful_flops(model: HyperTuningModel, features: Mapping[str, Any]) -> int:
  """FLOPs of a step's matmuls; nothing is compiled.

  Args:
    model: a model without rematerialisation.
    features: a batch.
  """
  partitioner = one_device()
  state, _ = train_state.abstract_state(
    model, built.shapes(features), partitioner
  )
  with partitioner.context():
    traced = jax.make_jaxpr(train_step.make_train_step(model))(
      state, dict(features), jax.random.key(0)
    )
  return flops.matmul_flops(traced)


@contextmanager
def compilations() -> Iterator[Callable[[], int]]:
  """A context that counts the programs that are compiled within it.

  One that comes from the cache on the disk counts as well.

  Yields:
    Function that returns the number so far.
  """
  count = 0

  def note(event: str, duration_secs: float, **unused: Any) -> None:
    del duration_secs
    nonlocal count
    count += event == _COMPILED

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield lambda: count
  finally:
    jax.monitoring.unregister_event_duration_listener(note)
