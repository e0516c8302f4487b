"""Traces a training step, counts its FLOPs, and compiles it for a slice."""

import copy
import dataclasses
import math
import re
import resource
import time
from collections.abc import Mapping
from typing import Any

import jax

from hypertuning.engine import train_state, train_step
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import is_memory_full
from hypertuning.models import HyperTuningModel
from hypertuning.planning import flops, hlo
from hypertuning.planning.topologies import Topology

_ESTIMATE = 'by an estimate, which counts bfloat16 as float32.'


@dataclasses.dataclass(frozen=True)
class Costs:
  """The costs of a step, per chip unless stated otherwise.

  Attributes:
    params_bytes: bytes of the parameters that are trained.
    optimizer_bytes: bytes of the optimizer's state.
    frozen_bytes: bytes of the parameters that are not trained.
    executed_flops: FLOPs of all matmuls, including those that rematerialisation
      repeats.
    useful_flops: FLOPs of all matmuls without rematerialisation.
    queries: number of queries whose targets a step trains on, over all chips.
    compiled: whether the step has been compiled; if not, only the numbers above
      are known.
    error: reason why the step does not fit into memory; None if it fits.
    failure: what the compiler says if it fails on the program for any other
      reason; None if it does not fail. The memory and the bytes below are only
      known of a step that `fits`.
    temporary_bytes: bytes of activations and other values that a step makes.
    peak_bytes: bytes of arguments, results, temporaries and code together.
    collective_bytes: maps each kind of collective to the bytes that it receives
      from other chips.
    waited_bytes: bytes of these that arrive while nothing is computed.
    hbm_bytes: bytes that are read from and written to memory.
    compile_seconds: seconds of compilation on this machine.
    machine_bytes: most bytes of this machine's memory that the process has
      used.
  """

  params_bytes: int
  optimizer_bytes: int
  frozen_bytes: int
  executed_flops: float
  useful_flops: float
  queries: int
  compiled: bool = True
  error: str | None = None
  failure: str | None = None
  temporary_bytes: int = 0
  peak_bytes: int = 0
  collective_bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)
  waited_bytes: int = 0
  hbm_bytes: int = 0
  compile_seconds: float = 0.0
  machine_bytes: int = 0

  @property
  def fits(self) -> bool:
    """Whether the step can run, as far as is known."""
    return self.error is None and self.failure is None


def compile_step(
  topology: Topology,
  devices: tuple[Any, ...],
  settings: Mapping[str, Any],
  compiled: bool = True,
) -> Costs:
  """Compiles the step that `train.train` would run, and reads its costs.

  Args:
    topology: slice that the step is compiled for.
    devices: devices of the slice, from `topologies.devices`.
    settings: arguments of `train.train`, by name.
    compiled: whether the step is compiled as well; traced alone, it gives
      weights and FLOPs.

  Raises:
    UserError: the devices do not divide the batch, the model or one another.
  """
  model: HyperTuningModel = settings['model']
  data: TaskData = settings['data']
  microbatches = settings.get('num_microbatches', 1)
  partitioner = dataclasses.replace(settings['partitioner'], devices=devices)
  partitioner.check_batch(data.batch_size, microbatches)
  shapes = data.shapes(model)
  state, shardings = train_state.abstract_state(model, shapes, partitioner)
  arguments = train_step.arguments(state, shapes, partitioner)

  def trace(traced_model: HyperTuningModel) -> Any:
    with partitioner.context():
      return jax.jit(
        train_step.make_train_step(traced_model, microbatches),
        **train_step.train_step_jit(partitioner, shardings),
      ).trace(*arguments)

  traced = trace(model)
  plain = trace(without_remat(model))
  costs = Costs(
    params_bytes=_shard_bytes(state.params),
    optimizer_bytes=_shard_bytes(state.opt_state),
    frozen_bytes=_shard_bytes(state.frozen),
    executed_flops=flops.matmul_flops(traced.jaxpr) / topology.chips,
    useful_flops=flops.matmul_flops(plain.jaxpr) / topology.chips,
    queries=math.prod(shapes['target_tokens'][:2]),
    compiled=compiled,
  )
  if not compiled:
    return costs
  start = time.monotonic()
  with partitioner.context():
    try:
      program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
      # Compilers fail on their own faults as well, after minutes.
      reason = _reason(str(error))
      if is_memory_full(error):
        costs = dataclasses.replace(costs, error=reason)
      else:
        costs = dataclasses.replace(costs, failure=reason)
      return _with_compilation(costs, start)
  memory = program.memory_analysis()
  text = program.as_text()
  costs = dataclasses.replace(
    costs,
    temporary_bytes=memory.temp_size_in_bytes,
    peak_bytes=memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes,
    collective_bytes=hlo.collective_bytes(text),
    waited_bytes=sum(hlo.collective_bytes(text, waited=True).values()),
    hbm_bytes=hlo.memory_bytes(text),
  )
  room = topology.chip.hbm_bytes
  if topology.chip.is_gpu and costs.peak_bytes > room:
    # The compiler for TPUs refuses such a program by itself.
    found = f'{costs.peak_bytes / 2**30:.1f} of {room / 2**30:.0f} GiB'
    costs = dataclasses.replace(costs, error=f'{found} {_ESTIMATE}')
  return _with_compilation(costs, start)


def _with_compilation(costs: Costs, start: float) -> Costs:
  used_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return dataclasses.replace(
    costs,
    compile_seconds=time.monotonic() - start,
    machine_bytes=used_kib * 1024,  # Linux counts in KiB
  )


def without_remat(model: HyperTuningModel) -> HyperTuningModel:
  """The same model, but with all values that the gradient needs saved.

  Args:
    model: the model that is copied.
  """

  def plain(network: Any) -> Any:
    if network is None or not hasattr(network, 'config'):
      return network
    return network.clone(config=network.config.replace(remat_policy='none'))

  other = copy.copy(model)
  other.module = model.module.clone(
    downstream=plain(model.module.downstream),
    hypermodel=plain(model.module.hypermodel),
    teacher=plain(model.module.teacher),
  )
  return other


def _shard_bytes(tree: Any) -> int:
  """The bytes of a tree of abstract arrays that one device holds."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def _reason(message: str) -> str:
  """The sentence about the memory that is needed, in libtpu's long report."""
  for sentence in re.split(r'(?<=\.)\s+|\n', message):
    if 'exceeds available' in sentence or 'Exceeded' in sentence:
      return sentence.rpartition(': ')[2].strip()
  return message.splitlines()[0]
