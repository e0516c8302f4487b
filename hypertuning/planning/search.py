"""Which configurations to compile, and the costs of those compiled before."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from hypertuning import files
from hypertuning.planning.step import Costs
from hypertuning.planning.topologies import Topology

Bindings = dict[str, Any]
_PACKAGES = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax')
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_SHARDED = {'PARAMETER_PARTITIONING_DIMS': 2, 'FROZEN_DTYPE': 'bfloat16'}
MESHES: tuple[Bindings, ...] = (
  # Frozen weights whole on every chip: they need not be gathered.
  {'NUM_PARTITIONS': 1, **_SHARDED, 'FROZEN_PARTITIONING_DIMS': 1},
  {'NUM_PARTITIONS': 1, **_SHARDED, 'FROZEN_PARTITIONING_DIMS': 2},
  {'NUM_PARTITIONS': 2, **_SHARDED, 'FROZEN_PARTITIONING_DIMS': 2},
  {'NUM_PARTITIONS': 4, **_SHARDED, 'FROZEN_PARTITIONING_DIMS': 2},
  # Trained weights whole on every chip as well.
  {
    'NUM_PARTITIONS': 1,
    **_SHARDED,
    'PARAMETER_PARTITIONING_DIMS': 1,
    'FROZEN_PARTITIONING_DIMS': 1,
  },
)


def candidates(
  batch_size: int,
  lengths: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
) -> Iterator[Bindings]:
  """Configurations as bindings, smaller batches first.

  Args:
    batch_size: BATCH_SIZE of the configuration at hand; half of it and twice
      it are tried too.
    lengths: TASK_FEATURE_LENGTHS of the configuration at hand.
    choices: values to try instead: `BATCH_SIZE`, `QUERIES`, `REMAT_POLICY`,
      `MESH` (each value is bindings), and any other gin macro.
  """
  queries = lengths['targets'][0]
  axes: dict[str, Sequence[Any]] = {
    'MESH': MESHES,
    'REMAT_POLICY': ('minimal', 'full', 'none'),
    'QUERIES': sorted({queries, 4}),
    'BATCH_SIZE': (batch_size // 2, batch_size, 2 * batch_size),
    **choices,
  }
  for values in itertools.product(*axes.values()):
    chosen = dict(zip(axes, values, strict=True))
    number = chosen.pop('QUERIES')
    mesh = chosen.pop('MESH')
    yield {
      **mesh,
      **chosen,
      'TASK_FEATURE_LENGTHS': {
        **lengths,
        'inputs': (number, lengths['inputs'][1]),
        'targets': (number, lengths['targets'][1]),
      },
    }


def differences(tried: Sequence[Bindings]) -> list[Bindings]:
  """The bindings in which candidates differ, with queries for lengths."""
  short = [
    {
      **{k: v for k, v in bindings.items() if k != 'TASK_FEATURE_LENGTHS'},
      'QUERIES': bindings['TASK_FEATURE_LENGTHS']['targets'][0],
    }
    for bindings in tried
  ]
  names = dict.fromkeys(name for bindings in short for name in bindings)
  varied = [
    name
    for name in names
    if len({repr(bindings.get(name)) for bindings in short}) > 1
  ]
  return [{name: b.get(name) for name in varied} for b in short]


def larger(one: Bindings, other: Bindings) -> bool:
  """Whether one differs from another only in more episodes or queries."""

  def split(bindings: Bindings) -> tuple[tuple[int, int], Bindings]:
    rest = dict(bindings)
    lengths = rest.pop('TASK_FEATURE_LENGTHS')
    size = rest.pop('BATCH_SIZE'), lengths['targets'][0]
    return size, rest

  (batch, queries), rest = split(one)
  (other_batch, other_queries), other_rest = split(other)
  return (
    rest == other_rest and batch >= other_batch and queries >= other_queries
  )


class Cache:
  """Costs of earlier compilations, one JSON file per compilation."""

  def __init__(self, folder: str) -> None:
    """Makes no folder before there is something to keep."""
    self._folder = files.folder(folder, '--cache_dir')

  def get(self, key: str) -> Costs | None:
    """The costs kept under a key; None if there are none that can be read."""
    try:
      return Costs(**json.loads(self._path(key).read_text()))
    except (OSError, ValueError, TypeError):
      return None

  def put(self, key: str, costs: Costs) -> None:
    """Keeps costs for the next search."""
    text = json.dumps(dataclasses.asdict(costs), indent=1)
    files.write_text(self._folder, f'{key}.json', text)

  def _path(self, key: str) -> epath.Path:
    return self._folder / f'{key}.json'


def key(
  config: str, topology: Topology, package: pathlib.Path = _PACKAGE
) -> str:
  """A name for all that costs depend on.

  Args:
    config: the resolved gin configuration.
    topology: the slice of TPUs.
    package: folder of the sources that make and count a step. It is the whole
      of `hypertuning`: a list of the files that matter is wrong as soon as one
      of them imports another.
  """
  parts = (config, topology.name, json.dumps(versions()), _sources(package))
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:32]


@functools.cache  # the code that runs was read when the process started
def _sources(package: pathlib.Path) -> str:
  """A hash of the names and contents of all Python files of a package."""
  digest = hashlib.sha256()
  for file in sorted(package.rglob('*.py')):
    digest.update(f'{file.relative_to(package)}\0'.encode())
    digest.update(file.read_bytes())
  return digest.hexdigest()


def versions() -> dict[str, str]:
  """Versions of the packages that compile; '' for one not installed."""
  found = {}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = ''
  return found
