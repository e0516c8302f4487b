"""Estimates the time of a step from matmuls, memory and interconnect."""

import dataclasses

from hypertuning.planning.step import Costs
from hypertuning.planning.topologies import Topology

MATMUL_SHARE = 0.7  # share of the peak FLOPs that these matmuls reach
_SIMULATED = (
  ' There is no compiler for GPUs here: all but FLOPs is read from the program '
  'for simulated CPUs, which keeps bfloat16 in float32, fuses less, and sums '
  'gradients whole where a GPU gets its part alone.'
)


def assumptions(topology: Topology) -> str:
  """What estimates for a slice assume, as sentences."""
  return (
    f'matmuls at {MATMUL_SHARE:.0%} of the peak; {topology.chip.network}; each '
    'kernel reads and writes memory once. "best" overlaps all three, "worst" '
    'waits for the interconnect. Not counted: input pipeline, host, other '
    'traffic on the links. Estimates, not measurements.'
    + _SIMULATED
    * topology.chip.is_gpu
  )


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The time of one step, in seconds, and the utilisation of the chips.

  Attributes:
    matmul_seconds: time that the executed FLOPs take by themselves.
    memory_seconds: time that reading and writing memory takes by itself.
    network_seconds: time that receiving bytes from other chips takes by itself.
    best_seconds: time of the step if all three overlap: the longest of them.
    worst_seconds: time of the step if chips only wait while they receive bytes.
    best_utilisation: share of the peak that useful FLOPs reach in
      `best_seconds` (MFU).
    worst_utilisation: share of the peak that useful FLOPs reach in
      `worst_seconds`.
    queries_per_chip_second: number of queries per second and chip, with
      `worst_seconds`.
  """

  matmul_seconds: float
  memory_seconds: float
  network_seconds: float
  best_seconds: float
  worst_seconds: float
  best_utilisation: float
  worst_utilisation: float
  queries_per_chip_second: float


def estimate(costs: Costs, topology: Topology) -> Estimate:
  """Estimates the time of a step.

  Args:
    costs: costs of a compiled step that fits into memory.
    topology: slice that the step runs on.
  """
  chip = topology.chip
  matmul = costs.executed_flops / (chip.flops * MATMUL_SHARE)
  memory = costs.hbm_bytes / chip.hbm_rate
  network = sum(costs.collective_bytes.values()) / chip.receive_rate
  best = max(matmul, memory, network)
  worst = max(matmul, memory) + network
  return Estimate(
    matmul_seconds=matmul,
    memory_seconds=memory,
    network_seconds=network,
    best_seconds=best,
    worst_seconds=worst,
    best_utilisation=costs.useful_flops / (best * chip.flops),
    worst_utilisation=costs.useful_flops / (worst * chip.flops),
    queries_per_chip_second=costs.queries / (worst * topology.chips),
  )
