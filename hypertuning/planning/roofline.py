"""How long a step takes at best and at worst, by what limits it."""

import dataclasses

from hypertuning.planning.step import Costs
from hypertuning.planning.topologies import Topology

MATMUL_SHARE = 0.7  # of the peak, which matmuls of these shapes reach
ASSUMPTIONS = (
  f'matmuls at {MATMUL_SHARE:.0%} of the peak; what chips receive comes round '
  'one ring (two links); each kernel reads and writes memory once. "best" '
  'overlaps all three, "worst" waits for the interconnect. Not counted: input '
  'pipeline, host, other traffic on the links. Estimates, not measurements.'
)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds of a step.

  Attributes:
    matmul_seconds: executed FLOPs.
    memory_seconds: bytes to and from memory.
    network_seconds: bytes from other chips.
    best_seconds: the longest of the three.
    worst_seconds: nothing else goes on while bytes come from other chips.
    best_utilisation: useful FLOPs by the peak in the best case (MFU).
    worst_utilisation: in the worst case.
    queries_per_chip_second: in the worst case.
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
  """Times of a step that fits."""
  chip = topology.chip
  matmul = costs.executed_flops / (chip.flops * MATMUL_SHARE)
  memory = costs.hbm_bytes / chip.hbm_rate
  network = sum(costs.collective_bytes.values()) / chip.ring_rate
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
