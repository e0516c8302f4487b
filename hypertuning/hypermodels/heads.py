"""Heads: they turn a hypermodel's token representations into adapters.

HyperTuning (section 3.1) maps the outputs of the decoder to phi by MLPs. It is
not published which tokens belong to which layers; the wiring here is this
project's choice.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters import (
  KeyValue,
  LoRA,
  LoRASpec,
  LowRank,
  Matrix,
  Prefix,
  PrefixSpec,
  Site,
)
from hypertuning.adapters.specs import HasSites
from hypertuning.errors import UserError
from hypertuning.networks import layers
from hypertuning.ranges import Count


class _MLP(nn.Module):
  """An MLP with one hidden GELU layer, `[..., d]` to `[..., features]`."""

  bottleneck: int
  features: Sequence[int]
  last_init: layers.Initializer = layers.FAN_IN
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = layers.DenseGeneral(
      self.bottleneck, ('embed', 'mlp'), dtype=self.dtype, name='wi'
    )(x)
    return layers.DenseGeneral(
      self.features,
      ('mlp', 'embed'),
      dtype=self.dtype,
      kernel_init=self.last_init,
      name='wo',
    )(nn.gelu(x))


class PrefixHead(nn.Module):
  """Emits a prefix, with one query per prefix token and site.

  There is one MLP per site. From one query, it emits the key and the value of
  one prefix token in all layers of its site.

  Attributes:
    downstream: configuration of the network that will read the prefix.
    adapter: spec of the prefix: its length and its sites.
    bottleneck: hidden size of the MLPs.

  Raises:
    UserError: the network has no such site, or no attention there.
  """

  downstream: HasSites
  adapter: PrefixSpec = PrefixSpec()
  bottleneck: Count = 512

  def __post_init__(self) -> None:
    super().__post_init__()
    self.adapter.selected_sites(self.downstream)  # refuses missing sites

  @property
  def num_queries(self) -> int:
    """Number of token representations that the head reads."""
    return self.adapter.length * len(
      self.adapter.selected_sites(self.downstream)
    )

  @nn.compact
  def __call__(self, hidden: jax.Array) -> Prefix:
    """Emits one prefix per episode.

    Args:
      hidden: token representations, `[episodes, num_queries, d]`.

    Returns:
      A `Prefix` with a leading `[episodes]` axis, in the dtype of `hidden`.

    Raises:
      UserError: the downstream network has no such site, or no attention there.
    """
    sites = self.adapter.selected_sites(self.downstream)
    prefix = {}
    for (name, site), x in zip(
      sites.items(), jnp.split(hidden, len(sites), axis=1), strict=True
    ):
      shape = (site.layers, site.kv_heads, site.head_dim)
      key_value = _MLP(
        self.bottleneck, (2, *shape), dtype=hidden.dtype, name=name
      )(x)
      key_value = partitioning.with_sharding_constraint(
        key_value, ('batch', None, None, None, site.kv_axis, 'kv')
      )
      prefix[name] = KeyValue(
        key=self._real_scale(key_value[:, :, 0], f'{name}_key_scale', site),
        value=key_value[:, :, 1],
      )
    return Prefix(prefix)

  def _real_scale(self, key: jax.Array, name: str, site: Site) -> jax.Array:
    """Normalises keys, and multiplies them by a learned scale.

    A key that is much larger than the network's own keys saturates the softmax,
    and one that is much smaller is never attended to.

    Args:
      key: generated keys, `[episodes, prefix, layers, kv_heads, head_dim]`.
      name: name of the parameter that holds the scales, one per layer and head.
      site: site of the prefix, which gives the scale at the start.
    """
    scale = layers.param_with_axes(
      name,
      nn.initializers.constant(site.key_scale),
      key.shape[2:4],
      jnp.float32,
      axes=('layers', site.kv_axis),
    )
    x = key.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
    return (x * scale[..., None]).astype(key.dtype)


class LoRAHead(nn.Module):
  """Emits LoRA factors, with one or more queries per layer of each site.

  There is one MLP per projection and factor (`a` or `b`), which all layers of
  all sites share. The last matrix of the `b` MLPs starts at zero. At the first
  step, the adapted model therefore equals the frozen model, and only the `b`
  MLPs have a gradient.

  Attributes:
    downstream: configuration of the network that will read the factors.
    adapter: spec of the factors: their rank, scale, sites and projections.
    bottleneck: hidden size of the MLPs.
    queries_per_layer: number of queries per layer, each of which gives an equal
      part of the rank.

  Raises:
    UserError: `queries_per_layer` does not divide the rank, the downstream
      network lacks a site or projection, or a projection has different sizes
      at different sites.
  """

  downstream: HasSites
  adapter: LoRASpec = LoRASpec()
  bottleneck: Count = 512
  queries_per_layer: Count = 1

  def __post_init__(self) -> None:
    super().__post_init__()
    rank = self.adapter.rank
    if rank % self.queries_per_layer:
      raise UserError(
        f'LORA_QUERIES_PER_LAYER = {self.queries_per_layer} does not divide '
        f'LORA_RANK = {rank}.'
      )
    sites = self.adapter.selected_sites(self.downstream)
    for module in self.adapter.modules:
      self._matrix(module, [x for x in sites.values() if module in x.modules])

  @property
  def num_queries(self) -> int:
    """Number of token representations that the head reads."""
    sites = self.adapter.selected_sites(self.downstream).values()
    return self.queries_per_layer * sum(site.layers for site in sites)

  @nn.compact
  def __call__(self, hidden: jax.Array) -> LoRA:
    """Emits one set of LoRA factors per episode.

    Args:
      hidden: token representations, `[episodes, num_queries, d]`.

    Returns:
      A `LoRA` with a leading `[episodes]` axis, in the dtype of `hidden`.
    """
    # [episodes, layers, queries, d]
    hidden = hidden.reshape(
      hidden.shape[0], -1, self.queries_per_layer, hidden.shape[-1]
    )
    sites = self.adapter.selected_sites(self.downstream)
    ends = list(itertools.accumulate(x.layers for x in sites.values()))[:-1]
    by_site = dict(zip(sites, jnp.split(hidden, ends, axis=1), strict=True))
    factors: dict[str, dict[str, LowRank]] = {name: {} for name in sites}
    for module in self.adapter.modules:
      users = [name for name in sites if module in sites[name].modules]
      matrix = self._matrix(module, [sites[name] for name in users])
      # One call makes the factors of all sites, as the layers of all of them
      # can be rows of the same matmul.
      x = jnp.concatenate([by_site[name] for name in users], axis=1)
      ends = list(itertools.accumulate(sites[name].layers for name in users))
      a, b = (
        jnp.split(x, ends[:-1], axis=1)
        for x in self._factors(module, matrix, x)
      )
      for name, site_a, site_b in zip(users, a, b, strict=True):
        factors[name][module] = LowRank(a=site_a, b=site_b)
    return LoRA(factors, scale=self.adapter.scale)

  def _factors(
    self, module: str, matrix: Matrix, x: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The factors of one projection in all layers.

    Args:
      module: name of the projection.
      matrix: the projection that is updated, which gives the factors' sizes.
      x: token representations, `[episodes, layers, queries_per_layer, d]`.

    Returns:
      `a` `[episodes, layers, inputs, rank]` and `b`
      `[episodes, layers, rank, outputs]`.
    """
    rank, ranks = self.adapter.rank, self.adapter.rank // self.queries_per_layer
    a = _MLP(
      self.bottleneck,
      (matrix.inputs, ranks),
      nn.initializers.variance_scaling(
        1.0 / matrix.inputs, 'fan_in', 'truncated_normal'
      ),
      dtype=x.dtype,
      name=f'{module}_a',
    )(x)
    a = jnp.moveaxis(a, 2, 3)
    b = _MLP(
      self.bottleneck,
      (ranks, matrix.outputs),
      nn.initializers.zeros,
      dtype=x.dtype,
      name=f'{module}_b',
    )(x)
    # The axis `joined_kv` of a parameter is called `heads` in activations.
    inputs, outputs = (
      'heads' if axis == 'joined_kv' else None for axis in matrix.axes
    )
    # Without the rows of `a`, whose weights may lie divided over the devices of
    # `data`, XLA moves a part of `a` between devices in every layer, and again
    # in the backward pass.
    return partitioning.with_sharding_constraint(
      a.reshape(*a.shape[:3], rank), ('batch', None, inputs, None)
    ), partitioning.with_sharding_constraint(
      b.reshape(*b.shape[:2], rank, matrix.outputs),
      ('batch', None, None, outputs),
    )

  def _matrix(self, module: str, sites: Sequence[Site]) -> Matrix:
    """The projection of this name, which must have one size at all sites.

    One MLP makes the factors of all sites.
    """
    matrices = [site.modules[module] for site in sites]
    sizes = {(matrix.inputs, matrix.outputs) for matrix in matrices}
    if len(sizes) > 1:
      raise UserError(
        f'LORA_PROJECTIONS: {module!r} has different sizes at LORA_SITES = '
        f'{tuple(self.adapter.sites)!r}: name sites where it has one.'
      )
    return matrices[0]
