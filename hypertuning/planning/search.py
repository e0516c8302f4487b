"""The configurations that a search compiles, and a cache of their costs."""

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

from hypertuning import files, text_files
from hypertuning.errors import UserError
from hypertuning.planning.step import Costs
from hypertuning.planning.topologies import Topology

Bindings = dict[str, Any]
_PACKAGES = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax')
_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_DIVIDED_WEIGHTS = {
  'PARAMETER_PARTITIONING_DIMS': 2,
  'FROZEN_DTYPE': 'bfloat16',
}
MESHES: tuple[Bindings, ...] = (
  # Every chip holds all frozen weights, which then need not be gathered.
  {'NUM_PARTITIONS': 1, **_DIVIDED_WEIGHTS, 'FROZEN_PARTITIONING_DIMS': 1},
  {'NUM_PARTITIONS': 1, **_DIVIDED_WEIGHTS, 'FROZEN_PARTITIONING_DIMS': 2},
  {'NUM_PARTITIONS': 2, **_DIVIDED_WEIGHTS, 'FROZEN_PARTITIONING_DIMS': 2},
  {'NUM_PARTITIONS': 4, **_DIVIDED_WEIGHTS, 'FROZEN_PARTITIONING_DIMS': 2},
  # Every chip holds all trained weights as well.
  {
    'NUM_PARTITIONS': 1,
    **_DIVIDED_WEIGHTS,
    'PARAMETER_PARTITIONING_DIMS': 1,
    'FROZEN_PARTITIONING_DIMS': 1,
  },
)


def candidates(
  batch_size: int,
  lengths: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
) -> Iterator[Bindings]:
  """Yields configurations as bindings, smaller batches first.

  Args:
    batch_size: BATCH_SIZE of the user's configuration; half of it and twice as
      much are tried as well.
    lengths: TASK_FEATURE_LENGTHS of the user's configuration.
    choices: maps a name to the values that are tried in place of the default
      ones. The names are `BATCH_SIZE`, `QUERIES`, `REMAT_POLICY`, `MESH` (whose
      values are dicts of bindings), and any other gin macro.
  """
  queries = lengths['targets'][0]
  axes: dict[str, Sequence[Any]] = {
    'MESH': MESHES,
    'REMAT_POLICY': ('projections', 'minimal', 'full', 'none'),
    'QUERIES': sorted({queries, 4}),
    'BATCH_SIZE': (batch_size // 2, batch_size, 2 * batch_size),
    **choices,
  }
  for values in itertools.product(*axes.values()):
    bindings = dict(zip(axes, values, strict=True))
    number = bindings.pop('QUERIES')
    mesh = bindings.pop('MESH')
    yield {
      **mesh,
      **bindings,
      'TASK_FEATURE_LENGTHS': {
        **lengths,
        'inputs': (number, lengths['inputs'][1]),
        'targets': (number, lengths['targets'][1]),
      },
    }


def differences(candidates: Sequence[Bindings]) -> list[Bindings]:
  """The bindings in which candidates differ, one dict per candidate.

  The number of queries, QUERIES, stands for TASK_FEATURE_LENGTHS.
  """
  short = [
    {
      **{k: v for k, v in bindings.items() if k != 'TASK_FEATURE_LENGTHS'},
      'QUERIES': bindings['TASK_FEATURE_LENGTHS']['targets'][0],
    }
    for bindings in candidates
  ]
  names = dict.fromkeys(name for bindings in short for name in bindings)
  varied = [
    name
    for name in names
    if len({repr(bindings.get(name)) for bindings in short}) > 1
  ]
  return [{name: b.get(name) for name in varied} for b in short]


def larger(one: Bindings, other: Bindings) -> bool:
  """Whether one candidate equals another but for more episodes or queries."""

  def size_and_rest(bindings: Bindings) -> tuple[tuple[int, int], Bindings]:
    rest = dict(bindings)
    lengths = rest.pop('TASK_FEATURE_LENGTHS')
    size = rest.pop('BATCH_SIZE'), lengths['targets'][0]
    return size, rest

  (batch, queries), rest = size_and_rest(one)
  (other_batch, other_queries), other_rest = size_and_rest(other)
  return (
    rest == other_rest and batch >= other_batch and queries >= other_queries
  )


class Cache:
  """The costs of earlier compilations, in one JSON file per compilation."""

  def __init__(self, folder: str) -> None:
    """Takes the path of the folder, which is made when costs are first put."""
    self._folder = files.folder(folder, '--cache_dir')

  def get(self, key: str) -> Costs | None:
    """The costs that were put with this key; None if they cannot be read."""
    try:
      return Costs(**text_files.read_json(self._path(key)))
    except (UserError, TypeError):
      return None

  def put(self, key: str, costs: Costs) -> None:
    """Writes costs, which the next search can then get by their key."""
    text = json.dumps(dataclasses.asdict(costs), indent=1)
    files.write_text(self._folder, self._path(key).name, text)

  def _path(self, key: str) -> epath.Path:
    return self._folder / f'{key}.json'


def key(
  config: str, topology: Topology, package: pathlib.Path = _PACKAGE
) -> str:
  """A key that changes with everything that costs depend on.

  Args:
    config: text of the resolved gin configuration.
    topology: slice that the step is compiled for.
    package: folder of the source files that make a step and count its costs. By
      default, this is the whole of `hypertuning`: a list of single files would
      be wrong as soon as one of them imported another.
  """
  parts = (config, topology.name, json.dumps(versions()), _sources(package))
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:32]


@functools.cache  # the process runs the code that it read when it started
def _sources(package: pathlib.Path) -> str:
  """A hash of the names and contents of all Python files of a package."""
  digest = hashlib.sha256()
  for file in sorted(package.rglob('*.py')):
    digest.update(f'{file.relative_to(package)}\0'.encode())
    digest.update(file.read_bytes())
  return digest.hexdigest()


def versions() -> dict[str, str]:
  """The versions of the packages that compile; '' if one is not installed."""
  installed_versions = {}
  for name in _PACKAGES:
    try:
      installed_versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      installed_versions[name] = ''
  return installed_versions
