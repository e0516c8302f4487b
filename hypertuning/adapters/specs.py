"""Specs of phi: its kind, its sizes, and its sites in a network.

A spec says what phi consists of. A source, which is the head of a hypermodel or
`Learned`, says how its values are made. All sources use the same specs.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from hypertuning.adapters.lora import LoRA
from hypertuning.adapters.prefix import Prefix
from hypertuning.adapters.sites import KeyValue, LowRank, Matrix, Site
from hypertuning.errors import UserError
from hypertuning.ranges import Count, Names, Positive

_T = TypeVar('_T')


@runtime_checkable
class HasSites(Protocol):
  """The part of a network's configuration that adapters read."""

  @property
  def sites(self) -> Mapping[str, Site]:
    """Maps the name of each site to its description."""

  @property
  def dtype(self) -> Any:
    """The dtype that the network computes in."""


@dataclasses.dataclass(frozen=True)
class PrefixSpec:
  """Keys and values that stand before those of the text.

  Attributes:
    length: number of prefix tokens in every layer.
    sites: names of the attentions that the prefix goes to.
  """

  length: Count = 32
  sites: Names = ('encoder_self', 'decoder_self')

  def selected_sites(self, config: HasSites) -> dict[str, Site]:
    """The sites of a network that get a prefix.

    Args:
      config: configuration of the network.

    Raises:
      UserError: the network has no such site, or no attention there.
    """
    attentions = {k: site for k, site in config.sites.items() if site.kv_heads}
    for name in self.sites:
      if name in config.sites.keys() - attentions.keys():
        raise UserError(
          f'PREFIX_SITES = {tuple(self.sites)!r}: {name!r} has no attention; '
          f'give some of {", ".join(attentions)}.'
        )
    return _by_names('PREFIX_SITES', self.sites, attentions)

  def shapes(self, config: HasSites) -> Prefix:
    """Phi that all episodes share, as `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: see `selected_sites`.
    """

    def leaf(site: Site) -> Any:
      shape = (1, self.length, site.layers, site.kv_heads, site.head_dim)
      return jax.ShapeDtypeStruct(shape, jnp.float32)

    return Prefix(
      {
        name: KeyValue(key=leaf(site), value=leaf(site))
        for name, site in self.selected_sites(config).items()
      }
    )

  def axes(self, config: HasSites) -> Prefix:
    """The logical names of every leaf's axes, without the episodes axis.

    Raises:
      UserError: see `selected_sites`.
    """

    def names(site: Site) -> Any:
      return ('stack', 'layers', site.kv_axis, 'kv')

    return Prefix(
      {
        name: KeyValue(key=names(site), value=names(site))
        for name, site in self.selected_sites(config).items()
      }
    )


@dataclasses.dataclass(frozen=True)
class LoRASpec:
  """Low-rank updates of projections.

  Attributes:
    rank: rank of every update.
    alpha: numerator of the scale `alpha / rank` of the updates.
    sites: names of the sites whose projections are updated.
    modules: names of the projections; a site that has none of them is skipped.
  """

  rank: Count = 16
  alpha: Positive = 16.0
  sites: Names = ('encoder_self', 'decoder_self', 'decoder_cross')
  modules: Names = ('query', 'value')

  @property
  def scale(self) -> float:
    """The number that updates are multiplied by, `alpha / rank`."""
    return self.alpha / self.rank

  def selected_sites(self, config: HasSites) -> dict[str, Site]:
    """The sites of a network where a projection is updated.

    Args:
      config: configuration of the network.

    Raises:
      UserError: the network has no such site, or none of the sites has a
        projection of that name.
    """
    sites = _by_names('LORA_SITES', self.sites, config.sites)
    modules = {k: x for site in sites.values() for k, x in site.modules.items()}
    _by_names('LORA_PROJECTIONS', self.modules, modules)
    return {
      name: site
      for name, site in sites.items()
      if set(self.modules) & set(site.modules)
    }

  def matrices(self, config: HasSites) -> dict[str, dict[str, Matrix]]:
    """The projections that are updated, in the order of the spec.

    Returns:
      A dict from the name of each site to a dict from the name of each
      projection to its description.

    Raises:
      UserError: see `selected_sites`.
    """
    return {
      site_name: {
        name: site.modules[name]
        for name in self.modules
        if name in site.modules
      }
      for site_name, site in self.selected_sites(config).items()
    }

  def shapes(self, config: HasSites) -> LoRA:
    """Phi that all episodes share, as `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: see `selected_sites`.
    """

    def leaf(*shape: int) -> Any:
      return jax.ShapeDtypeStruct((1, *shape), jnp.float32)

    factors = {
      site: {
        name: LowRank(
          a=leaf(config.sites[site].layers, matrix.inputs, self.rank),
          b=leaf(config.sites[site].layers, self.rank, matrix.outputs),
        )
        for name, matrix in matrices.items()
      }
      for site, matrices in self.matrices(config).items()
    }
    return LoRA(factors, self.scale)

  def axes(self, config: HasSites) -> LoRA:
    """The logical names of every leaf's axes, without the episodes axis.

    Raises:
      UserError: see `selected_sites`.
    """
    names: Any = {
      site: {
        name: LowRank(
          a=('layers', matrix.axes[0], 'stack'),  # type: ignore[arg-type]
          b=('layers', 'stack', matrix.axes[1]),  # type: ignore[arg-type]
        )
        for name, matrix in matrices.items()
      }
      for site, matrices in self.matrices(config).items()
    }
    return LoRA(names, self.scale)


Spec = PrefixSpec | LoRASpec


def _by_names(
  macro: str, names: Sequence[str], values: Mapping[str, _T]
) -> dict[str, _T]:
  """Selects values by their names.

  Args:
    macro: name of the macro that gives the names, for error messages.
    names: names of values.
    values: maps all names to values.

  Raises:
    UserError: a name has no value, or comes twice.
  """
  for name in names:
    if name not in values:
      raise UserError(
        f'{macro} = {tuple(names)!r}: the network has no {name!r}; give '
        f'some of {", ".join(values)}.'
      )
    if list(names).count(name) > 1:
      raise UserError(f'{macro} = {tuple(names)!r}: has {name!r} twice.')
  return {name: values[name] for name in names}
