"""The objectives of training: the likelihood of targets, and distillation.

What has the size of the vocabulary is computed in blocks of tokens, see
`blocks`.
"""

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics

from hypertuning import blocks
from hypertuning.errors import UserError
from hypertuning.predictions import Predictions

TOKENS = 'NUM_REAL_TARGET_TOKENS'  # t5x's name


def check_settings(
  loss_normalizing_factor: float | str | None,
  distillation_weight: float,
  has_teacher: bool,
) -> None:
  """Refuses a factor or weight without a meaning, and a teacher of weight 0.

  Args:
    loss_normalizing_factor: number that the loss is divided by, or TOKENS.
    distillation_weight: share of the loss that is the divergence.
    has_teacher: whether there is a network of the teacher's own.

  Raises:
    UserError: names the binding.
  """
  if isinstance(loss_normalizing_factor, str) and (
    loss_normalizing_factor != TOKENS
  ):
    raise UserError(
      f'loss_normalizing_factor = {loss_normalizing_factor!r}: give a '
      f'number, {TOKENS!r} or None.'
    )
  if not 0 <= distillation_weight <= 1 or (
    has_teacher and not distillation_weight
  ):
    raise UserError(
      f'DISTILLATION_WEIGHT = {distillation_weight!r}: give a share from 0 '
      'to 1, above 0 where there is a TEACHER.'
    )


def loss_and_metrics(
  model: Predictions,
  targets: jax.Array,
  weights: jax.Array,
  teacher: Predictions | None = None,
  distillation_weight: float = 0.0,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, clu_metrics.Average]]:
  """The loss, summed over target tokens.

  Args:
    model: predictions of the model.
    targets: ids of the target tokens, int32 `[..., length]`.
    weights: weights of the target tokens, `[..., length]`, 0 on padding.
    teacher: predictions of the teacher; None without one. No gradient goes
      through them.
    distillation_weight: share of the loss, from 0 to 1, that is the divergence
      KL(teacher || model); the rest is the cross-entropy with the targets.
    label_smoothing: probability that is spread over the vocabulary.
    z_loss: weight of `log(Z)^2`, where Z is the softmax's denominator.

  Returns:
    The loss, float32 `[]`, and averages over target tokens: `loss` (the
    cross-entropy), `accuracy` and, with a teacher, `divergence`. Of these,
    the loss alone has a gradient.
  """
  weights = weights.astype(jnp.float32)
  share = distillation_weight if teacher else 0.0

  def block(
    targets: jax.Array,
    weights: jax.Array,
    hidden: jax.Array,
    teacher_hidden: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    logits = model.logits(hidden)
    losses = _cross_entropy(logits, targets)
    if label_smoothing:
      uniform = jax.nn.logsumexp(logits, -1) - jnp.mean(logits, -1)
      losses += label_smoothing * (uniform - losses)
    if z_loss:
      losses += z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
    total = jnp.sum(losses * weights)
    found = {
      'loss': total,
      'accuracy': jnp.sum((jnp.argmax(logits, -1) == targets) * weights),
    }
    if teacher is not None and teacher_hidden is not None:
      wanted = jax.lax.stop_gradient(teacher.logits(teacher_hidden))
      divergence = optax.losses.kl_divergence_with_log_targets(
        jax.nn.log_softmax(logits), jax.nn.log_softmax(wanted)
      )
      found['divergence'] = jnp.sum(divergence * weights)
      total = (1 - share) * total + share * found['divergence']
    return total, found

  arrays = [targets, weights, model.hidden]
  if teacher is not None:
    arrays.append(jax.lax.stop_gradient(teacher.hidden))
  total, found = blocks.sums_and_gradients(
    block, _count(model, targets), targets.ndim - 1, arrays
  )
  tokens = jnp.sum(weights)
  metrics = {
    name: clu_metrics.Average(total=x, count=tokens)
    for name, x in found.items()
  }
  return total, metrics


def log_likelihood(
  model: Predictions, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  """The log-probability of every target, summed over its tokens.

  Args:
    model: predictions of the model.
    targets: ids of the target tokens, int32 `[..., length]`.
    weights: weights of the target tokens, `[..., length]`, 0 on padding.

  Returns:
    Float32 `[...]`. For its gradient, logits are computed twice;
    `loss_and_metrics` computes them once.
  """

  def block(
    targets: jax.Array, weights: jax.Array, hidden: jax.Array
  ) -> jax.Array:
    losses = _cross_entropy(model.logits(hidden), targets)
    return -jnp.sum(losses * weights, axis=-1)

  scores: jax.Array = blocks.sums(
    block,
    _count(model, targets),
    targets.ndim - 1,
    [targets, weights, model.hidden],
  )
  return scores


def _cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Losses of tokens, `[..., length]`, of logits `[..., length, vocab]`.

  As optax's function for integer labels, but the gradient of looking up a
  label is a comparison, where optax's is a scatter into another array of the
  logits' size.
  """
  ids = jnp.arange(logits.shape[-1], dtype=targets.dtype)
  is_target = ids == targets[..., None]
  label = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - label


def _count(model: Predictions, targets: jax.Array) -> int:
  vocab = jax.eval_shape(model.logits, model.hidden).shape[-1]
  return blocks.count(targets.size, targets.shape[-1], vocab)
