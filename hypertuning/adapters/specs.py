"""What phi is made of: its kind, its sizes and where in a network it goes.

A spec says *what*; a source (a hypermodel's head, `Learned`) says *how* its
values come about. Sources, files and tuning read the same spec.
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
  """A network's configuration, as far as adapters read it."""

  @property
  def sites(self) -> Mapping[str, Site]:
    """Site name to what is there."""

  @property
  def dtype(self) -> Any:
    """Computation type."""


@dataclasses.dataclass(frozen=True)
class PrefixSpec:
  """Keys and values before the text's own.

  Attributes:
    length: prefix tokens in every layer.
    sites: names of the attentions that the prefix goes to.
  """

  length: Count = 32
  sites: Names = ('encoder_self', 'decoder_self')

  def at(self, config: HasSites) -> dict[str, Site]:
    """The sites of a network that get a prefix.

    Raises:
      UserError: the network has no such site, or no attention there.
    """
    attentions = {k: site for k, site in config.sites.items() if site.kv_heads}
    return _chosen('PREFIX_SITES', self.sites, attentions)

  def shapes(self, config: HasSites) -> Prefix:
    """Phi that all episodes share, as `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: see `at`.
    """

    def leaf(site: Site) -> Any:
      shape = (1, self.length, site.layers, site.kv_heads, site.head_dim)
      return jax.ShapeDtypeStruct(shape, jnp.float32)

    return Prefix(
      {
        name: KeyValue(key=leaf(site), value=leaf(site))
        for name, site in self.at(config).items()
      }
    )

  def axes(self, config: HasSites) -> Prefix:
    """Logical axis names of every leaf behind its episodes axis."""

    def names(site: Site) -> Any:
      return ('stack', 'layers', site.kv_axis, 'kv')

    return Prefix(
      {
        name: KeyValue(key=names(site), value=names(site))
        for name, site in self.at(config).items()
      }
    )


@dataclasses.dataclass(frozen=True)
class LoRASpec:
  """Low-rank updates of projections.

  Attributes:
    rank: rank of every update.
    alpha: the update is scaled by `alpha / rank`.
    sites: names of the sites whose projections are updated.
    modules: names of the projections; a site without any of them is skipped.
  """

  rank: Count = 16
  alpha: Positive = 16.0
  sites: Names = ('encoder_self', 'decoder_self', 'decoder_cross')
  modules: Names = ('query', 'value')

  @property
  def scale(self) -> float:
    """`alpha / rank`."""
    return self.alpha / self.rank

  def at(self, config: HasSites) -> dict[str, Site]:
    """The sites of a network with an updated projection.

    Raises:
      UserError: the network has no such site, or no site has a projection of
        this name.
    """
    found = _chosen('LORA_SITES', self.sites, config.sites)
    modules = {k: x for site in found.values() for k, x in site.modules.items()}
    _chosen('LORA_PROJECTIONS', self.modules, modules)
    return {
      name: site
      for name, site in found.items()
      if set(self.modules) & set(site.modules)
    }

  def matrices(self, config: HasSites) -> dict[str, dict[str, Matrix]]:
    """Site name to projection name to its kernel, in the spec's order.

    Raises:
      UserError: see `at`.
    """
    return {
      site_name: {
        name: site.modules[name]
        for name in self.modules
        if name in site.modules
      }
      for site_name, site in self.at(config).items()
    }

  def shapes(self, config: HasSites) -> LoRA:
    """Phi that all episodes share, as `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: see `at`.
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
    """Logical axis names of every leaf behind its episodes axis."""
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


def _chosen(
  macro: str, names: Sequence[str], known: Mapping[str, _T]
) -> dict[str, _T]:
  """The values of these names, which a macro gives.

  Raises:
    UserError: a name is not known, or comes twice.
  """
  for name in names:
    if name not in known:
      raise UserError(
        f'{macro} = {tuple(names)!r}: the network has no {name!r}; give '
        f'some of {", ".join(known)}.'
      )
    if list(names).count(name) > 1:
      raise UserError(f'{macro} = {tuple(names)!r}: has {name!r} twice.')
  return {name: known[name] for name in names}
