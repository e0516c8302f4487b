"""A loaded model: makes phi from examples, answers and scores with it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning import adapters as adapters_lib
from hypertuning.adapters import Adapters
from hypertuning.api import examples_text, questions, stepping, tuning
from hypertuning.api import phi as phi_lib
from hypertuning.api.phi import Base, Phi
from hypertuning.api.questions import Example, Question
from hypertuning.engine.partitioning import Partitioner
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

_SEED = 0


class Model:
  """A frozen model and, if it has one, the hypermodel that adapts it.

  `hypertuning.load` makes one. Methods may be called from one thread at a time.

  Attributes:
    base: the frozen model, see `Base`.
    lengths: the TASK_FEATURE_LENGTHS that the hypermodel was trained with.
    network: the networks and their text format.
    params: trainable variables.
    frozen: frozen variables.
  """

  def __init__(
    self,
    network: HyperTuningModel,
    params: Any,
    frozen: Any,
    base: Base,
    lengths: Mapping[str, Any],
    partitioner: Partitioner,
    missing: str = '',
  ) -> None:
    """Takes the parts of a model; `hypertuning.load` reads them.

    Args:
      network: the networks and their text format.
      params: trainable variables.
      frozen: frozen variables.
      base: name and sizes of the frozen model, see `Base`.
      lengths: see the class.
      partitioner: the device.
      missing: why there is no hypermodel, and what to do, as a sentence.
    """
    self.base, self.lengths = base, lengths
    self.network, self.params, self.frozen = network, params, frozen
    self._missing = missing
    self._partitioner = partitioner
    self._generate = partitioner.compile(self._make_adapters)
    self._scores = partitioner.compile(self._make_scores)
    self._texts = partitioner.compile(self._make_texts, decodes=True)
    self._stepper = stepping.Stepper(network, partitioner)

  @property
  def has_hypermodel(self) -> bool:
    """Whether `adapt` works."""
    return self.network.has_hypermodel

  @property
  def missing(self) -> str:
    """Why there is no hypermodel, and what to do; '' if there is one."""
    if self.has_hypermodel:
      return ''
    return self._missing or 'This model has no hypermodel.'

  @property
  def text_format(self) -> Any:
    """The `TextFormat` of what the model reads."""
    return self.network.text_format

  def adapt(
    self,
    examples: Sequence[Example],
    *,
    definition: str = '',
    draws: int = 1,
    seed: int = _SEED,
  ) -> Phi:
    """Makes phi from examples of a task, in one forward pass.

    Args:
      examples: pairs of input and target. Where they do not fit into one text
        of the hypermodel, they are read in chunks.
      definition: text that says what the task is.
      draws: number of orders of the examples whose mean phi is taken. The first
        order is the given one.
      seed: seed of the other orders.

    Returns:
      The phi of the task.

    Raises:
      UserError: the model has no hypermodel; or an example is no pair of texts,
        has no target, or is longer than all that the hypermodel reads.
    """
    pairs = questions.check_examples(examples)
    if not self.has_hypermodel:
      raise UserError(self.missing)
    questions.check_count(draws, 'draws')
    questions.check_text(definition, 'definition')
    begin = time.perf_counter()
    tokens, chunks = examples_text.hyper_tokens(
      *(pairs, definition, draws, seed),
      *(self.lengths['hyper_inputs'], self.text_format),
    )
    adapters = jax.device_get(
      self._generate(self.params, self.frozen, {'hyper_tokens': tokens}, draws)
    )
    made = {
      **{'examples': len(pairs), 'draws': draws, 'chunks': chunks},
      'seconds': round(time.perf_counter() - begin, 4),
    }
    return Phi(adapters, self.base, made)

  def answer(
    self,
    queries: Sequence[str],
    phi: Phi | Sequence[Phi] | None = None,
    *,
    examples: Sequence[Example] = (),
    definition: str = '',
    max_tokens: int | None = None,
  ) -> list[str]:
    """Answers queries.

    Args:
      queries: inputs of a task.
      phi: the task's phi; or one phi per query, which may belong to different
        tasks; None for none.
      examples: examples that the model reads before every query, in place of
        phi.
      definition: text that says what the task is, before the examples.
      max_tokens: number of tokens of an answer; None takes as many as the
        hypermodel was trained with.

    Returns:
      One answer per query.

    Raises:
      UserError: an argument is of another form, phi is of another model, or a
        text is longer than the model has positions for.
    """
    texts = questions.check_texts(queries, 'queries')
    if max_tokens is not None:
      questions.check_count(max_tokens, 'max_tokens')
    limit = max_tokens or self.lengths['targets'][-1]
    wanted = self._questions(texts, phi, examples, definition)
    answers = []
    for part in questions.parts(wanted):
      batch, adapters = self.batch(part, limit)
      tokens = self._texts(self.params, self.frozen, batch, adapters, limit)
      for row in np.asarray(tokens)[: len(part), 0]:
        answers.append(self.text_format.answer(row))
    return answers

  def score(
    self,
    query: str,
    targets: Sequence[str],
    phi: Phi | None = None,
    *,
    examples: Sequence[Example] = (),
    definition: str = '',
  ) -> list[float]:
    """Log-probabilities of the possible targets of a query.

    Args:
      query: an input of the task.
      targets: texts that are scored.
      phi: the task's phi; None for none.
      examples: see `answer`.
      definition: see `answer`.

    Returns:
      The natural logarithm of each whole target's probability, with its end.

    Raises:
      UserError: see `answer`.
    """
    (text,) = questions.check_texts([query], 'query')
    ends = questions.check_texts(targets, 'targets')
    wanted = [
      question.with_target(target)
      for question, target in zip(
        self._questions([text] * len(ends), phi, examples, definition),
        ends,
        strict=True,
      )
    ]
    scores: list[float] = []
    for part in questions.parts(wanted):
      batch, adapters = self.batch(part, 1)
      found = self._scores(self.params, self.frozen, batch, adapters)
      scores += np.asarray(found, float)[: len(part), 0].tolist()
    return scores

  def stream(
    self, wanted: Sequence[Question], max_tokens: int
  ) -> Iterator[list[str]]:
    """Answers questions token by token, by greedy decoding.

    Args:
      wanted: questions whose phi has one `questions.signature`.
      max_tokens: number of tokens of an answer.

    Yields:
      The answers so far, one per question, after each token. The last ones are
      those that `answer` gives.

    Raises:
      UserError: a text is longer than the model has positions for.
    """
    for row in self.progress(wanted, max_tokens):
      yield [answer.text for answer in row]

  def progress(
    self, wanted: Sequence[Question], max_tokens: int
  ) -> Iterator[list[stepping.Progress]]:
    """`stream`, with numbers of tokens, and whether each answer is complete."""
    batch, adapters = self.batch(wanted, max_tokens)
    read = np.count_nonzero(batch['input_tokens'][: len(wanted), 0], axis=-1)
    for rows in self._stepper.decode(
      *(self.params, self.frozen, batch, adapters),
      *(self.text_format.end_ids, len(wanted), max_tokens),
    ):
      yield [
        stepping.Progress(
          self.text_format.answer(row.ids), tokens, len(row.ids), row.is_done
        )
        for row, tokens in zip(rows, read.tolist(), strict=True)
      ]

  def tune(
    self,
    examples: Sequence[Example],
    phi: Phi | None = None,
    *,
    definition: str = '',
    steps: int = 50,
    learning_rate: float = 1e-3,
    batch_size: int = 8,
    seed: int = _SEED,
  ) -> Phi:
    """Goes on from phi by gradient, on the examples of the task.

    Args:
      examples: pairs of input and target.
      phi: the phi that tuning starts from; None for that of `adapt`.
      definition: text that says what the task is, for `adapt`.
      steps: number of steps of Adam.
      learning_rate: learning rate.
      batch_size: number of examples per step.
      seed: seed of the order of the examples.

    Returns:
      The tuned phi; its `made` also has `steps`, `tuning_seconds` (of the steps
      alone, without compilation) and `loss` (in nats per token of the targets
      of the examples).

    Raises:
      UserError: see `adapt` and `answer`; or a number is too small.
    """
    pairs = questions.check_examples(examples)
    questions.check_count(steps, 'steps')
    questions.check_count(batch_size, 'batch_size')
    if learning_rate <= 0:
      raise UserError(f'learning_rate = {learning_rate}: give more than 0.')
    start = phi or self.adapt(pairs, definition=definition)
    self._check_base(start)
    adapters, seconds, loss = tuning.tune(
      *(self.network, self.params, self.frozen, self._partitioner),
      *(start.adapters, pairs),
      steps=steps,
      learning_rate=learning_rate,
      batch_size=batch_size,
      seed=seed,
    )
    done = {
      'steps': start.made.get('steps', 0) + steps,
      'tuning_seconds': round(seconds, 4),
      'loss': round(loss, 4),
    }
    return Phi(adapters, self.base, {**start.made, **done})

  def load_phi(self, path: str | os.PathLike, row: int = 0) -> Phi:
    """Reads a phi of this model, see `phi.read`."""
    return phi_lib.read(path, self.base, row)

  def batch(
    self, wanted: Sequence[Question], new_tokens: int
  ) -> tuple[dict[str, np.ndarray], Adapters | None]:
    """Questions as the features that the network reads, and their phi.

    Args:
      wanted: questions whose phi has one `questions.signature`.
      new_tokens: number of tokens that an answer has room for.

    Raises:
      UserError: a text is longer than the model has positions for.
    """
    features, adapters, tokens = questions.batch(
      wanted, self.text_format, new_tokens
    )
    if isinstance(adapters, adapters_lib.Prefix):
      tokens += max(s.key.shape[1] for s in adapters.sites.values())
    # Relative positions have no end.
    most = getattr(self.base.config, 'max_length', None) or tokens
    if tokens > most:
      raise UserError(
        f'A question and its answer take {tokens} tokens with what stands '
        f'before them, but {self.base.name} has {most} positions: shorten it, '
        'give fewer examples, or lower max_tokens.'
      )
    return features, adapters

  def _questions(
    self,
    texts: Sequence[str],
    phi: Phi | Sequence[Phi] | None,
    examples: Sequence[Example],
    definition: str,
  ) -> list[Question]:
    """One question per text; refuses a phi of another model."""
    if examples and phi is not None:
      raise UserError('Give phi or examples, not both.')
    pairs = questions.check_examples(examples) if examples else []
    if phi is None or isinstance(phi, Phi):
      phis: list[Phi | None] = [phi] * len(texts)
    else:
      phis = list(phi)
    for one in phis:
      if one is not None:
        self._check_base(one)
    if len(phis) != len(texts):
      raise UserError(f'phi: {len(phis)} of them, for {len(texts)} queries.')
    questions.check_text(definition, 'definition')
    return [
      Question(text, '', one.adapters if one else None, pairs, definition)
      for text, one in zip(texts, phis, strict=True)
    ]

  def _check_base(self, phi: Phi) -> None:
    """Refuses a phi of another model, and what is no phi."""
    if not isinstance(phi, Phi):
      raise UserError(
        f'phi = {phi!r:.60}: give what adapt or load_phi returns.'
      )
    if phi.base.fingerprint != self.base.fingerprint:
      raise UserError(
        f'phi: was made for {phi.base.name}, whose weights are others than '
        f'those of {self.base.name}.'
      )

  def _make_adapters(
    self, params: Any, frozen: Any, batch: Any, draws: jax.Array
  ) -> Adapters:
    made = self.network.generate_adapters(params, batch, {'frozen': frozen})
    assert made is not None
    return adapters_lib.average(made, len(batch['hyper_tokens']), draws)

  def _make_scores(
    self, params: Any, frozen: Any, batch: Any, adapters: Adapters | None
  ) -> jax.Array:
    return self.network.score_batch(
      params, batch, flax_mutables={'frozen': frozen}, adapters=adapters
    )

  def _make_texts(
    self,
    params: Any,
    frozen: Any,
    batch: Any,
    adapters: Adapters | None,
    limit: jax.Array,
  ) -> jax.Array:
    # Numbers that programs take as arguments compile none.
    return self.network.predict_batch(
      *(params, batch, jax.random.key(_SEED), {'limit': limit}),
      flax_mutables={'frozen': frozen},
      adapters=adapters,
    )
