"""Models of benchmarks, built from the gin files that a training takes.

No vocabulary is read, and neither TensorFlow nor seqio is imported.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning import gin_utils, models, paths
from hypertuning.benchmarks.methods import METHODS, Shape
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

_FIRST_ID = 2  # behind padding and what ends a text
_SEED = 0


def build(
  network: str,
  method: str,
  size: str,
  optimizer: str = 'adamw',
  bindings: Sequence[str] = (),
) -> HyperTuningModel:
  """Builds a model for this machine's devices.

  Args:
    network: a key of `METHODS`.
    method: what is trained, a key of `METHODS[network]`.
    size: name of a file of gin/models/sizes.
    optimizer: name of a file of gin/optimizers.
    bindings: gin bindings `NAME = value`, which win.

  Raises:
    UserError: there is no such size, or it is not one of this network.
  """
  chosen = METHODS[network][method]
  device = 'cpu' if jax.default_backend() == 'cpu' else 'accelerator'
  gin_utils.parse(
    [
      *(f'gin/models/{name}.gin' for name in chosen.files),
      f'gin/models/sizes/{_size(size)}.gin',
      f'gin/optimizers/{optimizer}.gin',
      'gin/benchmarks/model.gin',
      f'gin/benchmarks/{device}.gin',
    ],
    [*chosen.bindings, *bindings],
  )
  return gin_utils.call(models.HyperTuningModel)


def batch(model: HyperTuningModel, shape: Shape) -> dict[str, np.ndarray]:
  """A batch of random ids without padding.

  Args:
    model: the model that reads it.
    shape: numbers of rows and tokens.

  Returns:
    The model features, int32, see docs/design.md.
  """
  rng = np.random.default_rng(_SEED)
  vocab = model.module.downstream.config.vocab_size
  episodes, queries = shape.episodes, shape.queries

  def ids(*dims: int) -> np.ndarray:
    return rng.integers(_FIRST_ID, vocab, dims).astype(np.int32)

  return {
    'hyper_tokens': ids(episodes, shape.hyper_inputs),
    'input_tokens': ids(episodes, queries, shape.inputs),
    'target_tokens': ids(episodes, queries, shape.targets),
    'target_weights': np.ones((episodes, queries, shape.targets), np.int32),
  }


def shapes(features: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
  """The shape of every model feature in a batch."""
  return {name: x.shape for name, x in features.items()}


def _size(name: str) -> str:
  """The name of a size that there is.

  Raises:
    UserError: there is none; the message lists all.
  """
  folder = pathlib.Path(paths.data_root(), 'gin/models/sizes')
  known = sorted(path.stem for path in folder.glob('*.gin'))
  if name not in known:
    raise UserError(f'--size={name}: give one of {", ".join(known)}.')
  return name
