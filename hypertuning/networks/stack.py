"""Stacks of equal layers, unrolled or scanned, rematerialised or not."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters import Adapters, LoRA, LowRank, Prefix, SiteAdapter
from hypertuning.networks import attention

_saves_kernels = jax.checkpoint_policies.save_only_these_names(
  *attention.SAVED_NAMES
)


def _and_kernels(policy: Callable[..., Any]) -> Callable[..., Any]:
  """A policy that also saves what an attention kernel gives."""

  def saves(primitive: Any, *inputs: Any, **parameters: Any) -> Any:
    # cuDNN's residuals have no names of ours.
    if primitive.name.startswith('dot_product_attention_fwd'):
      return True
    return policy(primitive, *inputs, **parameters) or _saves_kernels(
      primitive, *inputs, **parameters
    )

  return saves


_REMAT_POLICIES = {
  'full': None,
  'minimal': _and_kernels(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  'projections': _and_kernels(
    jax.checkpoint_policies.save_only_these_names(
      *('query', 'key', 'value', 'attended', 'residual', 'mlp_input')
    )
  ),
}
SiteAdapters = dict[str, SiteAdapter | None]


def site_adapters(
  adapters: Adapters | None,
  names: Sequence[str],
  prefix: Prefix | None = None,
) -> SiteAdapters:
  """The parts of an adapter for the sites of a stack.

  Args:
    adapters: phi of the episodes; None for no phi.
    names: names of the sites.
    prefix: a prefix beside the adapter, such as that of an earlier text.

  Returns:
    A dict from the name of each site to the adapter's part, whose leaves have
    the axis `layers` first; None where the adapter does not act.
  """
  parts = {
    name: adapters.site_adapter(name) if adapters else None for name in names
  }
  if prefix is not None:
    for name in prefix.sites:
      part: Any = prefix.site_adapter(name)
      parts[name] = dataclasses.replace(
        parts[name] or SiteAdapter(),
        prefix=part.prefix,
        prefix_mask=part.prefix_mask,
      )
  return parts


def on_first_columns(adapters: LoRA | None, columns: int) -> LoRA | None:
  """LoRA that updates the first columns of a text alone.

  Args:
    adapters: LoRA; None for none.
    columns: number of columns that are updated.
  """
  return jax.tree.map(
    lambda factors: dataclasses.replace(factors, columns=columns),
    adapters,
    is_leaf=lambda x: isinstance(x, LowRank),
  )


def without_prefix(adapters: SiteAdapters) -> SiteAdapters:
  """The parts of the sites without the prefix's keys, which a memory holds."""
  return {
    name: part and dataclasses.replace(part, prefix=None)
    for name, part in adapters.items()
  }


def prefix_length(adapters: SiteAdapters, site: str) -> int:
  """Number of prefix tokens at a site, whose leaves have `layers` first."""
  part = adapters[site]
  return part.prefix.key.shape[2] if part and part.prefix else 0


def as_prefix(layers: Any, site: str) -> Prefix:
  """What every layer of a stack returned, as a prefix at a site.

  Args:
    layers: `KeyValue`s `[rows, kv_heads, prefix, head_dim]` per layer, or one
      with `layers` first where layers are scanned, see `run_layers`.
    site: name of the site.
  """
  if isinstance(layers, tuple):
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
  # `[layers, rows, kv_heads, prefix, head_dim]`
  return Prefix(
    {site: jax.tree.map(lambda x: x.transpose(1, 3, 0, 2, 4), layers)}
  )


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
  """Runs a stack of layers inside the module that owns it.

  Args:
    layer_class: class of the layers. `layer(x, adapters, memory, *shared)`
      returns the next hidden states and the layer's memory, such as its keys
      and values, or None.
    num_layers: number of layers.
    config: configuration of the network, whose `scan_layers` and `remat_policy`
      are read.
    settings: further attributes of a layer, by name.
    x: hidden states, `[rows, length, embed]`.
    adapters: parts of the adapter, from `site_adapters`.
    memory: memories of the layers, as an earlier call returned them; None in
      the first call.
    *shared: further arguments, which are the same for all layers.

  Returns:
    The hidden states after the last layer, and the memories of all layers. With
    `scan_layers`, these are one pytree, whose leaves have the axis `layers`
    first; otherwise, they are a tuple of pytrees.
  """
  settings = {'config': config, **settings}
  if config.remat_policy != 'none':
    layer_class = nn.remat(
      layer_class,
      policy=_REMAT_POLICIES[config.remat_policy],
      prevent_cse=not config.scan_layers,
    )
  if config.scan_layers:
    scanned_layer = partitioning.scan_with_axes(
      layer_class,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, 0) + (nn.broadcast,) * len(shared),
      length=num_layers,
      axis_name='layers',
      axes_collections=('params',),
    )
    return scanned_layer(**settings, name='layers')(
      x, adapters, memory, *shared
    )
  memories = []
  for i in range(num_layers):
    layer = layer_class(**settings, name=f'layers_{i}')
    x, layer_memory = layer(
      x,
      jax.tree.map(lambda leaf, i=i: leaf[i], adapters),
      None if memory is None else memory[i],
      *shared,
    )
    memories.append(layer_memory)
  return x, tuple(memories)


def each_layer(function: Callable[..., Any], *layers: Any) -> Any:
  """Applies a function to the memory of each layer, see `run_layers`.

  If layers are scanned, the function is called once, and the leaves of its
  arguments have the axis `layers` first.

  Args:
    function: function from the memories of one layer to a new memory.
    *layers: memories of all layers, one argument per argument of `function`.
  """
  if isinstance(layers[0], tuple):
    return tuple(map(function, *layers))
  return function(*layers)
