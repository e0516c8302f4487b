"""Chips that a step is planned for, and how fast they are."""

import dataclasses

_CUBES = (
  '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16'
).split()
_BOARDS = '1 2 4 8'.split()
_SQUARES = '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16'.split()


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of TPU or GPU; rates are those of one chip.

  Attributes:
    name: name of the kind, with which names of shapes start; for TPUs that of
      libtpu.
    cloud: starts of the names of slices in the cloud.
    cores: number that one chip counts for in the names of the cloud.
    flops: bfloat16 operations per second.
    hbm_bytes: bytes of memory, a few of which the system keeps for itself.
    hbm_rate: bytes per second that are read from or written to memory.
    receive_rate: bytes per second that a chip receives from others.
    network: what gives that rate, for the list of assumptions.
    shapes: shapes of the slices, in numbers of chips.
    is_gpu: whether it is a GPU, for which programs are compiled as for so many
      simulated CPUs: there is no compiler for GPUs without a GPU.
    config: name of libtpu's setting in which the two cores of a chip are one
      device; None if this is the default.
  """

  name: str
  cloud: tuple[str, ...]
  cores: int
  flops: float
  hbm_bytes: int
  hbm_rate: float
  receive_rate: float
  network: str
  shapes: tuple[str, ...]
  is_gpu: bool = False
  config: str | None = None


# Published rates of TPUs are the sum over all links; here, they are divided by
# the number of links. Chips that only exchange along one ring use two of them.
_RING = 'what chips receive comes round one ring (two links)'
_NVLINK = 'what GPUs receive comes over NVLink, at its rate in one direction'


def _gpu(
  name: str, flops: float, hbm_bytes: int, hbm_rate: float, receive_rate: float
) -> Chip:
  """A GPU, one to eight of which are in a machine."""
  return Chip(
    name=name,
    cloud=(f'{name}-',),
    cores=1,
    flops=flops,
    hbm_bytes=hbm_bytes,
    hbm_rate=hbm_rate,
    receive_rate=receive_rate,
    network=_NVLINK,
    shapes=tuple(_BOARDS),
    is_gpu=True,
  )


# TPUs: Google Cloud's pages on each generation, except for v4's interconnect,
# for which those pages give none. GPUs: NVIDIA's data sheets of the SXM
# modules, bfloat16 without sparsity.
CHIPS = (
  Chip(
    name='v4',
    cloud=('v4-',),
    cores=2,
    flops=275e12,
    hbm_bytes=32 << 30,
    hbm_rate=1200e9,
    receive_rate=95e9,
    network=_RING,
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
    receive_rate=200e9,
    network=_RING,
    shapes=tuple(_CUBES),
  ),
  Chip(
    name='v5e',
    cloud=('v5e-', 'v5litepod-'),
    cores=1,
    flops=197e12,
    hbm_bytes=16 << 30,
    hbm_rate=819e9,
    receive_rate=100e9,
    network=_RING,
    shapes=tuple(_SQUARES),
  ),
  Chip(
    name='v6e',
    cloud=('v6e-',),
    cores=1,
    flops=918e12,
    hbm_bytes=32 << 30,
    hbm_rate=1638e9,
    receive_rate=200e9,
    network=_RING,
    shapes=tuple(_SQUARES),
  ),
  _gpu('a100', 312e12, 80 << 30, 2039e9, 300e9),
  _gpu('h100', 989e12, 80 << 30, 3350e9, 450e9),
  _gpu('h200', 989e12, 141 << 30, 4800e9, 450e9),
)
