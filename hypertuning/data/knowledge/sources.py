"""What the makers of rows share: libraries, common words, numbered draws."""

import functools
import importlib
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from hypertuning.errors import UserError

Pair = tuple[str, str]
T = TypeVar('T')

# Words that nobody wants to be asked about begin with one of these.
_UNWANTED = re.compile(
  'fuck|shit|bitch|cunt|nigg|whore|slut|porn|rape|rapi|dick|cock|puss|fag|'
  'piss|tits?$|ass(es)?$|asshole|bastard|damn|sex|penis|vagina|nude|naked|'
  'boob|anal$|anus|orgasm|crap|suicid|nazi|hitler|jerk|retard|homo$|hoe'
)
_WORD = re.compile(r'[^\W\d_]+')


class Maker(NamedTuple):
  """How the rows of a task are made.

  Attributes:
    pairs: function that returns pairs of input and target, better-known ones
      first.
    languages: codes of the languages of inputs and of targets; a row with a
      rare word of its language is left out. None if texts are no words.
  """

  pairs: Callable[[], Iterable[Pair]]
  languages: tuple[str | None, str | None] = ('en', 'en')


Makers = Mapping[str, Maker]


def library(name: str) -> Any:
  """Imports a library of the extra `knowledge`.

  Args:
    name: full name of a module.

  Raises:
    UserError: it is not installed; the message names the extra.
  """
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    raise UserError(
      f'The knowledge tasks need the package {error.name}: install the extra '
      "with pip install '.[knowledge]'."
    ) from error


def is_common(text: str, language: str = 'en') -> bool:
  """Whether no word of a text is rare: one in a million words, or rarer.

  Args:
    text: a text; digits and signs in it do not count.
    language: code of the text's language, such as `de`.
  """
  frequencies = _frequencies(language)
  return all(word in frequencies for word in _WORD.findall(text.lower()))


def frequency(word: str) -> float:
  """The share of a word in English text, 0 for a rare one."""
  return _frequencies('en').get(word, 0.0)


@functools.cache
def english_words() -> Sequence[str]:
  """English dictionary words in lower case, the most frequent ones first."""
  lemmas = library('lemminflect').getAllLemmas
  words = library('wordfreq').top_n_list('en', 8000, wordlist='small')
  return [
    word
    for word in words
    if len(word) >= 2
    and word.isascii()
    and word.isalpha()
    and lemmas(word)
    and not _UNWANTED.match(word)
  ]


class Draws:
  """Random draws that are the same on every machine and in every process."""

  def __init__(self, name: str) -> None:
    """Starts the draws of a name.

    Args:
      name: seed of the draws, such as the name of a task.
    """
    # Of Python's generator, only `random` is promised never to change.
    self._random = random.Random(name).random

  def below(self, end: int, start: int = 0) -> int:
    """A whole number from `start` to `end` - 1."""
    return start + int(self._random() * (end - start))

  def pick(self, values: Sequence[T]) -> T:
    """One of the values."""
    return values[self.below(len(values))]

  def several(self, values: Sequence[T], count: int) -> list[T]:
    """`count` different ones of the values, in random order."""
    rest = list(values)
    return [rest.pop(self.below(len(rest))) for _ in range(count)]


@functools.cache
def _frequencies(language: str) -> Mapping[str, float]:
  """Frequencies of the words that occur at least once in a million words."""
  return library('wordfreq').get_frequency_dict(language, wordlist='small')
