"""The objectives of training: the likelihood of targets, and distillation."""

import jax
import jax.numpy as jnp
import optax
from clu import metrics as clu_metrics


def loss_and_metrics(
  logits: jax.Array,
  targets: jax.Array,
  weights: jax.Array,
  teacher: jax.Array | None = None,
  distillation_weight: float = 0.0,
  label_smoothing: float = 0.0,
  z_loss: float = 0.0,
) -> tuple[jax.Array, dict[str, clu_metrics.Average]]:
  """The loss, summed over target tokens.

  Args:
    logits: logits of the model, float32 `[..., length, vocab]`.
    targets: ids of the target tokens, int32 `[..., length]`.
    weights: weights of the target tokens, `[..., length]`, 0 on padding.
    teacher: logits of the teacher, in the shape of `logits`; None without one.
    distillation_weight: share of the loss, from 0 to 1, that is the divergence
      KL(teacher || model); the rest is the cross-entropy with the targets.
    label_smoothing: probability that is spread over the vocabulary.
    z_loss: weight of `log(Z)^2`, where Z is the softmax's denominator.

  Returns:
    The loss, float32 `[]`, and averages over target tokens: `loss` (the
    cross-entropy), `accuracy` and, with a teacher, `divergence`.
  """
  weights = weights.astype(jnp.float32)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  if label_smoothing:
    uniform = jax.nn.logsumexp(logits, -1) - jnp.mean(logits, -1)
    losses += label_smoothing * (uniform - losses)
  if z_loss:
    losses += z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
  total, count = jnp.sum(losses * weights), jnp.sum(weights)
  correct = jnp.sum((jnp.argmax(logits, -1) == targets) * weights)
  metrics = {
    'loss': clu_metrics.Average(total=total, count=count),
    'accuracy': clu_metrics.Average(total=correct, count=count),
  }
  if teacher is not None:
    divergence = optax.losses.kl_divergence_with_log_targets(
      jax.nn.log_softmax(logits), jax.nn.log_softmax(teacher)
    )
    divergence_sum = jnp.sum(divergence * weights)
    metrics['divergence'] = clu_metrics.Average(
      total=divergence_sum, count=count
    )
    total = (
      1 - distillation_weight
    ) * total + distillation_weight * divergence_sum
  return total, metrics


def log_likelihood(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  """The log-probability of every target, summed over its tokens.

  Args:
    logits: logits of the model, float32 `[..., length, vocab]`.
    targets: ids of the target tokens, int32 `[..., length]`.
    weights: weights of the target tokens, `[..., length]`, 0 on padding.

  Returns:
    Float32 `[...]`.
  """
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  return -jnp.sum(losses * weights, axis=-1)
