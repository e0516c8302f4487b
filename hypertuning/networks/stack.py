"""A stack of equal layers: unrolled or scanned, rematerialised or not."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from flax.linen import partitioning

from hypertuning.adapters import Adapters, SiteAdapter

_REMAT_POLICIES = {
  'full': None,
  'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
SiteAdapters = dict[str, SiteAdapter | None]


def at_sites(adapters: Adapters | None, names: Sequence[str]) -> SiteAdapters:
  """An adapter's parts for a stack's sites, leaves with `layers` first."""
  return {name: adapters.at(name) if adapters else None for name in names}


def without_prefix(adapters: SiteAdapters) -> SiteAdapters:
  """The parts of the sites without the prefix, which a memory holds."""
  return {
    name: part and dataclasses.replace(part, prefix=None)
    for name, part in adapters.items()
  }


def prefix_length(adapters: SiteAdapters, site: str) -> int:
  """Number of prefix tokens at a site, whose leaves have `layers` first."""
  part = adapters[site]
  return part.prefix.key.shape[2] if part and part.prefix else 0


def run_layers(
  layer_class: type[nn.Module],
  num_layers: int,
  config: Any,
  settings: dict[str, Any],
  x: jax.Array,
  adapters: SiteAdapters,
  memory: Any,
  *shared: Any,
) -> tuple[jax.Array, Any]:
  """Runs a stack inside the module that owns it.

  Args:
    layer_class: `layer(x, adapters, memory, *shared)` returns the next `x` and
      whatever the layer remembers, such as its keys and values, or None.
    num_layers: number of layers.
    config: what is read of it are `scan_layers` and `remat_policy`.
    settings: further attributes of a layer.
    x: `[rows, length, embed]`.
    adapters: of `at_sites`.
    memory: what each layer remembered, as it was returned; None at first.
    *shared: arguments that all layers get.

  Returns:
    The last `x`, and what all layers remember: with `scan_layers` one pytree
    whose leaves have `layers` first, else a tuple of pytrees.
  """
  settings = {'config': config, **settings}
  if config.remat_policy != 'none':
    layer_class = nn.remat(
      layer_class,
      policy=_REMAT_POLICIES[config.remat_policy],
      prevent_cse=not config.scan_layers,
    )
  if config.scan_layers:
    scanned = partitioning.scan_with_axes(
      layer_class,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, 0) + (nn.broadcast,) * len(shared),
      length=num_layers,
      axis_name='layers',
      axes_collections=('params',),
    )
    return scanned(**settings, name='layers')(x, adapters, memory, *shared)
  remembered = []
  for i in range(num_layers):
    layer = layer_class(**settings, name=f'layers_{i}')
    x, kept = layer(
      x,
      jax.tree.map(lambda leaf, i=i: leaf[i], adapters),
      None if memory is None else memory[i],
      *shared,
    )
    remembered.append(kept)
  return x, tuple(remembered)


def each_layer(function: Callable[..., Any], *layers: Any) -> Any:
  """Applies a function to what each layer remembers, see `run_layers`.

  Where layers are scanned, the function is called once, and its arguments'
  leaves have `layers` first.
  """
  if isinstance(layers[0], tuple):
    return tuple(map(function, *layers))
  return function(*layers)
