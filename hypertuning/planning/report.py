"""Describes the costs of a step as text, as JSON and as a table."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypertuning.planning import roofline
from hypertuning.planning.step import Costs
from hypertuning.planning.topologies import Topology

_GIB, _MIB = 2**30, 2**20
# Rows of a step that has only been traced.
_TRACED = (
  *('trained weights', 'optimizer state', 'frozen weights'),
  *('FLOPs executed', 'FLOPs useful', '  matmuls'),
)


def describe(costs: Costs, topology: Topology) -> Iterator[str]:
  """Yields lines of text about one step.

  Args:
    costs: costs of a step that fits into memory.
    topology: slice that the step was compiled for.
  """
  times = roofline.estimate(costs, topology)
  hbm = topology.chip.hbm_bytes / _GIB
  received = sum(costs.collective_bytes.values())
  kinds = ', '.join(
    f'{kind} {_size(size)}'
    for kind, size in sorted(costs.collective_bytes.items())
  )
  rows = {
    'trained weights': _size(costs.params_bytes),
    'optimizer state': _size(costs.optimizer_bytes),
    'frozen weights': _size(costs.frozen_bytes),
    'activations': _size(costs.temporary_bytes),
    'peak': f'{_size(costs.peak_bytes)} of {hbm:.0f} GiB: fits'
    + ', by an estimate' * topology.chip.is_gpu,
    'FLOPs executed': f'{costs.executed_flops:.4g} '
    f'({costs.executed_flops / costs.useful_flops:.3f} x useful)',
    'FLOPs useful': f'{costs.useful_flops:.4g}',
    'received': _size(received) + (f' ({kinds})' if kinds else ''),
    '  waited for': _size(costs.waited_bytes),
    'memory traffic': f'{costs.hbm_bytes / 1e9:.0f} GB',
    'step, best': _time(times.best_seconds, times.best_utilisation),
    'step, worst': _time(times.worst_seconds, times.worst_utilisation),
    '  matmuls': f'{times.matmul_seconds:.3g} s',
    '  memory': f'{times.memory_seconds:.3g} s',
    '  interconnect': f'{times.network_seconds:.3g} s',
    'queries': f'{costs.queries} per step, '
    f'{times.queries_per_chip_second:.3g} per chip-second at worst',
    'compiling': f'{costs.compile_seconds:.0f} s and '
    f'{costs.machine_bytes / _GIB:.1f} GiB of this machine',
  }
  if not costs.compiled:
    rows = {name: rows[name] for name in _TRACED}
  yield f'{topology.name}, {topology.chips} chips; per chip and step:'
  width = max(map(len, rows))
  yield from (f'  {name:<{width}}  {value}' for name, value in rows.items())
  yield f'Assumed: {roofline.assumptions(topology)}'


def as_json(costs: Costs, topology: Topology) -> dict[str, Any]:
  """All numbers of a step, ready for JSON.

  Args:
    costs: costs of the step. If it does not fit, the result has no `estimate`.
    topology: slice that the step was compiled for.
  """
  values: dict[str, Any] = {
    'topology': topology.name,
    'chips': topology.chips,
    'fits': costs.fits,
    'costs': dataclasses.asdict(costs),
  }
  if costs.fits:
    values['estimate'] = dataclasses.asdict(roofline.estimate(costs, topology))
    values['assumptions'] = roofline.assumptions(topology)
  return values


def rank(costs: Costs, topology: Topology) -> float:
  """The sort key of a step that fits: most queries per chip-second first."""
  return -roofline.estimate(costs, topology).queries_per_chip_second


def table(
  rows: Sequence[tuple[Mapping[str, Any], Costs]], topology: Topology
) -> Iterator[str]:
  """Yields the lines of a Markdown table, one row per step.

  Args:
    rows: pairs of a step's bindings, as far as steps differ in them, and its
      costs; all steps fit.
    topology: slice that the steps were compiled for.
  """
  names = list(dict.fromkeys(name for row in rows for name in row[0]))
  columns = [
    *names,
    'queries / chip-second',
    'step s',
    'MFU %',
    'peak GiB',
    'executed / useful',
    'received GiB',
  ]
  yield f'| {" | ".join(columns)} |'
  yield f'| {" | ".join(["---"] * len(columns))} |'
  for values, costs in rows:
    times = roofline.estimate(costs, topology)
    cells = [
      *(repr(values.get(name)) for name in names),
      f'{times.queries_per_chip_second:.1f}',
      f'{times.best_seconds:.2f} to {times.worst_seconds:.2f}',
      f'{times.best_utilisation:.0%} to {times.worst_utilisation:.0%}',
      f'{costs.peak_bytes / _GIB:.1f}',
      f'{costs.executed_flops / costs.useful_flops:.2f}',
      f'{sum(costs.collective_bytes.values()) / _GIB:.1f}',
    ]
    yield f'| {" | ".join(cells)} |'


def _size(count: int) -> str:
  unit, name = (_GIB, 'GiB') if count >= _GIB / 10 else (_MIB, 'MiB')
  return f'{count / unit:.2f} {name}'


def _time(seconds: float, utilisation: float) -> str:
  return f'{seconds:.3g} s, utilisation (MFU) {utilisation:.0%}'
