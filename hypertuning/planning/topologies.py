"""Finds slices by name, and makes devices that programs are compiled for.

libtpu accepts names of slices that do not exist (v5e:4x4x4), refuses names of
slices that exist (v4-128), and counts cores in others. A table here translates
the names.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
from typing import Any

import jax
from jax.experimental import topologies

from hypertuning.errors import UserError
from hypertuning.planning.chips import CHIPS, Chip


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of TPUs, or the GPUs of a machine.

  Attributes:
    chip: kind of the chips.
    shape: arrangement of the chips, such as `2x4x4`, or the number of GPUs.
  """

  chip: Chip
  shape: str

  @property
  def name(self) -> str:
    """The name by kind and shape, such as `v4:2x4x4` or `h100:8`."""
    return f'{self.chip.name}:{self.shape}'

  @property
  def chips(self) -> int:
    """Number of chips; each is one device."""
    return _size(self.shape)


def find(name: str) -> Topology:
  """Finds a slice by its cloud name (`v4-64`) or its shape (`v4:2x4x4`).

  GPUs go by their number: `h100-8` or `h100:8`.

  Raises:
    UserError: no slice has this name; the message lists those that exist.
  """
  for chip in CHIPS:
    for shape in chip.shapes:
      if name in _names(chip, shape):
        return Topology(chip, shape)
  near = [c for c in CHIPS if name.startswith((f'{c.name}:', *c.cloud))]
  slice_names = ', '.join(
    ' = '.join(_names(chip, shape)[-2:])
    for chip in near or CHIPS
    for shape in chip.shapes
  )
  raise UserError(f'--topology={name}: no such slice; there are {slice_names}.')


def devices(topology: Topology) -> tuple[Any, ...]:
  """Makes devices for which programs can be compiled without the chips.

  Args:
    topology: slice of chips; each of them is one device.

  Raises:
    UserError: libtpu is not installed, or does not know the slice; or this
      process uses jax already.
  """
  # jax's cache cannot load programs for devices that this machine does not
  # have. If it has some, they must not be used in place of the slice.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)
  if topology.chip.is_gpu:
    return _simulated_devices(topology.chips)
  return _tpu_devices(topology)


def _simulated_devices(count: int) -> tuple[Any, ...]:
  """CPU devices, one per GPU."""
  try:
    jax.config.update('jax_num_cpu_devices', count)
  except RuntimeError:  # jax has its devices already
    pass
  found = jax.devices('cpu')
  if len(found) < count:
    raise UserError(
      f'This process has {len(found)} simulated devices, not {count}: plan in '
      'a process of its own.'
    )
  return tuple(found[:count])


def _tpu_devices(topology: Topology) -> tuple[Any, ...]:
  """Devices of libtpu, without a TPU."""
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(
      'The TPU compiler is not installed: pip install libtpu, or '
      "hypertuning's extra [plan]."
    )
  os.environ.update(_ENVIRONMENT)
  kwargs: dict[str, Any] = {}
  if topology.chip.config:
    kwargs['chip_config_name'] = topology.chip.config
  try:
    slice_devices = topologies.get_topology_desc(
      topology.name, platform='tpu', **kwargs
    ).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f'libtpu {importlib.metadata.version("libtpu")} has no {topology.name} '
      f'({reason}): pip install --upgrade libtpu.'
    ) from error
  assert len(slice_devices) == topology.chips, (topology, len(slice_devices))
  return tuple(slice_devices)


_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',  # asks a server that only a TPU VM has
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # compiling needs no chip for itself
  'TPU_LOG_DIR': 'disabled',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}


def _size(shape: str) -> int:
  return math.prod(int(side) for side in shape.split('x'))


def _names(chip: Chip, shape: str) -> list[str]:
  """All names of a slice; the last one has its shape."""
  count = _size(shape) * chip.cores
  return [*(f'{cloud}{count}' for cloud in chip.cloud), f'{chip.name}:{shape}']
