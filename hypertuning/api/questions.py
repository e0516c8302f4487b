"""Questions as batches of model features.

A question has either a phi or examples that stand before it, or neither. A
batch has one row per question, so that each row may have a phi of its own.
"""

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning.adapters import Adapters
from hypertuning.api import buckets
from hypertuning.data import layout
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError

Example = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Question:
  """An input, and what the model knows about its task.

  Attributes:
    text: the input.
    target: the target that is scored; '' for a question that is answered.
    adapters: phi of one episode, `[1, ...]`; None for none.
    examples: examples that the model reads before the input.
    definition: text that says what the task is, before the examples.
  """

  text: str
  target: str = ''
  adapters: Adapters | None = None
  examples: Sequence[Example] = ()
  definition: str = ''

  def with_target(self, target: str) -> 'Question':
    """The same question, with a target that is scored."""
    return dataclasses.replace(self, target=target)


def batch(
  questions: Sequence[Question], form: TextFormat, new_tokens: int
) -> tuple[dict[str, np.ndarray], Adapters | None, int]:
  """The features of some questions, one row per question.

  Args:
    questions: one or more questions. All of them have a phi of the same kind
      and sizes, or none has.
    form: format of the model's text.
    new_tokens: number of tokens that an answer has room for. Targets get more
      room if they need it.

  Returns:
    Model features `[rows, 1, tokens]`, where the first question fills up the
    rows to a power of two; phi, `[1, ...]` if all questions have the same, else
    `[rows, ...]`, or None; and the greatest number of tokens that a question
    and its answer take, without padding.
  """
  count = buckets.rows(len(questions))
  padded = [*questions, *[questions[0]] * (count - len(questions))]
  room: dict[str, Any] = {
    'hyper_inputs': len(form.start) + len(form.end) + 1,
    'inputs': (1, max(_input_room(question, form) for question in questions)),
    'targets': (
      1,
      max(
        2,  # a token, and the end
        new_tokens,
        *(
          len(form.encode(question.target, 'targets')) + len(form.target_end)
          for question in questions
        ),
      ),
    ),
  }
  laid_out = [
    layout.task_features(
      layout.Texts(
        question.examples,
        [question.text],
        [question.target],
        question.definition,
      ),
      room,
      form,
      in_context=bool(question.examples or question.definition),
    )
    for question in questions
  ]
  longest = max(row['inputs'].shape[1] for row in laid_out)
  lengths = {
    **room,
    'inputs': (1, buckets.length(longest)),
    'targets': (1, buckets.length(room['targets'][1])),
  }
  rows = [layout.model_features(row, lengths) for row in laid_out]
  rows += [rows[0]] * (count - len(rows))
  features = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  phi = _joined([question.adapters for question in padded])
  return features, phi, longest + room['targets'][1]


def parts(wanted: Sequence[Question]) -> list[list[Question]]:
  """Questions in batches, whose phi are of one kind and size, in order."""
  found: list[list[Question]] = []
  for question in wanted:
    if (
      not found
      or len(found[-1]) == buckets.MOST_ROWS
      or signature(found[-1][0]) != signature(question)
    ):
      found.append([])
    found[-1].append(question)
  return found


def signature(question: Question) -> tuple:
  """What questions of one batch have in common: kind and sizes of their phi."""
  leaves, tree = jax.tree.flatten(question.adapters)
  return tree, *((leaf.shape, leaf.dtype.name) for leaf in leaves)


def _input_room(question: Question, form: TextFormat) -> int:
  """A number of tokens in which nothing of a question is cut."""
  around = len(form.inputs) + len(form.targets) + len(form.between)
  tokens = len(form.start) + len(form.definition)
  tokens += len(form.definition_separator) + len(form.between)
  tokens += len(form.encode(question.definition, 'definition'))
  for inputs, targets in [*question.examples, (question.text, '')]:
    tokens += around + len(form.encode(inputs, 'inputs'))
    tokens += len(form.encode(targets, 'targets'))
  return tokens + 1


def _joined(phis: Sequence[Adapters | None]) -> Adapters | None:
  """The phi of all rows, `[1, ...]` if it is the same object for all."""
  first = phis[0]
  if first is None or all(phi is first for phi in phis):
    return first
  return jax.tree.map(
    lambda *leaves: np.concatenate([np.asarray(x) for x in leaves]), *phis
  )


def check_examples(
  examples: Sequence[Example], name: str = 'examples'
) -> list[Example]:
  """Pairs of texts.

  Args:
    examples: pairs of input and target.
    name: name of the argument, for error messages.

  Raises:
    UserError: there are none, or one is no pair of texts; the message names it.
  """
  if isinstance(examples, str | Mapping) or not isinstance(examples, Sequence):
    raise UserError(f'{name}: give a list of pairs (input, target).')
  pairs = []
  for number, example in enumerate(examples, 1):
    if (
      isinstance(example, str | Mapping)
      or not isinstance(example, Sequence)
      or len(example) != 2
      or not all(isinstance(part, str) for part in example)
    ):
      raise UserError(
        f'{name}: number {number} is {example!r:.60}; give a pair of texts, '
        'an input and its target.'
      )
    inputs, targets = example
    if not targets:
      raise UserError(f'{name}: number {number} has no target.')
    pairs.append((inputs, targets))
  if not pairs:
    raise UserError(f'{name}: there are none; give one or more.')
  return pairs


def check_text(value: str, name: str) -> None:
  """Refuses what is no text.

  Raises:
    UserError: the message names the argument.
  """
  if not isinstance(value, str):
    raise UserError(f'{name} = {value!r:.60}: give a text.')


def check_count(value: int, name: str) -> None:
  """Refuses what is no whole number of 1 or more.

  Raises:
    UserError: the message names the argument.
  """
  if not isinstance(value, numbers.Integral) or value < 1:
    raise UserError(
      f'{name} = {value!r:.60}: give 1 or more, as a whole number.'
    )


def check_texts(values: Sequence[str], name: str) -> list[str]:
  """A list of one or more texts.

  Raises:
    UserError: it is something else; the message names the argument.
  """
  if isinstance(values, str) or not isinstance(values, Sequence):
    raise UserError(f'{name}: give a list of texts.')
  for number, value in enumerate(values, 1):
    if not isinstance(value, str):
      raise UserError(f'{name}: number {number} is {value!r:.60}, no text.')
  if not values:
    raise UserError(f'{name}: there are none; give one or more.')
  return list(values)
