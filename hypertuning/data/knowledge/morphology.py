"""Tasks of the forms of English words."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from hypertuning.data.knowledge.sources import (
  Draws,
  Maker,
  Makers,
  Pair,
  english_words,
  frequency,
  is_common,
  library,
)

_AUXILIARIES = ('be', 'have', 'do', 'will', 'can', 'may', 'shall', 'must')
_LIKE = {'VBN': 'VBD'}
_NUMBERS = ('two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')


@dataclasses.dataclass(frozen=True)
class Verb:
  """The forms of a verb, such as go, goes, going, went, gone."""

  base: str
  third: str
  ing: str
  past: str
  participle: str


@dataclasses.dataclass(frozen=True)
class Adjective:
  """The degrees of an adjective, such as big, bigger, biggest."""

  base: str
  comparative: str
  superlative: str


@functools.cache
def nouns() -> Sequence[tuple[str, str]]:
  """Nouns and their plurals, the most frequent nouns first."""
  return [
    (word, forms[0])
    for word in _words_of('NOUN')
    if len(word) > 2  # those of two letters are abbreviations
    and set(_lemmas(word)) == {'NOUN'}
    and (forms := _forms(word, 'NOUN', ('NNS',)))
    and forms[0] != word
  ]


@functools.cache
def verbs() -> Sequence[Verb]:
  """Verbs, those with the most frequent past first.

  The base of many a verb is frequent because it is a noun, such as time.
  """
  tags = ('VBZ', 'VBG', 'VBD', 'VBN')
  found = [
    Verb(word, *forms)
    for word in _words_of('VERB')
    if word not in _AUXILIARIES and (forms := _forms(word, 'VERB', tags))
  ]
  return sorted(found, key=lambda verb: (-frequency(verb.past), verb.base))


@functools.cache
def adjectives() -> Sequence[Adjective]:
  """Adjectives that have degrees, the most frequent ones first."""
  return [
    Adjective(word, *forms)
    for word in _words_of('ADJ')
    if (forms := _forms(word, 'ADJ', ('JJR', 'JJS'))) and forms[0] != word
  ]


@functools.cache
def _lemmas(word: str) -> Mapping[str, Sequence[str]]:
  return library('lemminflect').getAllLemmas(word)


def _words_of(part: str) -> Iterator[str]:
  """Words that are the base form of a part of speech, and no other's form."""
  for word in english_words():
    lemmas = _lemmas(word)
    if part in lemmas and all(word in forms for forms in lemmas.values()):
      yield word


def _forms(word: str, part: str, tags: Sequence[str]) -> Sequence[str]:
  """The forms of a word, or nothing if one is rare or there are two of it."""
  forms = library('lemminflect').getAllInflections(word, upos=part)
  # Regular verbs have no entry for the participle, which is the past.
  found = [forms.get(tag) or forms.get(_LIKE.get(tag), ()) for tag in tags]
  if any(len(spellings) != 1 for spellings in found):
    return ()
  words = [spellings[0] for spellings in found]
  return words if all(map(is_common, words)) else ()


def _of_verbs(source: str, target: str) -> Maker:
  """Two forms of verbs, each by a template such as `has {participle}`."""

  def pairs() -> Iterator[Pair]:
    for verb in verbs():
      forms = dataclasses.asdict(verb)
      yield source.format(**forms), target.format(**forms)

  return Maker(pairs)


def _of_adjectives(source: str, target: str) -> Maker:
  """Two degrees of adjectives, each by a template."""

  def pairs() -> Iterator[Pair]:
    for adjective in adjectives():
      forms = dataclasses.asdict(adjective)
      yield source.format(**forms), target.format(**forms)

  return Maker(pairs)


def _of_nouns(source: str, target: str) -> Maker:
  """Two forms of nouns, each by a template."""

  def pairs() -> Iterator[Pair]:
    for one, many in nouns():
      yield (
        source.format(one=one, many=many),
        target.format(one=one, many=many),
      )

  return Maker(pairs)


def _numbered() -> Iterator[Pair]:
  """A noun, with a number before it that its form must agree with."""
  draws = Draws('numbered nouns')
  for one, many in nouns():
    number = draws.pick(_NUMBERS)
    yield f'one {one}, {number}', f'{number} {many}'


def _articles() -> Iterator[Pair]:
  """Nouns, and the nouns with their article."""
  with_article = library('inflect').engine().a
  # There are few nouns before which it is `an`.
  groups: tuple[list[Pair], list[Pair]] = [], []
  for noun, _ in nouns():
    phrase = with_article(noun)
    groups[phrase.startswith('an ')].append((noun, phrase))
  for a, an in zip(*groups, strict=False):
    yield a
    yield an


def _in_turn(*groups: Iterator[Pair]) -> Iterator[Pair]:
  """One pair of each group in turn, until a group ends."""
  for pairs in zip(*groups, strict=False):
    yield from pairs


def _numbers_of_nouns() -> Iterator[Pair]:
  return _in_turn(
    ((one, 'singular') for one, _ in nouns()),
    ((many, 'plural') for _, many in nouns()),
  )


def _tenses() -> Iterator[Pair]:
  different = [x for x in verbs() if x.past != x.base]
  return _in_turn(
    ((verb.third, 'present') for verb in different[::2]),
    ((verb.past, 'past') for verb in different[1::2]),
  )


def _degrees() -> Iterator[Pair]:
  return _in_turn(
    ((x.base, 'positive') for x in adjectives()[::3]),
    ((x.comparative, 'comparative') for x in adjectives()[1::3]),
    ((x.superlative, 'superlative') for x in adjectives()[2::3]),
  )


def _only(part: str) -> Iterator[str]:
  """Words that belong to one part of speech alone."""
  return (word for word in _words_of(part) if set(_lemmas(word)) == {part})


def _parts_of_speech() -> Iterator[Pair]:
  return _in_turn(
    ((word, 'noun') for word in _only('NOUN')),
    ((word, 'verb') for word in _only('VERB')),
    ((word, 'adjective') for word in _only('ADJ')),
    ((word, 'adverb') for word in _only('ADV')),
  )


def _bases() -> Iterator[Pair]:
  """Any form of a verb, and its base."""
  draws = Draws('bases')
  for verb in verbs():
    form = draws.pick((verb.third, verb.ing))
    yield form, verb.base


_LABELLED: Mapping[str, Callable[[], Iterator[Pair]]] = {
  'singular_or_plural': _numbers_of_nouns,
  'present_or_past': _tenses,
  'degree_of_adjective': _degrees,
  'part_of_speech': _parts_of_speech,
}
_PLAIN: Mapping[str, Callable[[], Iterator[Pair]]] = {
  'agreement_with_number': _numbered,
  'article': _articles,
  'base_of_verb': _bases,
}
MAKERS: Makers = {
  'noun_plural': _of_nouns('{one}', '{many}'),
  'plural_noun': _of_nouns('{many}', '{one}'),
  'possessive': _of_nouns('{one}', "{one}'s"),
  'this_or_these': _of_nouns('this {one}', 'these {many}'),
  'verb_past': _of_verbs('{base}', '{past}'),
  'past_verb': _of_verbs('{past}', '{base}'),
  'verb_participle': _of_verbs('{base}', '{participle}'),
  'participle_verb': _of_verbs('{participle}', '{base}'),
  'verb_third_person': _of_verbs('{base}', '{third}'),
  'third_person_verb': _of_verbs('{third}', '{base}'),
  'verb_ing': _of_verbs('{base}', '{ing}'),
  'ing_verb': _of_verbs('{ing}', '{base}'),
  'ing_past': _of_verbs('{ing}', '{past}'),
  'past_ing': _of_verbs('{past}', '{ing}'),
  'third_person_past': _of_verbs('{third}', '{past}'),
  'future': _of_verbs('{base}', 'will {base}'),
  'progressive': _of_verbs('{base}', 'is {ing}'),
  'negation': _of_verbs('{third}', 'does not {base}'),
  'past_negation': _of_verbs('{past}', 'did not {base}'),
  'past_question': _of_verbs('she {past}', 'did she {base}?'),
  'third_person_question': _of_verbs('he {third}', 'does he {base}?'),
  'adjective_comparative': _of_adjectives('{base}', '{comparative}'),
  'comparative_adjective': _of_adjectives('{comparative}', '{base}'),
  'adjective_superlative': _of_adjectives('{base}', '{superlative}'),
  'superlative_adjective': _of_adjectives('{superlative}', '{base}'),
  'comparative_superlative': _of_adjectives('{comparative}', '{superlative}'),
  'superlative_comparative': _of_adjectives('{superlative}', '{comparative}'),
  **{name: Maker(pairs) for name, pairs in _PLAIN.items()},
  # The words of the labels, such as adverb, are rarer than those of the rows.
  **{name: Maker(pairs, ('en', None)) for name, pairs in _LABELLED.items()},
}
