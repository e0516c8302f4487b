"""Tasks of names, days and units in other languages."""

import functools
from collections.abc import Iterator, Mapping

from hypertuning.data.knowledge import places
from hypertuning.data.knowledge.sources import (
  Maker,
  Makers,
  Pair,
  is_common,
  library,
)

# Names of languages in Latin script, with the code that babel and wordfreq
# have for them.
LANGUAGES = {
  'german': 'de',
  'french': 'fr',
  'spanish': 'es',
  'italian': 'it',
  'portuguese': 'pt',
  'dutch': 'nl',
  'swedish': 'sv',
  'danish': 'da',
  'norwegian': 'nb',
  'finnish': 'fi',
  'polish': 'pl',
  'czech': 'cs',
  'romanian': 'ro',
  'catalan': 'ca',
}
_DURATIONS = (
  *('century', 'decade', 'year', 'quarter', 'month', 'week', 'day'),
  *('hour', 'minute', 'second', 'millisecond'),
)
# Units whose names are words, and not made of other units' names.
_UNITS = (
  *('length-meter', 'length-kilometer', 'length-centimeter', 'length-mile'),
  *('length-inch', 'length-foot', 'mass-gram', 'mass-kilogram', 'mass-pound'),
  *('volume-liter', 'volume-cup', 'angle-degree', 'energy-calorie'),
)
_LAST_LATIN = 0x24F


def _countries(locale: str) -> Mapping[str, str]:
  names = library('babel').Locale(locale).territories
  codes = [country.code for country in places.countries()]
  return {code: names[code] for code in codes if code in names}


def _languages(locale: str) -> Mapping[str, str]:
  return {
    code: name
    for code, name in sorted(library('babel').Locale(locale).languages.items())
    if len(code) == 2
  }


def _calendar(locale: str) -> Mapping[str, str]:
  """Names of months and days, and of spans of time."""
  data = library('babel').Locale(locale)
  words = {
    f'{kind} {number}': name
    for kind, names in (('month', data.months), ('day', data.days))
    for number, name in sorted(names['stand-alone']['wide'].items())
  }
  units = data.unit_display_names
  for unit in (*(f'duration-{x}' for x in _DURATIONS), *_UNITS):
    name = units.get(unit, {}).get('long', '')
    if name:
      words[unit] = name
  return words


_NAMES = {
  'country': _countries,
  'language': _languages,
  'calendar': _calendar,
}


def _translated(kind: str, source: str, target: str) -> Iterator[Pair]:
  """Names of one kind in two languages."""
  targets = _NAMES[kind](target)
  for key, name in _NAMES[kind](source).items():
    # Names such as Myanmar (Burma) are two names.
    if '(' not in name + targets.get(key, '('):
      yield name, targets[key]


def _languages_of_words() -> Iterator[Pair]:
  """Names in other languages, and the English name of the language."""
  names = [
    [
      (name, language.capitalize())
      for kind in ('calendar', 'language', 'country')
      for name in _NAMES[kind](locale).values()
      if is_common(name, locale)
    ]
    for language, locale in LANGUAGES.items()
  ]
  for pairs in zip(*names, strict=False):
    yield from pairs


def _own_names(swap: bool) -> Iterator[Pair]:
  """Languages, and what they call themselves."""
  babel = library('babel')
  for code, name in _languages('en').items():
    if code in babel.localedata.locale_identifiers():
      own_name = babel.Locale(code).languages.get(code, '')
      if own_name and _is_latin(own_name):
        yield (own_name, name) if swap else (name, own_name)


def _own_country_names(swap: bool) -> Iterator[Pair]:
  """Countries, and what they are called in their main language."""
  babel = library('babel')
  for country in places.countries():
    code = places.main_language(country.code)
    if code not in ('', 'en') and code in babel.localedata.locale_identifiers():
      own_name = babel.Locale(code).territories.get(country.code, '')
      if own_name and _is_latin(own_name):
        yield (own_name, country.name) if swap else (country.name, own_name)


def _codes(digits: int, swap: bool) -> Iterator[Pair]:
  """Languages and their codes of two or three letters in ISO 639."""
  find = library('pycountry').languages.get
  for code2, name in _languages('en').items():
    if language := find(alpha_2=code2):
      code = getattr(language, f'alpha_{digits}')
      yield (code, name) if swap else (name, code)


def _is_latin(text: str) -> bool:
  return all(ord(letter) <= _LAST_LATIN for letter in text)


def _makers() -> Iterator[tuple[str, Maker]]:
  for language, code in LANGUAGES.items():
    for kind in _NAMES:
      yield (
        f'{kind}_in_{language}',
        Maker(functools.partial(_translated, kind, 'en', code), ('en', code)),
      )
    yield (
      f'{language}_country',
      Maker(
        functools.partial(_translated, 'country', code, 'en'), (code, 'en')
      ),
    )
  for name, pairs in (
    ('own_name', _own_names),
    ('own_country_name', _own_country_names),
    ('language_code', functools.partial(_codes, 2)),
    ('language_code3', functools.partial(_codes, 3)),
  ):
    yield name, Maker(functools.partial(pairs, False), ('en', None))
    yield f'{name}_back', Maker(functools.partial(pairs, True), (None, 'en'))
  yield 'language_of_word', Maker(_languages_of_words, (None, 'en'))


MAKERS: Makers = dict(_makers())
