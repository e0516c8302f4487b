"""Estimates what a training step costs on TPUs or GPUs, on a machine without.

    python -m hypertuning.plan --topology=v4-64 \\
      --gin_file=gin/models/hyper_t5_lora.gin --gin_file=... \\
      --gin_file=gin/local/plan.gin --gin.BATCH_SIZE=256

Takes the gin files and flags of `hypertuning.train` and compiles that command's
step for the TPUs, with the compiler in the package `libtpu`; for GPUs
(`--topology=h100-8`), for as many simulated CPUs. Prints the memory, the FLOPs,
the bytes that chips receive from one another, and the shortest and longest time
that a step can take. `--search` compiles many configurations and ranks those
that fit; `--nocompile` counts weights and FLOPs alone, in seconds. The exit
code is 2 if nothing fits.
"""

if __name__ == '__main__':
  import os

  # Set before jax is imported: planning needs no accelerator, and must not
  # reserve the one that this machine may have.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  from hypertuning import gin_utils
  from hypertuning.planning import options

  options.define_flags()
  gin_utils.run('hypertuning.plan', 'plan', configured=False)

import ast
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
from absl import flags

from hypertuning import files, gin_utils, quiet, train
from hypertuning.errors import UserError
from hypertuning.planning import report, search, topologies
from hypertuning.planning.search import Bindings
from hypertuning.planning.step import Costs, compile_step
from hypertuning.planning.topologies import Topology

_FLAGS = flags.FLAGS


def plan() -> None:
  """Plans the configuration that the gin files and flags give.

  Raises:
    UserError: the input is bad, the compiler is not installed, or nothing fits.
  """
  if not _FLAGS.topology:
    raise UserError('--topology is required, such as --topology=v4-64.')
  topology = topologies.find(_FLAGS.topology)
  if _FLAGS.search and not _FLAGS.compile:
    raise UserError('--nocompile: --search ranks what was compiled; drop one.')
  choices = dict(map(_choice, _FLAGS.choices))
  check_outputs()
  settings = gin_utils.arguments(train.train)
  with quiet.hidden_stderr():
    devices = topologies.devices(topology)
  compiler = _Compiler(topology, devices, search.Cache(_FLAGS.cache_dir))
  if _FLAGS.search:
    _plan_many(compiler, topology, settings, choices)
  else:
    _plan_one(compiler, topology, settings)


def check_outputs() -> None:
  """Makes sure that the files that the flags name can be written.

  Raises:
    UserError: a file cannot be written; names the flag.
  """
  files.check_writable(_FLAGS.cache_dir, '--cache_dir')
  if _FLAGS.json:
    files.check_file(_FLAGS.json, '--json')


def _plan_one(
  compiler: '_Compiler', topology: Topology, settings: Mapping[str, Any]
) -> None:
  """Prints the costs of the configuration as it is."""
  costs = compiler.costs(lambda: settings)
  _write({**report.as_json(costs, topology), 'versions': search.versions()})
  if costs.error:
    raise UserError(
      f'Does not fit {topology.name}: {costs.error} Take a smaller BATCH_SIZE, '
      "more NUM_MICROBATCHES, REMAT_POLICY = 'full' or more chips; --search "
      'tries some.'
    )
  if costs.failure:
    raise UserError(
      f'The compiler fails on this program for {topology.name}: '
      f'{costs.failure} Another mesh, batch or REMAT_POLICY gives another one.'
    )
  for line in report.describe(costs, topology):
    print(line)


def _plan_many(
  compiler: '_Compiler',
  topology: Topology,
  settings: Mapping[str, Any],
  choices: Mapping[str, Sequence[Any]],
) -> None:
  """Tries many configurations and prints those that fit, the best first."""
  candidates = list(
    search.candidates(
      settings['data'].batch_size, settings['data'].lengths, choices
    )
  )
  results = _try(compiler, candidates)
  _write([{**report.as_json(c, topology), 'bindings': b} for b, c in results])
  fits = [(b, c) for b, c in results if c.fits]
  if not fits:
    raise UserError(f'Nothing that was tried fits {topology.name}.')
  fits.sort(key=lambda row: report.rank(row[1], topology))
  names = search.differences([bindings for bindings, _ in fits])
  rows = [(n, costs) for n, (_, costs) in zip(names, fits, strict=True)]
  for line in report.table(rows, topology):
    print(line)
  print('The first:', *map(_flag, fits[0][0].items()))


class _Compiler:
  """Compiles steps for one slice, unless the cache has their costs."""

  def __init__(
    self, topology: Topology, devices: tuple[Any, ...], cache: search.Cache
  ) -> None:
    self._topology = topology
    self._devices = devices
    self._cache = cache

  def costs(self, settings: Callable[[], Mapping[str, Any]]) -> Costs:
    """Costs of the configuration that gin holds now.

    Args:
      settings: builds the arguments of `train.train`. It is called only if the
        cache does not have the costs, as building them takes long.
    """
    key = search.key(gin.config_str(), self._topology)
    costs = self._cache.get(key)
    if costs is None:
      with quiet.hidden_stderr():  # libtpu prints many lines there
        costs = compile_step(
          self._topology, self._devices, settings(), _FLAGS.compile
        )
      if costs.compiled:
        self._cache.put(key, costs)
    return costs


def _try(
  compiler: _Compiler, candidates: Sequence[Bindings]
) -> list[tuple[Bindings, Costs]]:
  """Costs of the candidates that can be compiled, and are worth it.

  Left out are candidates that the devices do not divide, and those that are
  larger than a candidate that did not fit.
  """
  results: list[tuple[Bindings, Costs]] = []
  names = search.differences(candidates)
  for number, bindings in enumerate(candidates):
    if any(c.error and search.larger(bindings, b) for b, c in results):
      continue  # larger than a candidate that did not fit
    gin_utils.parse(
      _FLAGS.gin_file,
      [*_FLAGS.gin_bindings, *(f'{k} = {v!r}' for k, v in bindings.items())],
      _FLAGS.gin_search_paths,
    )
    try:
      costs = compiler.costs(lambda: gin_utils.arguments(train.train))
    except UserError as error:
      verdict = str(error)
    else:
      verdict = (
        costs.error
        or costs.failure
        or f'fits, {costs.peak_bytes / 2**30:.2f} GiB'
      )
      results.append((bindings, costs))
    print(
      f'{number + 1} of {len(candidates)}: {names[number]}: {verdict}',
      file=sys.stderr,
      flush=True,
    )
  return results


def _flag(binding: tuple[str, Any]) -> str:
  """A binding as a flag that can be pasted into a shell."""
  name, value = binding[0], repr(binding[1])
  return f'--gin.{name}=' + (value if value.isalnum() else f'"{value}"')


def _choice(text: str) -> tuple[str, list[Any]]:
  """The name and the values of a flag `--choices=NAME=[value, ...]`."""
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
  """Writes the values to the file of `--json`, if that flag is set."""
  if _FLAGS.json:
    # Not `files.write_text`, which replaces: this may be a pipe or /dev/stdout.
    path = files.folder(_FLAGS.json, '--json')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=1) + '\n')
