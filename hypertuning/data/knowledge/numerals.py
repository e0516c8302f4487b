"""Tasks of number words in many languages, ordinals and Roman numerals."""

import functools
from collections.abc import Callable, Iterator, Mapping

from hypertuning.data.knowledge import translation
from hypertuning.data.knowledge.sources import Maker, Makers, Pair, library

# Names of languages, with the codes that num2words has for them.
LANGUAGES = {**translation.LANGUAGES, 'norwegian': 'no'}
_ORDINALS = {'french': 'fr', 'spanish': 'es', 'german': 'de', 'italian': 'it'}
_NUMBERS = range(101)
_ROMAN = (
  *((1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'), (90, 'XC')),
  *((50, 'L'), (40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')),
)
_NOTHING = (None, None)  # numbers and their words need not be common


def _words(number: int, form: str, language: str = 'en') -> str:
  return library('num2words').num2words(number, to=form, lang=language)


def _cardinals(language: str, swap: bool) -> Iterator[Pair]:
  """Numbers, and their words."""
  for number in _NUMBERS:
    pair = str(number), _words(number, 'cardinal', language)
    yield pair[::-1] if swap else pair


def _ordinals(language: str, swap: bool) -> Iterator[Pair]:
  """Numbers, and the words of their ordinals."""
  for number in range(1, 101):
    pair = str(number), _words(number, 'ordinal', language)
    yield pair[::-1] if swap else pair


def _forms(source: str, target: str) -> Iterator[Pair]:
  """Numbers in two English forms, such as seventeen and 17th."""
  for number in range(1, 201):
    yield _words(number, source), _words(number, target)


def _digits_to_ordinals() -> Iterator[Pair]:
  for number in range(1, 201):
    yield str(number), _words(number, 'ordinal_num')


def _years(swap: bool) -> Iterator[Pair]:
  """Years, and how they are read."""
  for year in range(2029, 1700, -1):
    pair = str(year), _words(year, 'year')
    yield pair[::-1] if swap else pair


def _roman(number: int) -> str:
  text = ''
  for value, letters in _ROMAN:
    count, number = divmod(number, value)
    text += count * letters
  return text


def _romans(swap: bool) -> Iterator[Pair]:
  for number in range(1, 201):
    pair = str(number), _roman(number)
    yield pair[::-1] if swap else pair


def _languages_of_words() -> Iterator[Pair]:
  """Number words, and the English name of their language."""
  for language, code in LANGUAGES.items():
    for number in range(1, 41):
      yield _words(number, 'cardinal', code), language.capitalize()


def _makers() -> Iterator[tuple[str, Maker]]:
  for language, code in {'english': 'en', **LANGUAGES}.items():
    yield (
      f'number_in_{language}',
      Maker(functools.partial(_cardinals, code, False), _NOTHING),
    )
    yield (
      f'{language}_number',
      Maker(functools.partial(_cardinals, code, True), _NOTHING),
    )
  for language, code in {'english': 'en', **_ORDINALS}.items():
    yield (
      f'ordinal_in_{language}',
      Maker(functools.partial(_ordinals, code, False), _NOTHING),
    )
  others: Mapping[str, Callable[[], Iterator[Pair]]] = {
    'english_ordinal': functools.partial(_ordinals, 'en', True),
    'number_ordinal': _digits_to_ordinals,
    'words_ordinal_words': functools.partial(_forms, 'cardinal', 'ordinal'),
    'ordinal_words_words': functools.partial(_forms, 'ordinal', 'cardinal'),
    'words_ordinal': functools.partial(_forms, 'cardinal', 'ordinal_num'),
    'year_words': functools.partial(_years, False),
    'words_year': functools.partial(_years, True),
    'number_roman': functools.partial(_romans, False),
    'roman_number': functools.partial(_romans, True),
    'language_of_number': _languages_of_words,
  }
  for name, pairs in others.items():
    yield name, Maker(pairs, _NOTHING)


MAKERS: Makers = dict(_makers())
