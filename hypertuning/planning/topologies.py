"""TPU chips and slices by name, and slices whose devices can be compiled for.

libtpu takes names that no cloud has (v5e:4x4x4), refuses some that exist
(v4-128) and counts others in cores: names are translated here, by a table.
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

  From Google Cloud's pages on each generation, but for v4's interconnect, of
  which they give no number.

  Attributes:
    name: as libtpu calls it, which is also its name in shapes.
    cloud: what cloud names start with.
    cores: how many a chip counts in cloud names.
    flops: bfloat16 operations a second.
    hbm_bytes: memory, a little of which the system keeps.
    hbm_rate: bytes a second to and from memory.
    ring_rate: bytes a second into a chip round one ring of chips, which uses
      two of its links; of all links together divided by their number.
    shapes: slices in chips.
    config: what tells libtpu that a chip's two cores are one device.
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
  """A slice: `shape` chips of one generation."""

  chip: Chip
  shape: str

  @property
  def name(self) -> str:
    """Such as `v4:2x4x4`."""
    return f'{self.chip.name}:{self.shape}'

  @property
  def chips(self) -> int:
    """How many there are; each is one device."""
    return _size(self.shape)


def find(name: str) -> Topology:
  """A slice by its cloud name (`v4-64`) or its shape (`v4:2x4x4`).

  Raises:
    UserError: there is no such slice; lists those that there are.
  """
  for chip in CHIPS:
    for shape in chip.shapes:
      if name in _names(chip, shape):
        return Topology(chip, shape)
  near = [c for c in CHIPS if name.startswith((f'{c.name}:', *c.cloud))]
  known = ', '.join(
    ' = '.join(_names(chip, shape)[-2:])
    for chip in near or CHIPS
    for shape in chip.shapes
  )
  raise UserError(f'--topology={name}: no such TPU slice; there are {known}.')


def devices(topology: Topology) -> tuple[Any, ...]:
  """The slice's chips, for a compiler that has none of them.

  Raises:
    UserError: libtpu is not installed, or does not know the slice.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(
      'The TPU compiler is not installed: pip install libtpu, or '
      "hypertuning's extra [plan]."
    )
  os.environ.update(_ENVIRONMENT)
  # Neither a TPU of this machine's nor jax's cache, which cannot read compiled
  # programs of devices that are not there.
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_enable_compilation_cache', False)
  kwargs: dict[str, Any] = {}
  if topology.chip.config:
    kwargs['chip_config_name'] = topology.chip.config
  try:
    found = topologies.get_topology_desc(
      topology.name, platform='tpu', **kwargs
    ).devices
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    raise UserError(
      f'libtpu {importlib.metadata.version("libtpu")} has no {topology.name} '
      f'({reason}): pip install --upgrade libtpu.'
    ) from error
  assert len(found) == topology.chips, (topology, len(found))
  return tuple(found)


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
  """All names of a slice, by its shape last."""
  count = _size(shape) * chip.cores
  return [*(f'{cloud}{count}' for cloud in chip.cloud), f'{chip.name}:{shape}']
