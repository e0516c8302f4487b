"""Measures a training step of ours and those of its peers."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from hypertuning.benchmarks import built, machine, own_step, peers, rounds
from hypertuning.benchmarks.methods import METHODS, Shape
from hypertuning.planning.step import without_remat

OURS, EAGER, COMPILED = 'hypertuning', 'PyTorch', 'PyTorch, compiled'
PEERS = (EAGER, COMPILED)
Row = dict[str, Any]


def measure(
  network: str,
  method: str,
  size: str,
  shape: Shape,
  count: int,
  optimizer: str = 'adamw',
  bindings: Sequence[str] = (),
  peer_ways: Sequence[str] = PEERS,
) -> list[Row]:
  """Measures a step of ours and those of its peers.

  Args:
    network: `t5` or `llama`.
    method: what is trained, a key of `METHODS[network]`.
    size: name of a file of gin/models/sizes.
    shape: size of the batch.
    count: number of measured steps of each; two more of each come first.
    optimizer: name of a file of gin/optimizers.
    bindings: gin bindings, see `built.build`.
    peer_ways: how the peer runs, some of `PEERS`.

  Returns:
    One row per way, ours first, with `way`, `seconds` and their spread, `rows`
    per step, `tokens_per_second`, `trained` parameters, `peak_bytes` (None if
    unknown) and `ratio` (our tokens per second by the way's). Ours also has
    the fields of `own_step.Costs`, `useful_flops` (without
    rematerialisation), `flops_per_second`, `share_of_peak` (None if the peak is
    not known), `compile_seconds` and `compilations`.

  Raises:
    UserError: a size or a binding is at fault.
  """
  model = built.build(network, method, size, optimizer, bindings)
  features = built.batch(model, shape)
  useful = own_step.useful_flops(without_remat(model), features)
  chosen = METHODS[network][method]
  makers: dict[str, Callable[[], Any]] = {
    way: functools.partial(
      _peer, model, features, chosen.peer, optimizer, way == COMPILED
    )
    for way in (peer_ways if chosen.peer else ())
  }
  makers[OURS] = lambda: own_step.OwnStep(model, features)
  rows = _rows(makers, count)
  tokens = shape.tokens(chosen.reads_examples)
  for row in rows:
    row['tokens_per_second'] = (
      tokens * row['rows'] / (shape.episodes * shape.queries) / row['seconds']
    )
  ours = rows[0]
  rate = useful / ours['seconds']
  peak = machine.peak_flops()
  ours |= {
    'useful_flops': useful,
    'flops_per_second': rate,
    'share_of_peak': rate / peak if peak else None,
  }
  for row in rows:
    row['ratio'] = ours['tokens_per_second'] / row['tokens_per_second']
  return rows


def _rows(makers: Mapping[str, Callable[[], Any]], count: int) -> list[Row]:
  """One row per way that could be made, ours first.

  On a CPU, all ways take turns. On a GPU, where each may take the whole of the
  memory, they come one after the other, ours last: jax keeps what it has taken.
  """
  in_turn = jax.default_backend() == 'cpu'
  groups = [list(makers)] if in_turn else [[name] for name in makers]
  rows: dict[str, Row] = {}
  for names in groups:
    steps = {name: _made(name, makers[name]) for name in names}
    ready = {name: step for name, step in steps.items() if step is not None}
    for name, seconds in rounds.in_turn(ready, count).items():
      rows[name] = {'way': name, **rounds.spread(seconds), **ready[name].row()}
    if not in_turn:
      del steps, ready
      peers.free()
  return [rows.pop(OURS), *rows.values()]


def _made(name: str, make: Callable[[], Any]) -> Any:
  if name == OURS:
    return make()
  return peers.attempt(name, make)


def _peer(*arguments: Any) -> Any:
  from hypertuning.benchmarks import torch_peers  # PyTorch may be missing

  return torch_peers.TorchStep(*arguments)
