"""Tasks of functions of words and of lists of words."""

import functools
import string
from collections.abc import Callable, Iterator, Sequence

from hypertuning.data.knowledge.sources import (
  Draws,
  Maker,
  Makers,
  Pair,
  english_words,
)

_ROWS = 300
_SHORTEST, _LONGEST = 3, 8  # letters in a word
_WORDS = 1500  # the most frequent words are asked about
_VOWELS = 'aeiou'
_LETTERS = string.ascii_lowercase
_UNCHECKED = (None, None)  # inputs are common words; their functions are not


@functools.cache
def _words() -> Sequence[str]:
  return [
    word
    for word in english_words()[:_WORDS]
    if _SHORTEST <= len(word) <= _LONGEST
  ]


def _one(function: Callable[[str], str]) -> Maker:
  """A function of a word; '' leaves a word out."""

  def pairs() -> Iterator[Pair]:
    for word in _words():
      if value := function(word):
        yield word, value

  return Maker(pairs, _UNCHECKED)


def _listed(
  name: str,
  function: Callable[[list[str]], str],
  count: int,
  separator: str = ' ',
) -> Maker:
  """A function of different words that are drawn; '' leaves a list out."""

  def pairs() -> Iterator[Pair]:
    draws = Draws(name)
    for _ in range(_ROWS):
      words = draws.several(_words(), count)
      if value := function(words):
        yield separator.join(words), value

  return Maker(pairs, _UNCHECKED)


def _repeated_word() -> Iterator[Pair]:
  """Four words, of which two are equal, and that word."""
  draws = Draws('repeated word')
  for _ in range(_ROWS):
    first, second, third = draws.several(_words(), 3)
    yield ' '.join(draws.several([first, first, second, third], 4)), first


def _different_word() -> Iterator[Pair]:
  """Four words, of which three are equal, and the other one."""
  draws = Draws('different word')
  for _ in range(_ROWS):
    first, second = draws.several(_words(), 2)
    yield ' '.join(draws.several([first, second, second, second], 4)), first


def _equality() -> Iterator[Pair]:
  draws = Draws('equality')
  for number in range(_ROWS):
    first, second = draws.several(_words(), 2)
    yield (
      f'{first} {first if number % 2 else second}',
      'same' if number % 2 else 'different',
    )


def _membership() -> Iterator[Pair]:
  """A letter, a word, and whether the letter is in the word."""
  draws = Draws('membership')
  for number in range(_ROWS):
    word = draws.pick(_words())
    absent = [letter for letter in _LETTERS if letter not in word]
    letter = draws.pick(absent if number % 2 else word)
    yield f'{letter} in {word}', 'no' if number % 2 else 'yes'


def _removed_letters() -> Iterator[Pair]:
  """A word and one of its letters, and the word without that letter."""
  draws = Draws('removed letters')
  for _ in range(_ROWS):
    word = draws.pick(_words())
    letter = draws.pick(word)
    if word != letter * len(word):
      yield f'{word} without {letter}', word.replace(letter, '')


def _counted_letters() -> Iterator[Pair]:
  draws = Draws('counted letters')
  for _ in range(_ROWS):
    word = draws.pick(_words())
    letter = draws.pick(word + _VOWELS)
    yield f'{letter} in {word}', str(word.count(letter))


def _repetitions() -> Iterator[Pair]:
  draws = Draws('repetitions')
  for _ in range(_ROWS):
    word, count = draws.pick(_words()), draws.below(5, start=2)
    yield f'{count} {word}', ' '.join([word] * count)


def _of_alphabet(function: Callable[[int], str | None]) -> Maker:
  """A function of a letter's place, from 0; for both cases of letters."""

  def pairs() -> Iterator[Pair]:
    for letters in (_LETTERS, string.ascii_uppercase):
      for place, letter in enumerate(letters):
        if value := function(place):
          is_lower = letters is _LETTERS
          yield letter, value if is_lower else value.upper()

  return Maker(pairs, _UNCHECKED)


def _letter(place: int) -> str | None:
  return _LETTERS[place] if 0 <= place < len(_LETTERS) else None


def _pig_latin(word: str) -> str:
  return '' if word[0] in _VOWELS else f'{word[1:]}{word[0]}ay'


def _yes(value: bool) -> str:
  return 'yes' if value else 'no'


def _no_vowels(word: str) -> str:
  return ''.join(letter for letter in word if letter not in _VOWELS)


def _vowels(word: str) -> str:
  return ''.join(letter for letter in word if letter in _VOWELS)


def _shortest(words: list[str]) -> str:
  """The shortest word, or '' if two are as short."""
  first, second = sorted(map(len, words))[:2]
  return '' if first == second else min(words, key=len)


def _longest(words: list[str]) -> str:
  """The longest word, or '' if two are as long."""
  second, first = sorted(map(len, words))[-2:]
  return '' if first == second else max(words, key=len)


_OF_ONE: dict[str, Callable[[str], str]] = {
  'upper_case': str.upper,
  'capitalized': str.capitalize,
  'letters_reversed': lambda word: word[::-1],
  'first_letter': lambda word: word[0],
  'second_letter': lambda word: word[1],
  'third_letter': lambda word: word[2],
  'last_letter': lambda word: word[-1],
  'last_two_letters': lambda word: word[-2:],
  'first_two_letters': lambda word: word[:2],
  'first_and_last_letter': lambda word: word[0] + word[-1],
  'first_letter_upper_case': lambda word: word[0].upper(),
  'without_first_letter': lambda word: word[1:],
  'without_last_letter': lambda word: word[:-1],
  'letter_count': lambda word: str(len(word)),
  'vowel_count': lambda word: str(len(_vowels(word))),
  'without_vowels': _no_vowels,
  'first_vowel': lambda word: _vowels(word)[:1],
  'letters_apart': ' '.join,
  'letters_with_hyphens': '-'.join,
  'letters_sorted': lambda word: ''.join(sorted(word)),
  'letters_doubled': lambda word: ''.join(2 * letter for letter in word),
  'word_doubled': lambda word: f'{word} {word}',
  'first_letter_doubled': lambda word: word[0] + word,
  'pig_latin': _pig_latin,
  'quoted': lambda word: f'"{word}"',
  'in_brackets': lambda word: f'({word})',
  'exclaimed': lambda word: f'{word}!',
  'starts_with_vowel': lambda word: _yes(word[0] in _VOWELS),
  'ends_with_vowel': lambda word: _yes(word[-1] in _VOWELS),
  'short_or_long': lambda word: 'short' if len(word) < 5 else 'long',
  'even_length': lambda word: _yes(len(word) % 2 == 0),
}


def _makers() -> Iterator[tuple[str, Maker]]:
  for name, function in _OF_ONE.items():
    yield name, _one(function)
  for name, count, of_list in (
    ('first_word', 3, lambda x: x[0]),
    ('second_word', 3, lambda x: x[1]),
    ('last_word', 4, lambda x: x[-1]),
    ('words_swapped', 2, lambda x: ' '.join(x[::-1])),
    ('words_reversed', 3, lambda x: ' '.join(x[::-1])),
    ('words_sorted', 3, lambda x: ' '.join(sorted(x))),
    ('first_in_alphabet', 3, min),
    ('last_in_alphabet', 3, max),
    ('longest_word', 3, _longest),
    ('shortest_word', 3, _shortest),
    ('initials', 3, lambda x: ''.join(w[0].upper() for w in x)),
    ('snake_case', 2, '_'.join),
    ('camel_case', 2, lambda x: x[0] + x[1].capitalize()),
    ('title_case', 3, lambda x: ' '.join(map(str.capitalize, x))),
    ('with_commas', 3, ', '.join),
    ('joined_by_and', 2, ' and '.join),
    ('without_spaces', 2, ''.join),
    ('without_first_word', 3, lambda x: ' '.join(x[1:])),
    ('without_last_word', 3, lambda x: ' '.join(x[:-1])),
    ('first_and_last_word', 4, lambda x: f'{x[0]} {x[-1]}'),
  ):
    yield name, _listed(name, of_list, count)
  yield 'second_of_pair', _listed('pair', lambda x: x[1], 2, ', ')
  yield 'snake_to_words', _listed('snake', ' '.join, 2, '_')
  yield 'after_colon', _listed('colon', lambda x: x[1], 2, ': ')
  yield 'file_ending', _listed('ending', lambda x: x[1], 2, '.')
  for name, pairs in (
    ('repeated_word', _repeated_word),
    ('different_word', _different_word),
    ('same_or_different', _equality),
    ('letter_in_word', _membership),
    ('letter_removed', _removed_letters),
    ('letters_counted', _counted_letters),
    ('word_repeated', _repetitions),
  ):
    yield name, Maker(pairs, _UNCHECKED)
  yield 'next_letter', _of_alphabet(lambda place: _letter(place + 1))
  yield 'previous_letter', _of_alphabet(lambda place: _letter(place - 1))
  yield 'place_in_alphabet', _of_alphabet(lambda place: str(place + 1))


MAKERS: Makers = dict(_makers())
