"""The model object: a batch to loss, scores and text, with or without phi.

It satisfies t5x's model contract by its methods, without importing t5x; the
embedded runner calls the same methods.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import freeze

from hypertuning import adapters as adapters_lib
from hypertuning import objectives, trees
from hypertuning.adapters import Adapters
from hypertuning.data.text_format import check
from hypertuning.errors import UserError
from hypertuning.networks import decoding
from hypertuning.networks.adapted import AdaptedModel, Batch
from hypertuning.networks.memory import Memory
from hypertuning.old_names import takes_text_format

Tree = Mapping[str, Any]
GENERATE = 'generate'
TOKENS = 'NUM_REAL_TARGET_TOKENS'  # as t5x calls it


class HyperTuningModel:
  """What the runners and t5x train, score and decode.

  Attributes:
    module: the `AdaptedModel`.
    text_format: how its text is laid out.
    optimizer_def: an optax transformation (embedded runner) or a t5x optimizer
      definition.
    trainable_regex: full paths (`hypermodel/...`, `downstream/...`) that train;
      everything else lives in the collection `frozen`.
  """

  @takes_text_format
  def __init__(
    self,
    downstream: nn.Module,
    hypermodel: nn.Module | None,
    text_format: Any,
    optimizer_def: Any,
    trainable_regex: str = 'hypermodel/.*',
    frozen_dtype: Any = None,
    decode_fn: Callable[..., tuple[jax.Array, jax.Array]] = decoding.greedy,
    loss_normalizing_factor: float | str | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    distillation_weight: float = 0.0,
    teacher: nn.Module | None = None,
    return_adapters: bool = False,
  ) -> None:
    """Builds the model.

    Args:
      downstream: the network that is adapted, such as `t5.T5`.
      hypermodel: what generates phi, or None for the downstream model alone.
      text_format: a `TextFormat`; None for a model that reads no text, such as
        one that is planned.
      optimizer_def: see the class.
      trainable_regex: see the class.
      frozen_dtype: storage type of what does not train (None: as it is).
      decode_fn: `decoding.greedy`, `sample` or `beam_search`.
      loss_normalizing_factor: divides the summed loss, a number or `TOKENS` for
        the mean over a batch's (with t5x, a microbatch's) target tokens; None
        leaves the sum, and the embedded runner then takes the mean over the
        global batch's tokens.
      label_smoothing: probability spread over the vocabulary.
      z_loss: weight of `log(Z)^2`, which keeps logits near normalised.
      distillation_weight: share of the loss, from 0 to 1, that is not the
        likelihood of the target but distilled: the divergence KL(teacher ||
        model) on target tokens. Batches then have `teacher_tokens`.
      teacher: the network that is distilled, named `teacher` among the
        variables; None for the downstream model, which then reads the examples
        in full and has no phi.
      return_adapters: `predict_batch_with_aux` gives phi as well.

    Raises:
      UserError: another name of a normalising factor, a weight that is no
        share, a teacher without weight, or no `TextFormat`.
    """
    if isinstance(loss_normalizing_factor, str) and (
      loss_normalizing_factor != TOKENS
    ):
      raise UserError(
        f'loss_normalizing_factor = {loss_normalizing_factor!r}: give a '
        f'number, {TOKENS!r} or None.'
      )
    if not 0 <= distillation_weight <= 1 or (
      teacher is not None and not distillation_weight
    ):
      raise UserError(
        f'DISTILLATION_WEIGHT = {distillation_weight!r}: give a share from 0 '
        'to 1, above 0 where there is a TEACHER.'
      )
    self.module = AdaptedModel(
      downstream=downstream, hypermodel=hypermodel, teacher=teacher
    )
    self.text_format = text_format and check(text_format)
    self.optimizer_def = optimizer_def
    if teacher is not None:  # it is held still in every case
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
  def FEATURE_CONVERTER_CLS(self) -> Any:
    """The seqio converter to this model's batches, by t5x's name.

    It is imported when it is asked for: only runs on seqio tasks need seqio.
    """
    from hypertuning.data import features

    if self._distillation_weight:
      return features.DistillationFeatureConverter
    return features.EpisodeFeatureConverter

  @property
  def input_vocabulary(self) -> Any:
    """The vocabulary of what is read, as seqio's: t5x compares it with tasks'.

    seqio is imported when it is asked for, as for the feature converter.
    """
    from hypertuning.data import vocabularies

    return vocabularies.to_seqio(self.text_format.vocabulary)

  @property
  def output_vocabulary(self) -> Any:
    """The vocabulary of what is written, see `input_vocabulary`."""
    return self.input_vocabulary

  @property
  def has_hypermodel(self) -> bool:
    """Whether phi is generated."""
    return self.module.hypermodel is not None

  def get_initial_variables(
    self,
    rng: jax.Array,
    input_shapes: Mapping[str, tuple[int, ...]],
    input_types: Mapping[str, Any] | None = None,
  ) -> Tree:
    """Random variables, split in what trains and what does not.

    Args:
      rng: a key.
      input_shapes: of every model feature, the batch axis first.
      input_types: of every model feature; int32 where missing.

    Returns:
      FrozenDict of `params`, `params_axes` and, where anything is frozen,
      `frozen`, `frozen_axes` (the same nesting; `kernel` has `kernel_axes`).
    """
    types = input_types or {}
    # One token is enough, no parameter's shape depends on the batch: all runs
    # of a model then compile the same program here.
    batch = {
      name: jnp.ones((1,) * len(shape), types.get(name, jnp.int32))
      for name, shape in input_shapes.items()
    }
    variables = self.module.init(rng, batch)
    return freeze(
      trees.split_variables(variables, self.trainable_regex, self._frozen_dtype)
    )

  def generate_adapters(
    self, params: Tree, batch: Batch, flax_mutables: Tree | None = None
  ) -> Adapters | None:
    """Phi of every episode in the batch; None without a hypermodel."""
    # Any, here and below: flax's type has what `mutable` would return as well.
    phi: Any = self.module.apply(
      _variables(params, flax_mutables),
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
      params: what trains.
      batch: one batch of model features.
      dropout_rng: None turns dropout off.
      flax_mutables: the collection `frozen`; returned as it came.

    Returns:
      `(loss, (metrics, flax_mutables))`, or `(loss, metrics)` where no mutables
      are given. `metrics` holds `clu.metrics.Average`s over target tokens.
    """
    variables = _variables(params, flax_mutables)
    logits: Any = self.module.apply(
      variables,
      batch,
      enable_dropout=dropout_rng is not None,
      rngs=None if dropout_rng is None else {'dropout': dropout_rng},
    )
    teacher: Any = None
    if self._distillation_weight:
      teacher = self.module.apply(variables, batch, method='teacher_logits')
    loss, metrics = objectives.loss_and_metrics(
      logits,
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
      params: what trains.
      batch: one batch of model features.
      return_intermediates: refused; part of t5x's signature.
      flax_mutables: the collection `frozen`.
      adapters: phi of `[episodes]`, None for no phi, or generated from the
        batch by default.

    Returns:
      Float32 `[episodes, queries]`.
    """
    if return_intermediates:
      raise NotImplementedError('score_batch has no intermediates to return.')
    if isinstance(adapters, str):
      adapters = self.generate_adapters(params, batch, flax_mutables)
    logits: Any = self.module.apply(
      _variables(params, flax_mutables), batch, adapters, method='logits'
    )
    return objectives.log_likelihood(
      logits, batch['target_tokens'], batch['target_weights']
    )

  def predict_batch_with_aux(
    self,
    params: Tree,
    batch: Batch,
    rng: jax.Array | None = None,
    decoder_params: Mapping[str, Any] | None = None,
    return_all_decodes: bool = False,
    num_decodes: int = 1,
    flax_mutables: Tree | None = None,
    adapters: Adapters | str | None = GENERATE,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Decodes every query; phi is generated once per episode.

    Args:
      params: what trains.
      batch: one batch of model features; targets give the length only.
      rng: for sampling.
      decoder_params: further arguments of the decode function.
      return_all_decodes: all decodes (best last) instead of the best.
      num_decodes: beams or samples per query.
      flax_mutables: the collection `frozen`.
      adapters: as in `score_batch`.

    Returns:
      Tokens `[episodes, queries, (num_decodes,) length]` and
      `{'scores': [episodes, queries(, num_decodes)]}`, with `adapters` of
      `[episodes]` where the model returns them.
    """
    variables = _variables(params, flax_mutables)
    if isinstance(adapters, str):
      adapters = self.generate_adapters(params, batch, flax_mutables)
    episodes, queries, length = batch['target_tokens'].shape
    memory: Any = self.module.apply(
      variables, batch['input_tokens'], adapters, length, method='start'
    )

    def step(ids: jax.Array, memory: Memory) -> tuple[jax.Array, Memory]:
      outputs: Any = self.module.apply(variables, ids, memory, method='step')
      return outputs

    sequences, scores = self._decode_fn(
      step,
      memory,
      end_ids=self.text_format.end_ids if self.text_format else (),
      num_decodes=num_decodes,
      rng=rng,
      **(decoder_params or {}),
    )
    sequences = sequences.reshape(episodes, queries, num_decodes, length)
    scores = scores.reshape(episodes, queries, num_decodes)
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
    """Scores and text of a batch with these adapters.

    Args:
      params: what trains.
      frozen: what does not train.
      batch: one batch of model features.
      adapters: phi of `[episodes]`, or None for none.
      rng: key for sampled decoding.
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


def _variables(params: Tree, flax_mutables: Tree | None) -> dict:
  """The whole network's variables from what trains and what does not."""
  frozen = (flax_mutables or {}).get('frozen', {})
  return {'params': trees.join(params, frozen)}
