"""The factors of a LoRA, kernel by kernel, checked against a model."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hypertuning.adapters import Adapters, LoRA, Matrix
from hypertuning.errors import UserError
from hypertuning.exporting import checks


class Factors(NamedTuple):
  """The factors of the update of one kernel, without the scale.

  Attributes:
    a: first factor, float32 `[inputs, rank]`.
    b: second factor, float32 `[rank, outputs]`.
  """

  a: np.ndarray
  b: np.ndarray


class Updates(NamedTuple):
  """The updates of a network's kernels, each `scale * a @ b`.

  Attributes:
    kernels: maps the path of each kernel that is updated, see `paths`, to its
      factors.
    scale: the number that all updates are multiplied by.
  """

  kernels: Mapping[str, Factors]
  scale: float


def read(adapters: Adapters, config: Any) -> Updates:
  """The updates of a LoRA of one episode.

  Args:
    adapters: LoRA of one episode.
    config: config of the network.

  Raises:
    UserError: the adapters are a prefix, are those of several episodes, or do
      not fit the network.
  """
  if not isinstance(adapters, LoRA):
    raise UserError(
      "phi is a prefix, but LoRA is needed here; a Llama's prefix leaves as a "
      "cache of transformers or as PEFT's prefix tuning."
    )
  checks.one_episode(adapters)
  kernels = {}
  for site_name, projections in adapters.sites.items():
    for name, pair in projections.items():
      label = f'{site_name}/{name}'
      site = config.sites.get(site_name)
      if site is None or name not in site.modules:
        raise UserError(f'phi: {label} is no projection of this network.')
      matrix = site.modules[name]
      a = np.asarray(jax.device_get(pair.a), np.float32)
      b = np.asarray(jax.device_get(pair.b), np.float32)
      rank = a.shape[-1]
      wanted = (
        (1, site.layers, matrix.inputs, rank),
        (1, site.layers, rank, matrix.outputs),
      )
      if (a.shape, b.shape) != wanted:
        raise UserError(
          f'phi: the factors of {label} are {a.shape} and {b.shape}, but in '
          f'this network they are {wanted[0]} and {wanted[1]}.'
        )
      for layer, path in enumerate(paths(matrix, site.layers)):
        kernels[path] = Factors(a[0, layer], b[0, layer])
  return Updates(kernels, adapters.scale)


def paths(matrix: Matrix, layers: int) -> list[str]:
  """The paths of a projection's kernels where layers are not scanned.

  Args:
    matrix: the projection.
    layers: number of layers.

  Returns:
    One path per layer, such as `decoder/layers_0/mlp/gate/kernel`.
  """
  return [
    f'{matrix.path}/kernel'.replace('/layers/', f'/layers_{layer}/')
    for layer in range(layers)
  ]
