"""The format of a model's text: the token ids around each of its parts.

An example is an input and a target. A `TextFormat` says which ids stand before
an input, before its target and between two examples, what begins and ends a
text, and which ids end an answer. Nothing here needs TensorFlow or seqio.

    TEXT_FORMAT = @text_format.t5_format()
    text_format.t5_format.vocabulary = %VOCABULARY
"""

import dataclasses
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, overload, runtime_checkable

from hypertuning.errors import UserError
from hypertuning.padding import PAD_ID
from hypertuning.ranges import Object

Ids = tuple[int, ...]
# A part of a format as users write it: a text, or the ids themselves if the
# tokenizer would merge the text into other ids.
Part = str | Sequence[int]
# <extra_id_99> and <extra_id_98>: ids 32000 and 32001 of T5's vocabulary, as in
# the authors' code.
_SEP_INPUT, _SEP_TARGET = 99, 98


@runtime_checkable
class Vocabulary(Protocol):
  """Converts texts to token ids and back; id 0 is padding and in no text."""

  @property
  def size(self) -> int:
    """Number of ids, including the extra ids."""

  @property
  def extra_ids(self) -> int:
    """Number of sentinels, which are the last ids of the vocabulary."""

  @property
  def eos_id(self) -> int:
    """The id that ends a text."""

  @property
  def pad_id(self) -> int:
    """The id that fills up a row: 0."""

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without any special ids."""

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids."""


@dataclasses.dataclass(frozen=True)
class TextFormat:
  """The ids that the model's text has around the user's own text.

  A hypermodel reads

      start definition (definition_end) example (between) example ... end

  where an example is `inputs <input> targets <target>`. A query is
  `start inputs <input> targets`. If examples are shown in context, the
  definition and the examples stand between `start` and the rest of the query.
  An answer is `<target> target_end`.

  The parts of a format are token ids and not texts, because a text can be
  tokenised in another way if it stands beside another one. Two formats are
  equal if all ids mean the same in both.

  Attributes:
    vocabulary: the vocabulary of all ids.
    start: ids at the start of every text.
    definition: ids before the definition of a task that has one.
    inputs: ids before an input.
    targets: ids between an input and its target.
    between: ids between two examples.
    definition_end: ids between the definition and the first example; None for
      those of `between`.
    end: ids at the end of what a hypermodel reads.
    target_end: ids at the end of an answer; they count in the loss.
    end_ids: ids that end an answer while decoding, each of them alone.
    blank: text that is put before each definition, input and target that
      follows ids of its own part, and tokenised together with it. In most
      subword vocabularies, a word after a blank is another token than the same
      word without one.
    names: pairs of an id that stands for no text, and its name, which is
      printed instead.
  """

  vocabulary: Vocabulary
  start: Ids = ()
  definition: Ids = ()
  inputs: Ids = ()
  targets: Ids = ()
  between: Ids = ()
  definition_end: Ids | None = None
  end: Ids = ()
  target_end: Ids = ()
  end_ids: Ids = ()
  blank: str = ''
  names: tuple[tuple[int, str], ...] = dataclasses.field(
    default=(), compare=False
  )

  @property
  def definition_separator(self) -> Ids:
    """The ids between the definition and the first example."""
    return self.between if self.definition_end is None else self.definition_end

  def blank_before(self, part: str) -> str:
    """The text before a text of a part, see `encode`; mostly empty."""
    return self.blank if getattr(self, part) else ''

  def encode(self, text: str, part: str) -> list[int]:
    """Token ids of a text alone.

    Args:
      text: a definition, an input or a target.
      part: the part that it is: `definition`, `inputs` or `targets`.
    """
    return self.vocabulary.encode(self.blank_before(part) + text)

  def query(self, text: str) -> list[int]:
    """Token ids of a whole query, without any examples."""
    text_ids = self.encode(text, 'inputs')
    return [*self.start, *self.inputs, *text_ids, *self.targets]

  def answer(self, tokens: Iterable[int]) -> str:
    """The text of a decoded answer, up to the first id that ends an answer.

    Args:
      tokens: ids of the answer, int `[length]`; padding is left out.
    """
    answer_ids: list[int] = []
    for token in map(int, tokens):
      if token in self.end_ids:
        break
      answer_ids += [token] if token != PAD_ID else []
    text = self.vocabulary.decode(answer_ids)
    return text.removeprefix(self.blank_before('targets'))

  def readable(self, tokens: Iterable[int]) -> str:
    """The text of any ids; an id that stands for no text is printed by name.

    Args:
      tokens: ids of the text, int `[length]`; padding is left out.
    """
    names = dict(self.names)
    parts: list[str] = []
    text: list[int] = []
    for token in [*map(int, tokens), PAD_ID]:
      if token == PAD_ID or token in names:
        parts += [self.vocabulary.decode(text)] if text else []
        parts += [names[token]] if token in names else []
        text = []
      else:
        text.append(token)
    return ' '.join(parts)

  def __str__(self) -> str:
    """The format as an error message names it."""
    parts = [
      f'{name} {self.readable(ids)!r}'
      for name in ('definition', 'inputs', 'targets', 'between')
      if (ids := getattr(self, name))
    ]
    return f'{self.vocabulary} with {", ".join(parts) or "no separators"}'


def custom_format(
  vocabulary: Object,
  *,
  start: Part = (),
  definition: Part = (),
  inputs: Part = (),
  targets: Part = (),
  between: Part = (),
  definition_end: Part | None = None,
  end: Part = (),
  target_end: Part = (),
  end_ids: Sequence[int] = (),
  blank: str = '',
  names: Sequence[tuple[int, str]] = (),
) -> TextFormat | None:
  """Makes a format of any parts, each a text or ids; see `TextFormat`.

  Args:
    vocabulary: a `Vocabulary` or a seqio vocabulary. With None, the result is
      None too, see `t5_format`.
    start: part at the start of every text.
    definition: part before a definition.
    inputs: part before an input.
    targets: part between an input and its target.
    between: part between two examples.
    definition_end: part between the definition and the first example; like
      `between` by default.
    end: part at the end of what a hypermodel reads.
    target_end: part at the end of an answer; EOS by default.
    end_ids: ids that end an answer, each of them alone; the first id of
      `target_end` by default.
    blank: text that is tokenised together with what follows it, see
      `TextFormat`.
    names: pairs of an id that stands for no text, and its name; EOS has the
      name `</s>` by default.

  Returns:
    The `TextFormat`, or None.

  Raises:
    UserError: an id is padding or not in the vocabulary, or no id in
      `target_end` ends an answer.
  """
  if vocabulary is None:
    return None
  own_vocabulary = as_vocabulary(vocabulary)

  def ids(name: str, part: Part) -> Ids:
    part_ids = tuple(
      own_vocabulary.encode(part) if isinstance(part, str) else part
    )
    for token in part_ids:
      if not PAD_ID < token < own_vocabulary.size:
        raise UserError(
          f'text_format.custom_format.{name}: {token} is no id of '
          f'{own_vocabulary}, which has 1 to {own_vocabulary.size - 1} beside '
          'padding.'
        )
    return part_ids

  ending = ids('target_end', target_end) or (own_vocabulary.eos_id,)
  ends = tuple(sorted(set(ids('end_ids', end_ids) or ending[:1])))
  if not set(ending) & set(ends):
    raise UserError(
      f'text_format.custom_format.target_end = {ending}: none of these ids '
      f'ends an answer, which end_ids = {ends} do; give one of them.'
    )
  return TextFormat(
    own_vocabulary,
    start=ids('start', start),
    definition=ids('definition', definition),
    inputs=ids('inputs', inputs),
    targets=ids('targets', targets),
    between=ids('between', between),
    definition_end=None
    if definition_end is None
    else ids('definition_end', definition_end),
    end=ids('end', end),
    target_end=ending,
    end_ids=ends,
    blank=blank,
    names=((own_vocabulary.eos_id, '</s>'), *names),
  )


@overload
def t5_format(vocabulary: None) -> None: ...


@overload
def t5_format(vocabulary: Any) -> TextFormat: ...


def t5_format(vocabulary: Object) -> TextFormat | None:
  """T5's format: a sentinel before an input, another before its target, EOS.

  Args:
    vocabulary: a `Vocabulary` or seqio vocabulary with 100 extra ids. With
      None, the result is None too, for a model that reads no text, as in
      `hypertuning.plan`.

  Raises:
    UserError: the vocabulary has fewer than 100 extra ids.
  """
  if vocabulary is None:
    return None
  own_vocabulary = as_vocabulary(vocabulary)
  sep_input, sep_target = (
    _sentinel(own_vocabulary, n) for n in (_SEP_INPUT, _SEP_TARGET)
  )
  return custom_format(
    own_vocabulary,
    inputs=(sep_input,),
    targets=(sep_target,),
    end=(own_vocabulary.eos_id,),
    names=((sep_input, '<input>'), (sep_target, '<target>')),
  )


def decoder_format(vocabulary: Object) -> TextFormat | None:
  """The sentinels of T5's format as a decoder-only model needs them.

  A sentinel begins every text, in the place of the BOS that the vocabulary does
  not have. Every target ends with EOS, also where more examples follow: a model
  that has read examples as one text ends its own answer as theirs end.

  Args:
    vocabulary: see `t5_format`.

  Raises:
    UserError: the vocabulary has fewer than 100 extra ids.
  """
  form = t5_format(vocabulary)
  if form is None:
    return None
  return dataclasses.replace(
    form, start=form.inputs, inputs=(), between=form.end
  )


def markers_format(
  vocabulary: Object,
  definition: str = 'Definition: ',
  inputs: str = ' Input: ',
  targets: str = ' Output: ',
) -> TextFormat:
  """A format with texts between the parts, for models that know no sentinels.

  Args:
    vocabulary: a `Vocabulary` or a seqio vocabulary.
    definition: text before a definition.
    inputs: text before an input.
    targets: text before a target.
  """
  own_vocabulary = as_vocabulary(vocabulary)
  form = custom_format(
    own_vocabulary,
    definition=definition,
    inputs=inputs,
    targets=targets,
    end=(own_vocabulary.eos_id,),
  )
  assert form is not None  # as there is a vocabulary
  return form


def guessed_format(vocabulary: Any) -> TextFormat:
  """The format that is assumed for a task that does not say its own.

  Such a task was registered by a user with features of seqio's own. The guess
  is T5's format if the vocabulary has sentinels for it, and no separators
  otherwise.

  Args:
    vocabulary: a `Vocabulary` or a seqio vocabulary.
  """
  own_vocabulary = as_vocabulary(vocabulary)
  if own_vocabulary.extra_ids > _SEP_INPUT:
    return t5_format(own_vocabulary)
  form = custom_format(own_vocabulary, end=(own_vocabulary.eos_id,))
  assert form is not None  # as there is a vocabulary
  return form


def as_vocabulary(vocabulary: Any) -> Vocabulary:
  """Any vocabulary as a `Vocabulary`; a seqio vocabulary is wrapped.

  Raises:
    UserError: the argument is neither a `Vocabulary` nor seqio's.
  """
  if isinstance(vocabulary, Vocabulary):
    return vocabulary
  seqio = sys.modules.get('seqio')  # loaded by whoever has a vocabulary of it
  if seqio is None or not isinstance(vocabulary, seqio.Vocabulary):
    raise UserError(
      f'VOCABULARY is a {type(vocabulary).__name__}, but must be a seqio '
      'vocabulary, or follow hypertuning.data.text_format.Vocabulary, such as '
      '@vocabularies.sentencepiece().'
    )
  from hypertuning.data import seqio_vocabularies

  return seqio_vocabularies.from_seqio(vocabulary)


def check(text_format: Any) -> TextFormat:
  """Returns the argument if it is a `TextFormat`.

  Raises:
    UserError: the argument is something else, such as a vocabulary.
  """
  if isinstance(text_format, TextFormat):
    return text_format
  raise UserError(
    f'text_format is a {type(text_format).__name__}, but must be a '
    'TextFormat: give text_format.t5_format(vocabulary), or in gin '
    '%TEXT_FORMAT.'
  )


def _sentinel(vocabulary: Vocabulary, n: int) -> int:
  """The id of `<extra_id_n>`; `<extra_id_0>` is the vocabulary's last id."""
  if n >= vocabulary.extra_ids:
    raise UserError(
      f'The vocabulary has {vocabulary.extra_ids} extra ids and no '
      f'<extra_id_{n}>: build it with extra_ids=100, or bind TEXT_FORMAT = '
      '@text_format.markers_format().'
    )
  return vocabulary.size - 1 - n
