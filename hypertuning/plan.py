"""Says what a training step costs on TPUs, on a machine that has none.

    python -m hypertuning.plan --topology=v4-64 \\
      --gin_file=gin/models/hyper_t5_lora.gin --gin_file=... \\
      --gin_file=gin/local/plan.gin --gin.BATCH_SIZE=256

Takes the gin files and flags of `hypertuning.train`, compiles that command's
step for the TPUs (with the compiler in the package `libtpu`) and prints memory,
FLOPs, what chips receive from one another, and how long a step takes at best
and at worst. `--search` compiles many configurations and ranks those that fit.
Exit code 2 where nothing fits.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils
  from hypertuning.planning import options

  options.define_flags()
  gin_utils.run('hypertuning.plan', 'plan', configured=False)

import ast
import json
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from absl import flags

from hypertuning import gin_utils, train
from hypertuning.errors import UserError
from hypertuning.planning import report, search, topologies
from hypertuning.planning.search import Bindings
from hypertuning.planning.step import Costs, compile_step
from hypertuning.planning.topologies import Topology

_FLAGS = flags.FLAGS


def plan() -> None:
  """Plans what gin files and flags say.

  Raises:
    UserError: bad input, no compiler, or nothing fits.
  """
  if not _FLAGS.topology:
    raise UserError('--topology is required, such as --topology=v4-64.')
  topology = topologies.find(_FLAGS.topology)
  choices = dict(map(_choice, _FLAGS.choices))
  settings = gin_utils.arguments(train.train)
  with gin_utils.hidden_stderr():
    devices = topologies.devices(topology)
  compiler = _Compiler(topology, devices, search.Cache(_FLAGS.cache_dir))
  if _FLAGS.search:
    tried = _search(compiler, settings, choices)
    _write([{**report.as_json(c, topology), 'bindings': b} for b, c in tried])
    for line in report.table(_differences(tried), topology):
      print(line)
    if all(costs.error for _, costs in tried):
      raise UserError(f'Nothing that was tried fits {topology.name}.')
    return
  costs = compiler.costs(lambda: settings)
  _write({**report.as_json(costs, topology), 'versions': search.versions()})
  if costs.error:
    raise UserError(
      f'Does not fit {topology.name}: {costs.error} Take a smaller BATCH_SIZE, '
      "more NUM_MICROBATCHES, REMAT_POLICY = 'full' or more chips; --search "
      'tries some.'
    )
  for line in report.describe(costs, topology):
    print(line)


class _Compiler:
  """Compiles for one slice what was not compiled before."""

  def __init__(
    self, topology: Topology, devices: tuple[Any, ...], cache: search.Cache
  ) -> None:
    self._topology = topology
    self._devices = devices
    self._cache = cache

  def costs(self, settings: Callable[[], Mapping[str, Any]]) -> Costs:
    """Costs of the configuration that gin holds now."""
    key = search.key(gin.config_str(), self._topology)
    costs = self._cache.get(key)
    if costs is None:
      problem = None
      with gin_utils.hidden_stderr():  # libtpu writes to it at length
        try:
          costs = compile_step(self._topology, self._devices, settings())
        except UserError as error:
          problem = error
      if costs is None:
        raise problem or AssertionError
      self._cache.put(key, costs)
    return costs


def _search(
  compiler: _Compiler,
  settings: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
) -> list[tuple[Bindings, Costs]]:
  """Costs of all candidates that the devices divide."""
  candidates = list(
    search.candidates(
      settings['batch_size'], settings['task_feature_lengths'], choices
    )
  )
  tried: list[tuple[Bindings, Costs]] = []
  for number, bindings in enumerate(candidates, 1):
    progress = f'{number} of {len(candidates)}'
    if any(c.error and search.larger(bindings, b) for b, c in tried):
      continue  # more of what does not fit
    gin_utils.parse(
      _FLAGS.gin_file,
      [
        *_FLAGS.gin_bindings,
        *(f'{name} = {value!r}' for name, value in bindings.items()),
      ],
      _FLAGS.gin_search_paths,
    )
    try:
      costs = compiler.costs(lambda: gin_utils.arguments(train.train))
    except UserError as error:
      print(f'{progress}: {bindings}: {error}', file=sys.stderr)
      continue
    verdict = costs.error or f'fits, {costs.peak_bytes / 2**30:.1f} GiB'
    print(f'{progress}: {bindings}: {verdict}', file=sys.stderr, flush=True)
    tried.append((bindings, costs))
  return tried


def _differences(
  tried: Sequence[tuple[Bindings, Costs]],
) -> list[tuple[Bindings, Costs]]:
  """The same without bindings that all have in common."""
  names = dict.fromkeys(name for bindings, _ in tried for name in bindings)
  varied = [
    name
    for name in names
    if len({repr(bindings.get(name)) for bindings, _ in tried}) > 1
  ]
  return [
    ({name: bindings.get(name) for name in varied}, costs)
    for bindings, costs in tried
  ]


def _choice(text: str) -> tuple[str, list[Any]]:
  name, _, value = text.partition('=')
  try:
    values = ast.literal_eval(value)
  except (ValueError, SyntaxError):
    values = None
  if not isinstance(values, list) or not values:
    raise UserError(
      f'--choices={text}: give NAME=[value, ...], strings in quotes.'
    )
  return name.strip(), values


def _write(values: Any) -> None:
  if _FLAGS.json:
    path = pathlib.Path(_FLAGS.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + '\n', encoding='utf-8')
