"""Heads: a hypermodel's token representations to adapter parameters.

HyperTuning section 3.1 maps decoder outputs to phi by MLPs; how tokens map to
layers is not published, so the wiring below is this project's choice.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen import partitioning

from hypertuning.adapters import KeyValue, LoRA, LowRank, Prefix, sites
from hypertuning.errors import UserError
from hypertuning.networks import layers
from hypertuning.networks.t5 import T5Config


class _MLP(nn.Module):
  """`[..., d]` to `[..., features]` through one GELU bottleneck."""

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


def _layers_at(config: T5Config, site: str) -> int:
  return sites.num_layers(
    site, config.num_encoder_layers, config.num_decoder_layers
  )


class PrefixHead(nn.Module):
  """One query a prefix token and site; an MLP a site emits all layers' K, V.

  Attributes:
    downstream: sizes of the model that will read the prefix.
    prefix_length: prefix tokens in every layer.
    sites: where the prefix goes.
    bottleneck: hidden size of the MLPs.
  """

  downstream: T5Config
  prefix_length: int = 32
  sites: Sequence[str] = (sites.ENCODER_SELF, sites.DECODER_SELF)
  bottleneck: int = 512

  @property
  def num_queries(self) -> int:
    """How many token representations the head reads."""
    return self.prefix_length * len(self.sites)

  @nn.compact
  def __call__(self, hidden: jax.Array) -> Prefix:
    """`[episodes, num_queries, d]` to a `Prefix` for every episode."""
    cfg = self.downstream
    tokens = jnp.split(hidden, len(self.sites), axis=1)
    prefix = {}
    for site, x in zip(self.sites, tokens, strict=True):
      shape = (_layers_at(cfg, site), cfg.num_heads, cfg.head_dim)
      key_value = _MLP(
        self.bottleneck, (2, *shape), dtype=hidden.dtype, name=site
      )(x)
      key_value = partitioning.with_sharding_constraint(
        key_value, ('batch', None, None, None, 'heads', 'kv')
      )
      prefix[site] = KeyValue(
        key=self._real_scale(key_value[:, :, 0], f'{site}_key_scale'),
        value=key_value[:, :, 1],
      )
    return Prefix(prefix)

  def _real_scale(self, key: jax.Array, name: str) -> jax.Array:
    """Normalised keys times a learned scale a layer and head.

    T5 does not divide its attention logits by sqrt(head_dim): a key of the
    wrong size saturates the softmax, or is never attended to.
    """
    scale = layers.param_with_axes(
      name,
      nn.initializers.ones,
      key.shape[2:4],
      jnp.float32,
      axes=('layers', 'heads'),
    )
    x = key.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
    return (x * scale[..., None]).astype(key.dtype)


class LoRAHead(nn.Module):
  """Queries of every attention layer; an MLP a matrix, shared by all of them.

  The last matrix of the `b` MLPs starts at zero: at the first step the adapted
  model is the frozen model, and only `b` has a gradient.

  Attributes:
    downstream: sizes of the model that will read the factors.
    rank: of the updates.
    alpha: the update is scaled by `alpha / rank`.
    sites: which attentions are updated.
    projections: which of `query`, `key`, `value` are updated.
    bottleneck: hidden size of the MLPs.
    queries_per_layer: the rank of a layer's update is divided among them.

  Raises:
    UserError: `queries_per_layer` does not divide `rank`.
  """

  downstream: T5Config
  rank: int = 16
  alpha: float = 16.0
  sites: Sequence[str] = sites.SITES
  projections: Sequence[str] = ('query', 'value')
  bottleneck: int = 512
  queries_per_layer: int = 1

  @property
  def num_queries(self) -> int:
    """How many token representations the head reads."""
    return self.queries_per_layer * sum(self._layers())

  @nn.compact
  def __call__(self, hidden: jax.Array) -> LoRA:
    """`[episodes, num_queries, d]` to `LoRA` factors for every episode."""
    cfg = self.downstream
    if self.rank % self.queries_per_layer:
      raise UserError(
        f'LORA_RANK = {self.rank} is not divided by LORA_QUERIES_PER_LAYER = '
        f'{self.queries_per_layer}.'
      )
    ranks = self.rank // self.queries_per_layer
    # [episodes, layers, queries, d]
    hidden = hidden.reshape(
      hidden.shape[0], -1, self.queries_per_layer, hidden.shape[-1]
    )
    ends = list(itertools.accumulate(self._layers()))[:-1]
    factors: dict[str, dict[str, LowRank]] = {site: {} for site in self.sites}
    for name in self.projections:
      a = _MLP(
        self.bottleneck,
        (cfg.emb_dim, ranks),
        nn.initializers.variance_scaling(
          1.0 / cfg.emb_dim, 'fan_in', 'truncated_normal'
        ),
        dtype=hidden.dtype,
        name=f'{name}_a',
      )(hidden)
      a = jnp.moveaxis(a, 2, 3)
      a = a.reshape(*a.shape[:3], self.rank)
      b = _MLP(
        self.bottleneck,
        (ranks, cfg.num_heads, cfg.head_dim),
        nn.initializers.zeros,
        dtype=hidden.dtype,
        name=f'{name}_b',
      )(hidden)
      b = b.reshape(*b.shape[:2], self.rank, *b.shape[4:])
      b = partitioning.with_sharding_constraint(
        b, ('batch', None, None, 'heads', 'kv')
      )
      split = zip(
        self.sites, jnp.split(a, ends, 1), jnp.split(b, ends, 1), strict=True
      )
      for site, site_a, site_b in split:
        factors[site][name] = LowRank(a=site_a, b=site_b)
    return LoRA(factors, scale=self.alpha / self.rank)

  def _layers(self) -> list[int]:
    """Attention layers of every site."""
    return [_layers_at(self.downstream, site) for site in self.sites]
