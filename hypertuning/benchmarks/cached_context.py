"""Examples in context that are read once and cached, as query cost needs them.

A decoder-only network can read the examples of an episode once, keep their keys
and values, and go on from them with every query.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning import trees
from hypertuning.data.text_format import TextFormat
from hypertuning.models import HyperTuningModel
from hypertuning.networks import Cacher
from hypertuning.padding import PAD_ID


def reason_against(model: HyperTuningModel) -> str:
  """Why the frozen network cannot cache examples; empty if it can."""
  network = model.module.downstream
  if isinstance(network, Cacher):
    return ''
  return f'{type(network).__name__} reads its whole input with every query'


def make(
  model: HyperTuningModel, params: Any, frozen: Any, tokens: jax.Array
) -> Any:
  """The cache of every episode, as adapters of the frozen network.

  Args:
    model: a model whose network can cache, see `reason_against`.
    params: trainable variables.
    frozen: frozen variables.
    tokens: examples, int32 `[episodes, length]`, see `divide`.
  """
  return model.module.apply(
    {'params': trees.join(params, frozen)}, tokens, method='cache'
  )


def shapes(
  form: TextFormat, features: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
  """Shapes of what `divide` returns for model features of these shapes."""
  batch, *chunks, length = features['hyper_tokens']
  frame = len(form.start) + len(form.end)
  chunk = length - frame + len(form.between)
  *rows, inputs = features['input_tokens']
  return {
    **features,
    'hyper_tokens': (batch, len(form.start) + chunk * int(np.prod(chunks))),
    'input_tokens': (*rows, inputs - len(form.start)),
  }


def divide(
  form: TextFormat, batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """A batch whose examples begin the text that its queries go on from.

  Args:
    form: format of the text.
    batch: model features of episodes.

  Returns:
    The same features. `hyper_tokens` `[episodes, length]` is the start of a
    query with its examples in context, and `input_tokens` is the rest of it.
  """
  sizes = shapes(form, {name: x.shape for name, x in batch.items()})
  examples = np.full(sizes['hyper_tokens'], PAD_ID, np.int32)
  for row, chunks in zip(examples, batch['hyper_tokens'], strict=True):
    ids = list(form.start)
    for chunk in np.atleast_2d(chunks):
      body = _real(chunk)[len(form.start) :]
      body = body[: len(body) - len(form.end)]
      ids += [*body, *form.between] if body else []
    row[: len(ids)] = ids
  queries = batch['input_tokens'][..., len(form.start) :]
  return {**batch, 'hyper_tokens': examples, 'input_tokens': queries}


def _real(tokens: np.ndarray) -> Sequence[int]:
  return [int(token) for token in tokens if token != PAD_ID]
