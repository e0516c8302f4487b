"""How a model's text is laid out: the token ids around each part of it.

An example is an input and a target. A `TextFormat` says which ids stand before
an input, before its target and between two examples, what begins and ends a
text, and which ids end an answer. Nothing here needs TensorFlow or seqio.

    TEXT_FORMAT = @text_format.t5_format()
    text_format.t5_format.vocabulary = %VOCABULARY
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, overload, runtime_checkable

from hypertuning.errors import UserError
from hypertuning.padding import PAD_ID
from hypertuning.ranges import Object

Ids = tuple[int, ...]
# A part of a format as the user gives it: a text, or the ids themselves where
# the tokenizer would merge the text into other ids.
Part = str | Sequence[int]
# <extra_id_99> and <extra_id_98>: ids 32000 and 32001 of T5's vocabulary, as in
# the authors' code.
_SEP_INPUT, _SEP_TARGET = 99, 98


@runtime_checkable
class Vocabulary(Protocol):
  """Text to token ids and back; id 0 is padding, which no text becomes."""

  @property
  def size(self) -> int:
    """Number of ids, with the extra ones."""

  @property
  def extra_ids(self) -> int:
    """Number of sentinels, which are the last ids."""

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
  """The parts of a text that are not the user's own.

  What a hypermodel reads is

      start definition (between) example (between) example ... end

  where an example is `inputs <input> targets <target>`. A query is
  `start inputs <input> targets`; in context, the definition and the examples
  stand between `start` and the rest. An answer is `<target> target_end`.

  Every part is token ids, as a text that is tokenised in pieces can differ from
  the whole. Formats are equal if all ids mean the same in both.

  Attributes:
    vocabulary: the vocabulary of all ids.
    start: ids at the start of every text, once.
    definition: ids before the definition of a task that has one.
    inputs: ids before an input.
    targets: ids between an input and its target.
    between: ids between two examples, and between definition and example.
    end: ids at the end of what a hypermodel reads.
    target_end: ids at the end of an answer; they count in the loss.
    end_ids: ids of which any ends an answer while decoding.
    blank: text that is tokenised together with each definition, input and
      target that it stands before: for most subword vocabularies a word with
      the blank before it is another token than the word alone.
    names: pairs of an id that stands for no text and how to print it.
  """

  vocabulary: Vocabulary
  start: Ids = ()
  definition: Ids = ()
  inputs: Ids = ()
  targets: Ids = ()
  between: Ids = ()
  end: Ids = ()
  target_end: Ids = ()
  end_ids: Ids = ()
  blank: str = ''
  names: tuple[tuple[int, str], ...] = dataclasses.field(
    default=(), compare=False
  )

  def encode(self, text: str) -> list[int]:
    """Token ids of a definition, an input or a target by itself."""
    return self.vocabulary.encode(self.blank + text)

  def query(self, text: str) -> list[int]:
    """Token ids of a whole query, without any examples."""
    return [*self.start, *self.inputs, *self.encode(text), *self.targets]

  def answer(self, tokens: Iterable[int]) -> str:
    """The text of a decoded answer, up to the first id that ends one.

    Args:
      tokens: ids `[length]`; padding is left out.
    """
    kept: list[int] = []
    for token in map(int, tokens):
      if token in self.end_ids:
        break
      kept += [token] if token != PAD_ID else []
    return self.vocabulary.decode(kept).removeprefix(self.blank)

  def readable(self, tokens: Iterable[int]) -> str:
    """The text of any ids, with those that stand for no text printed by name.

    Args:
      tokens: ids `[length]`; padding is left out.
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
  end: Part = (),
  target_end: Part = (),
  end_ids: Sequence[int] = (),
  blank: str = '',
  names: Iterable[tuple[int, str]] = (),
) -> TextFormat:
  """A format of any parts, each given as a text or as ids; see `TextFormat`.

  Args:
    vocabulary: a `Vocabulary`, or a seqio vocabulary.
    start: part at the start of every text.
    definition: part before a definition.
    inputs: part before an input.
    targets: part between an input and its target.
    between: part between two examples.
    end: part at the end of what a hypermodel reads.
    target_end: part at the end of an answer; EOS by default.
    end_ids: ids of which any ends an answer; `target_end[0]` by default.
    blank: see `TextFormat`.
    names: see `TextFormat`; EOS is printed as `</s>` by default.

  Raises:
    UserError: an id is outside the vocabulary or padding, or no id of
      `target_end` ends an answer.
  """
  wrapped = as_vocabulary(vocabulary)

  def ids(name: str, part: Part) -> Ids:
    found = tuple(wrapped.encode(part) if isinstance(part, str) else part)
    for token in found:
      if not PAD_ID < token < wrapped.size:
        raise UserError(
          f'text_format.custom_format.{name}: {token} is no id of '
          f'{wrapped}, which has 1 to {wrapped.size - 1} beside padding.'
        )
    return found

  ending = ids('target_end', target_end) or (wrapped.eos_id,)
  ends = tuple(sorted(set(ids('end_ids', end_ids) or ending[:1])))
  if not set(ending) & set(ends):
    raise UserError(
      f'text_format.custom_format.target_end = {ending}: none of these ids '
      f'ends an answer, which end_ids = {ends} do; give one of them.'
    )
  return TextFormat(
    wrapped,
    start=ids('start', start),
    definition=ids('definition', definition),
    inputs=ids('inputs', inputs),
    targets=ids('targets', targets),
    between=ids('between', between),
    end=ids('end', end),
    target_end=ending,
    end_ids=ends,
    blank=blank,
    names=((wrapped.eos_id, '</s>'), *names),
  )


@overload
def t5_format(vocabulary: None) -> None: ...


@overload
def t5_format(vocabulary: Any) -> TextFormat: ...


def t5_format(vocabulary: Object) -> TextFormat | None:
  """T5's: one sentinel before an input, one before its target, EOS at the end.

  Args:
    vocabulary: a `Vocabulary` or seqio vocabulary with 100 extra ids. None
      gives None, for a model that reads no text, such as one that is planned.

  Raises:
    UserError: the vocabulary has fewer than 100 extra ids.
  """
  if vocabulary is None:
    return None
  wrapped = as_vocabulary(vocabulary)
  sep_input, sep_target = (
    _sentinel(wrapped, n) for n in (_SEP_INPUT, _SEP_TARGET)
  )
  return custom_format(
    wrapped,
    inputs=(sep_input,),
    targets=(sep_target,),
    end=(wrapped.eos_id,),
    names=((sep_input, '<input>'), (sep_target, '<target>')),
  )


def markers_format(
  vocabulary: Object,
  definition: str = 'Definition: ',
  inputs: str = ' Input: ',
  targets: str = ' Output: ',
) -> TextFormat:
  """Texts between the parts, for models that never met sentinels there.

  Args:
    vocabulary: a `Vocabulary` or seqio vocabulary.
    definition: text before a definition.
    inputs: text before an input.
    targets: text before a target.
  """
  wrapped = as_vocabulary(vocabulary)
  return custom_format(
    wrapped,
    definition=definition,
    inputs=inputs,
    targets=targets,
    end=(wrapped.eos_id,),
  )


def guessed_format(vocabulary: Any) -> TextFormat:
  """T5's format where there are sentinels for it, otherwise no separators.

  For text whose format is not known, such as that of a task which a user
  registered with bare seqio features.
  """
  wrapped = as_vocabulary(vocabulary)
  if wrapped.extra_ids > _SEP_INPUT:
    return t5_format(wrapped)
  return custom_format(wrapped, end=(wrapped.eos_id,))


def as_vocabulary(vocabulary: Any) -> Vocabulary:
  """A vocabulary by our own protocol; one of seqio's is wrapped.

  Raises:
    UserError: it is neither.
  """
  if isinstance(vocabulary, Vocabulary):
    return vocabulary
  # Imported here: whoever has a seqio vocabulary has imported seqio already,
  # and whoever has another need not.
  from hypertuning.data import vocabularies

  return vocabularies.from_seqio(vocabulary)


def check(text_format: Any) -> TextFormat:
  """The format, if it is one.

  Raises:
    UserError: it is something else, such as a vocabulary.
  """
  if isinstance(text_format, TextFormat):
    return text_format
  raise UserError(
    f'text_format is a {type(text_format).__name__}, but must be a '
    'TextFormat: give text_format.t5_format(vocabulary), or in gin '
    '%TEXT_FORMAT.'
  )


def _sentinel(vocabulary: Vocabulary, n: int) -> int:
  """The id of `<extra_id_n>`: sentinels count down from the end."""
  if n >= vocabulary.extra_ids:
    raise UserError(
      f'The vocabulary has {vocabulary.extra_ids} extra ids and no '
      f'<extra_id_{n}>: build it with extra_ids=100, or bind TEXT_FORMAT = '
      '@text_format.markers_format().'
    )
  return vocabulary.size - 1 - n
