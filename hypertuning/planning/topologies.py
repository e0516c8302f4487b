"""Finds TPU slices by name, and makes devices that programs are compiled for.

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

_CUBES = (
  '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'
).split()
_SQUARES = '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'.split()


@dataclasses.dataclass(frozen=True)
class Chip:
  """A generation of TPUs; rates are those of one chip.

  The numbers are from Google Cloud's pages on each generation, except for v4's
  interconnect, for which those pages give none.

  Attributes:
    name: name of the generation in libtpu, with which names of shapes start.
    cloud: starts of the names of slices in the cloud.
    cores: number that one chip counts for in the names of the cloud.
    flops: bfloat16 operations per second.
    hbm_bytes: bytes of memory, a few of which the system keeps for itself.
    hbm_rate: bytes per second that are read from or written to memory.
    ring_rate: bytes per second that a chip receives from one ring of chips,
      which uses two of its links. Published rates are the sum over all links;
      here, they are divided by the number of links.
    shapes: shapes of the slices, in numbers of chips.
    config: name of libtpu's setting in which the two cores of a chip are one
      device; None if this is the default.
  """

  name: str
  cloud: tuple[str, ...]
  cores: int
  flops: float
  hbm_bytes: int
  hbm_rate: float
  ring_rate: float
  shapes: tuple[str, ...]
  config: str | None = None


CHIPS = (
  Chip(
    name='v4',
    cloud=('v4-',),
    cores=2,
    flops=275e12,
    hbm_bytes=32 << 30,
    hbm_rate=1200e9,
    ring_rate=95e9,
    shapes=tuple(_CUBES),
    config='megacore',
  ),
  Chip(
    name='v5p',
    cloud=('v5p-',),
    cores=2,
    flops=459e12,
    hbm_bytes=95 << 30,
    hbm_rate=2765e9,
    ring_rate=200e9,
    shapes=tuple(_CUBES),
  ),
  Chip(
    name='v5e',
    cloud=('v5e-', 'v5litepod-'),
    cores=1,
    flops=197e12,
    hbm_bytes=16 << 30,
    hbm_rate=819e9,
    ring_rate=100e9,
    shapes=tuple(_SQUARES),
  ),
  Chip(
    name='v6e',
    cloud=('v6e-',),
    cores=1,
    flops=918e12,
    hbm_bytes=32 << 30,
    hbm_rate=1638e9,
    ring_rate=200e9,
    shapes=tuple(_SQUARES),
  ),
)


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of TPUs.

  Attributes:
    chip: generation of the chips.
    shape: arrangement of the chips, such as `2x4x4`.
  """

  chip: Chip
  shape: str

  @property
  def name(self) -> str:
    """The name by generation and shape, such as `v4:2x4x4`."""
    return f'{self.chip.name}:{self.shape}'

  @property
  def chips(self) -> int:
    """Number of chips; each is one device."""
    return _size(self.shape)


def find(name: str) -> Topology:
  """Finds a slice by its cloud name (`v4-64`) or its shape (`v4:2x4x4`).

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
  raise UserError(
    f'--topology={name}: no such TPU slice; there are {slice_names}.'
  )


def devices(topology: Topology) -> tuple[Any, ...]:
  """Makes devices for which programs can be compiled without a TPU.

  Args:
    topology: slice of TPUs; each of its chips is one device.

  Raises:
    UserError: libtpu is not installed, or does not know the slice.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(
      'The TPU compiler is not installed: pip install libtpu, or '
      "hypertuning's extra [plan]."
    )
  os.environ.update(_ENVIRONMENT)
  # If this machine has a TPU, it must not be used in place of the slice. And
  # jax's cache cannot load programs for devices that this machine does not
  # have.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)
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
