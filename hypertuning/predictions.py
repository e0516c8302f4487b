"""What a network predicts for targets: hidden states, and a way to logits."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from hypertuning import trees
from hypertuning.adapters import Adapters
from hypertuning.networks.adapted import AdaptedModel, Batch
from hypertuning.padding import is_real

Tree = Mapping[str, Any]


class Predictions(NamedTuple):
  """Predictions of target tokens, not yet over the vocabulary.

  Attributes:
    hidden: hidden states that predict the targets, `[..., length, embed]`.
    logits: function from some of them, `[..., columns, embed]`, to logits,
      float32 `[..., columns, vocab]`.
  """

  hidden: jax.Array
  logits: Callable[[jax.Array], jax.Array]


def join_variables(params: Tree, flax_mutables: Tree | None) -> dict:
  """The variables of the whole network, trainable and frozen ones joined."""
  frozen = (flax_mutables or {}).get('frozen', {})
  return {'params': trees.join(params, frozen)}


def is_asked(batch: Batch) -> jax.Array:
  """Which queries are no padding.

  An empty query still has a target, if only its end; where targets are not
  known, queries are not empty.

  Args:
    batch: model features, of which `input_tokens` and, where they are there,
      `target_weights` `[episodes, queries, length]` and `is_real` `[episodes]`
      are read.

  Returns:
    Bool `[rows]`, one row per query.
  """
  found = is_real(batch['input_tokens']).any(axis=-1)
  if 'target_weights' in batch:
    found |= (batch['target_weights'] != 0).any(axis=-1)
  if 'is_real' in batch:
    found &= batch['is_real'][:, None] != 0
  return found.reshape(-1)


def for_training(
  module: AdaptedModel,
  variables: Tree,
  batch: Batch,
  dropout_rng: jax.Array | None,
) -> Predictions:
  """Predictions with the phi that the model generates.

  Args:
    module: the network and the source of phi.
    variables: all variables, see `join_variables`.
    batch: one batch of model features.
    dropout_rng: key for dropout; None turns dropout off.
  """
  hidden: Any = module.apply(
    variables,
    batch,
    enable_dropout=dropout_rng is not None,
    rngs=None if dropout_rng is None else {'dropout': dropout_rng},
  )
  return Predictions(hidden, _method(module, variables, 'logits'))


def with_adapters(
  module: AdaptedModel, variables: Tree, batch: Batch, phi: Adapters | None
) -> Predictions:
  """Predictions with adapters `[episodes, ...]`; None for no phi."""
  hidden: Any = module.apply(variables, batch, phi, method='hidden')
  return Predictions(hidden, _method(module, variables, 'logits'))


def by_teacher(
  module: AdaptedModel, variables: Tree, batch: Batch
) -> Predictions:
  """Predictions of the teacher, see `AdaptedModel.teacher_hidden`."""
  hidden: Any = module.apply(variables, batch, method='teacher_hidden')
  return Predictions(hidden, _method(module, variables, 'teacher_logits'))


def _method(
  module: AdaptedModel, variables: Tree, name: str
) -> Callable[[jax.Array], Any]:
  return lambda hidden: module.apply(variables, hidden, method=name)
