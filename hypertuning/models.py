"""The model: turns a batch into a loss, scores or text, with or without phi.

It has the methods that t5x expects of a model, but does not import t5x. The
runner that comes with hypertuning calls the same methods.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import freeze

from hypertuning import adapters as adapters_lib
from hypertuning import objectives, predictions, quantization, ranges, trees
from hypertuning.adapters import Adapters
from hypertuning.data.text_format import check
from hypertuning.networks import decoding
from hypertuning.networks.adapted import AdaptedModel, Batch
from hypertuning.networks.memory import Memory
from hypertuning.old_names import takes_text_format
from hypertuning.predictions import join_variables

Tree = Mapping[str, Any]
GENERATE = 'generate'
TOKENS = objectives.TOKENS


class HyperTuningModel:
  """The model that the runner and t5x train, score and decode with.

  Attributes:
    module: the `AdaptedModel`.
    text_format: format of the model's text.
    optimizer_def: an optax transformation, or with t5x its optimizer.
    trainable_regex: regex of the variables that are trained, by their whole
      path (`hypermodel/...`); all others are in the collection `frozen`.
  """

  @takes_text_format
  def __init__(
    self,
    downstream: nn.Module,
    hypermodel: nn.Module | None,
    text_format: ranges.Object,
    optimizer_def: ranges.Object,
    trainable_regex: ranges.Regex = 'hypermodel/.*',
    frozen_dtype: ranges.FrozenDtype | None = None,
    decode_fn: Callable[..., tuple[jax.Array, jax.Array]] = decoding.greedy,
    loss_normalizing_factor: ranges.LossFactor | None = None,
    label_smoothing: ranges.ShareBelowOne = 0.0,
    z_loss: ranges.NotNegative = 0.0,
    distillation_weight: ranges.Share = 0.0,
    teacher: nn.Module | None = None,
    return_adapters: bool = False,
    matmul_precision: ranges.Precision = 'float32',
  ) -> None:
    """Builds the model.

    Args:
      downstream: the network that is adapted, such as `t5.T5`.
      hypermodel: the network that generates phi; None for no phi.
      text_format: a `TextFormat`; None for a model that reads no text, as for
        `hypertuning.plan`.
      optimizer_def: optax transformation, see the class.
      trainable_regex: regex of the trained variables, see the class.
      frozen_dtype: form in which frozen variables are stored: a floating dtype,
        or 'int8' or 'nf4' (see `quantization`); None leaves them as they are.
      decode_fn: decode function: `decoding.greedy`, `sample` or `beam_search`.
      loss_normalizing_factor: number that the summed loss is divided by, or
        `TOKENS` for the number of target tokens in the batch (with t5x, in the
        microbatch). With None, `loss_fn` returns the sum, which the runner of
        hypertuning divides by the target tokens of the global batch.
      label_smoothing: probability that is spread over the vocabulary.
      z_loss: weight of `log(Z)^2`, which keeps logits nearly normalized.
      distillation_weight: share of the loss, from 0 to 1, that is KL(teacher ||
        model) on target tokens; the rest is the cross-entropy. Above 0, batches
        need `teacher_tokens`.
      teacher: the network that is distilled; its variables are `teacher/...`.
        None takes the downstream model, without phi and with all examples in
        its input.
      return_adapters: whether `predict_batch_with_aux` returns phi as well.
      matmul_precision: precision in which float32 is multiplied.

    Raises:
      UserError: the normalizing factor or the weight has no meaning, a teacher
        has weight 0, or the format is no `TextFormat`.
    """
    objectives.check_settings(
      loss_normalizing_factor, distillation_weight, teacher is not None
    )
    self.module = AdaptedModel(
      downstream, hypermodel, teacher, matmul_precision
    )
    self.text_format = text_format and check(text_format)
    self.optimizer_def = optimizer_def
    if teacher is not None:  # a teacher never trains, whatever the regex says
      trainable_regex = f'(?!teacher/)(?:{trainable_regex})'
    self.trainable_regex = trainable_regex
    self._frozen_dtype = frozen_dtype
    self._decode_fn = decode_fn
    self._loss_normalizing_factor = loss_normalizing_factor
    self._label_smoothing = label_smoothing
    self._z_loss = z_loss
    self._distillation_weight = distillation_weight
    self._return_adapters = return_adapters

  @property
  def is_taught(self) -> bool:
    """Whether batches have inputs for a teacher as well."""
    return bool(self._distillation_weight)

  @property
  def FEATURE_CONVERTER_CLS(self) -> Any:
    """The seqio converter of this model's batches; the name is t5x's."""
    # seqio is slow to import, and not always needed.
    from hypertuning.data import features

    if self.is_taught:
      return features.DistillationFeatureConverter
    return features.EpisodeFeatureConverter

  @property
  def input_vocabulary(self) -> Any:
    """The vocabulary of inputs, as seqio's: t5x compares it with the tasks'."""
    from hypertuning.data import seqio_vocabularies

    return seqio_vocabularies.to_seqio(self.text_format.vocabulary)

  @property
  def output_vocabulary(self) -> Any:
    """The vocabulary of targets, see `input_vocabulary`."""
    return self.input_vocabulary

  @property
  def has_hypermodel(self) -> bool:
    """Whether the model generates phi."""
    return self.module.hypermodel is not None

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, Any] | None = None,
  ) -> Tree:
    """Random variables, divided into trainable and frozen ones.

    Args:
      rng: key for the random values.
      input_shapes: shape of every model feature, the batch axis first.
      input_types: dtype of every model feature; int32 where one is missing.

    Returns:
      FrozenDict of `params`, `params_axes` and, if any variable is frozen,
      `frozen`, `frozen_axes`. There, `kernel_axes` names the axes of `kernel`.
    """
    types = input_types or {}
    # No parameter's shape depends on the batch. With one token, all runs of a
    # model compile the same program here, whatever their lengths.
    batch = {
      name: jnp.ones((1,) * len(shape), types.get(name, jnp.int32))
      for name, shape in input_shapes.items()
    }
    variables = self.module.init(rng, batch)
    parts = trees.split_variables(variables, self.trainable_regex)
    return freeze(quantization.store(parts, self._frozen_dtype))

  def generate_adapters(
    self, params: Tree, batch: Batch, flax_mutables: Tree | None = None
  ) -> Adapters | None:
    """Phi of every episode in the batch; None without a hypermodel."""
    # `Any`, here and below: flax's type includes results of `mutable` as well.
    phi: Any = self.module.apply(
      join_variables(params, flax_mutables),
      batch['hyper_tokens'],
      method='generate',
    )
    return phi

  def loss_fn(
    self,
    params: Tree,
    batch: Batch,
    dropout_rng: jax.Array | None,
    flax_mutables: Tree | None = None,
  ) -> tuple[jax.Array, Any]:
    """Summed loss of the target tokens, differentiable in `params`.

    It is the cross-entropy and, by `distillation_weight`, the divergence from
    the teacher.

    Args:
      params: trainable variables.
      batch: one batch of model features.
      dropout_rng: key for dropout; None turns dropout off.
      flax_mutables: the collection `frozen`, which is returned unchanged.

    Returns:
      `(loss, (metrics, flax_mutables))`, or `(loss, metrics)` if flax_mutables
      is None. `metrics` holds `clu.metrics.Average`s over target tokens.
    """
    variables = join_variables(params, flax_mutables)
    teacher = None
    if self._distillation_weight:
      teacher = predictions.by_teacher(self.module, variables, batch)
    loss, metrics = objectives.loss_and_metrics(
      predictions.for_training(self.module, variables, batch, dropout_rng),
      batch['target_tokens'],
      batch['target_weights'],
      teacher,
      self._distillation_weight,
      self._label_smoothing,
      self._z_loss,
    )
    factor = self._loss_normalizing_factor
    if isinstance(factor, str):
      loss /= jnp.maximum(metrics['loss'].count, 1)
    elif factor:
      loss /= factor
    if flax_mutables is None:
      return loss, metrics
    return loss, (metrics, flax_mutables)

  def eval_fn(
    self, params: Tree, batch: Batch, flax_mutables: Tree | None = None
  ) -> tuple[jax.Array, dict]:
    """`(loss, metrics)` without dropout."""
    loss, rest = self.loss_fn(params, batch, None, flax_mutables)
    return loss, rest if flax_mutables is None else rest[0]

  def score_batch(
    self,
    params: Tree,
    batch: Batch,
    return_intermediates: bool = False,
    flax_mutables: Tree | None = None,
    adapters: Adapters | str | None = GENERATE,
  ) -> jax.Array:
    """Summed log-probability of every target.

    Args:
      params: trainable variables.
      batch: one batch of model features.
      return_intermediates: part of t5x's signature; must be False.
      flax_mutables: the collection `frozen`.
      adapters: phi `[episodes, ...]`, None for no phi, or GENERATE to generate
        phi from the batch.

    Returns:
      Float32 `[episodes, queries]`.
    """
    if return_intermediates:
      raise NotImplementedError('score_batch has no intermediates to return.')
    if isinstance(adapters, str):
      adapters = self.generate_adapters(params, batch, flax_mutables)
    variables = join_variables(params, flax_mutables)
    return objectives.log_likelihood(
      predictions.with_adapters(self.module, variables, batch, adapters),
      batch['target_tokens'],
      batch['target_weights'],
    )

  def adapted_loss(
    self,
    params: Tree,
    batch: Batch,
    adapters: Adapters | None,
    flax_mutables: Tree | None = None,
  ) -> jax.Array:
    """Summed cross-entropy with these adapters, which can be differentiated.

    Args:
      params: trainable variables.
      batch: one batch of model features; weights may be any numbers.
      adapters: phi `[episodes, ...]`; None for no phi.
      flax_mutables: the collection `frozen`.
    """
    variables = join_variables(params, flax_mutables)
    return objectives.loss_and_metrics(
      predictions.with_adapters(self.module, variables, batch, adapters),
      batch['target_tokens'],
      batch['target_weights'],
    )[0]

  def predict_batch_with_aux(
    self,
    params: Tree,
    batch: Batch,
    rng: jax.Array | None = None,
    decoder_params: Mapping[str, Any] | None = None,
    return_all_decodes: bool = False,
    num_decodes: int | None = None,
    flax_mutables: Tree | None = None,
    adapters: Adapters | str | None = GENERATE,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Decodes every query; phi is generated once per episode.

    Args:
      params: trainable variables.
      batch: one batch of model features; targets give the length only.
      rng: for sampling: one key, or one per episode `[episodes]`.
      decoder_params: further arguments of the decode function.
      return_all_decodes: whether to return all decodes, the best one last.
      num_decodes: beams or samples per query; None takes the default.
      flax_mutables: the collection `frozen`.
      adapters: phi, None or GENERATE, see `score_batch`.

    Returns:
      Tokens `[episodes, queries, (num_decodes,) length]` and
      `{'scores': [episodes, queries(, num_decodes)]}`, with `adapters`
      `[episodes, ...]` if the model has `return_adapters`.
    """
    variables = join_variables(params, flax_mutables)
    if isinstance(adapters, str):
      adapters = self.generate_adapters(params, batch, flax_mutables)
    episodes, queries, length = batch['target_tokens'].shape
    memory: Any = self.module.apply(
      variables, batch['input_tokens'], adapters, length, method='start'
    )

    def step(ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
      outputs: Any = self.module.apply(variables, ids, memory, method='step')
      return outputs

    if num_decodes is not None:
      decoder_params = {'num_decodes': num_decodes, **(decoder_params or {})}
    sequences, scores = self._decode_fn(
      *(step, memory),
      end_ids=self.text_format.end_ids if self.text_format else (),
      rng=decoding.query_keys(rng, episodes, queries),
      is_asked=predictions.is_asked(batch),
      **(decoder_params or {}),
    )
    sequences = sequences.reshape(episodes, queries, -1, length)
    scores = scores.reshape(episodes, queries, -1)
    if not return_all_decodes:
      sequences, scores = sequences[:, :, -1], scores[:, :, -1]
    aux: dict[str, Any] = {'scores': scores}
    if self._return_adapters and adapters is not None:
      aux['adapters'] = adapters_lib.expand(adapters, episodes)
    return sequences, aux

  def predict_batch(
    self,
    params: Tree,
    batch: Batch,
    rng: jax.Array | None = None,
    decoder_params: Mapping[str, Any] | None = None,
    flax_mutables: Tree | None = None,
    adapters: Adapters | str | None = GENERATE,
  ) -> jax.Array:
    """The best decode of every query, `[episodes, queries, length]`."""
    return self.predict_batch_with_aux(
      params,
      batch,
      rng,
      decoder_params,
      flax_mutables=flax_mutables,
      adapters=adapters,
    )[0]

  def answer(
    self,
    params: Tree,
    frozen: Tree,
    batch: Batch,
    adapters: Adapters | None,
    rng: jax.Array | None = None,
    decode: bool = True,
  ) -> dict[str, jax.Array]:
    """Scores and decoded text of a batch with these adapters.

    Args:
      params: trainable variables.
      frozen: frozen variables.
      batch: one batch of model features.
      adapters: phi `[episodes, ...]`; None for no phi.
      rng: for sampled decoding, see `predict_batch_with_aux`.
      decode: whether to decode text.

    Returns:
      `tokens` `[episodes, queries]` (number of target tokens), `score`
      `[episodes, queries]` (summed target log-probabilities) and with `decode`
      `text` `[episodes, queries, length]` (decoded tokens) and `text_score`
      `[episodes, queries]` (their scores).
    """
    mutables = {'frozen': frozen}
    outputs = {
      'tokens': jnp.sum(batch['target_weights'], axis=-1),
      'score': self.score_batch(
        params, batch, flax_mutables=mutables, adapters=adapters
      ),
    }
    if decode:
      outputs['text'], aux = self.predict_batch_with_aux(
        params, batch, rng, flax_mutables=mutables, adapters=adapters
      )
      outputs['text_score'] = aux['scores']
    return outputs
