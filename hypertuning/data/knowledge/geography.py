"""Tasks about countries, their capitals, cities, currencies and codes."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from hypertuning.data.knowledge import places
from hypertuning.data.knowledge.places import City, Country
from hypertuning.data.knowledge.sources import (
  Draws,
  Maker,
  Makers,
  Pair,
  T,
  is_common,
  library,
)

_COMPARISONS = 400
_LEAST_DIVIDED = 10_000_000  # people in a country whose regions are asked about
# Of two countries or cities, the larger one is so many times as large.
_CLEARLY = 3


def _about(
  things: Callable[[], Iterable[T]],
  ask: Callable[[T], str],
  answer: Callable[[T], str],
) -> Iterator[Pair]:
  """Pairs of two texts about each thing; a thing that lacks one is left out."""
  for thing in things():
    question, reply = ask(thing), answer(thing)
    if question and reply:
      yield question, reply


def _maker(
  things: Callable[[], Iterable[T]],
  ask: Callable[[T], str],
  answer: Callable[[T], str],
  languages: tuple[str | None, str | None] = ('en', 'en'),
) -> Maker:
  return Maker(functools.partial(_about, things, ask, answer), languages)


def _countries(
  ask: Callable[[Country], str],
  answer: Callable[[Country], str],
  languages: tuple[str | None, str | None] = ('en', 'en'),
) -> Maker:
  return _maker(places.countries, ask, answer, languages)


def _cities(answer: Callable[[City], str]) -> Maker:
  return _maker(places.cities, lambda city: city.name, answer)


def _americans(answer: Callable[[City], str], language: str | None) -> Maker:
  return _maker(
    places.american_cities, lambda city: city.name, answer, ('en', language)
  )


def _name(country: Country) -> str:
  return country.name


def _capital(country: Country) -> str:
  # Singapore is the capital of Singapore: that is nothing to ask.
  return '' if country.capital == country.name else country.capital


def _hemisphere(degrees: float, names: tuple[str, str]) -> str:
  """Which half of the earth, or '' for a place near the line."""
  return '' if abs(degrees) < 5 else names[degrees < 0]


def _states(swap: bool) -> Iterator[Pair]:
  for name, code in places.states():
    yield (code, name) if swap else (name, code)


def _currencies(swap: bool) -> Iterator[Pair]:
  """Codes and names of the currencies in use, such as CHF and Swiss Franc."""
  names = library('babel').Locale('en').currencies
  codes = dict.fromkeys(c.currency_code for c in places.countries())
  for code in codes:
    if code in names:
      yield (names[code], code) if swap else (code, names[code])


def _official_names(swap: bool) -> Iterator[Pair]:
  """Short and official names of countries, such as French Republic."""
  find = library('pycountry').countries.get
  for country in places.countries():
    official = getattr(
      find(alpha_2=country.code), 'official_name', country.name
    )
    if official != country.name:
      pair = country.name, official
      yield pair[::-1] if swap else pair


def _regions() -> Iterator[Pair]:
  """First divisions, such as states and provinces, and their countries."""
  country_names = {country.name for country in places.countries()}
  find = library('pycountry').subdivisions.get
  for country in places.countries():
    if country.population >= _LEAST_DIVIDED:
      regions = find(country_code=country.code) or ()
      for name in sorted(region.name for region in regions):
        if name not in country_names:
          yield name, country.name


def _larger(
  seed: str,
  things: Callable[[], Sequence[T]],
  name: Callable[[T], str],
  size: Callable[[T], float],
) -> Iterator[Pair]:
  """Two names, and the one of the larger thing."""
  draws = Draws(seed)
  known = [thing for thing in things() if is_common(name(thing))]
  for _ in range(_COMPARISONS):
    one, other = draws.several(known, 2)
    large, small = sorted((one, other), key=size, reverse=True)
    if size(large) >= _CLEARLY * size(small):
      yield f'{name(one)} or {name(other)}', name(large)


def _known_countries() -> Sequence[Country]:
  return [x for x in places.countries() if is_common(x.name)]


def _borders() -> Iterator[Pair]:
  """Two countries of a continent, and whether they have a common border."""
  draws = Draws('borders')
  known = _known_countries()
  for number in range(_COMPARISONS):
    one = draws.pick(known)
    others = [
      other
      for other in known
      if other != one
      and other.continent == one.continent
      and (other.code in one.neighbours) == (number % 2 == 0)
    ]
    if one.neighbours and others:
      yield (
        f'{one.name} and {draws.pick(others).name}',
        'no' if number % 2 else 'yes',
      )


def _odd_one_out() -> Iterator[Pair]:
  """Three countries, of which one is on another continent."""
  draws = Draws('odd one out')
  known = _known_countries()
  for _ in range(_COMPARISONS):
    odd = draws.pick(known)
    first = draws.pick([x for x in known if x.continent != odd.continent])
    second = draws.pick(
      [x for x in known if x.continent == first.continent and x != first]
      or [first]
    )
    if first != second:
      three = draws.several([odd, first, second], 3)
      yield ', '.join(x.name for x in three), odd.name


def _on_continent(continent: str) -> Iterator[Pair]:
  """Three countries, of which one is on the continent."""
  draws = Draws(continent)
  known = _known_countries()
  inside = [x for x in known if x.continent == continent]
  outside = [x for x in known if x.continent != continent]
  for _ in range(_COMPARISONS):
    answer = draws.pick(inside)
    three = draws.several([answer, *draws.several(outside, 2)], 3)
    yield ', '.join(x.name for x in three), answer.name


def _population(place: Country | City) -> float:
  return place.population


MAKERS: Makers = {
  'country_capital': _countries(_name, _capital),
  'capital_country': _countries(_capital, _name),
  'country_continent': _countries(_name, lambda x: x.continent),
  'capital_continent': _countries(_capital, lambda x: x.continent),
  'country_language': _countries(_name, lambda x: x.language),
  'capital_language': _countries(_capital, lambda x: x.language),
  'language_country': _countries(lambda x: x.language, _name),
  'country_currency': _countries(_name, lambda x: x.currency),
  'capital_currency': _countries(_capital, lambda x: x.currency),
  'country_currency_code': _countries(
    _name, lambda x: x.currency_code, ('en', None)
  ),
  'country_code': _countries(_name, lambda x: x.code, ('en', None)),
  'code_country': _countries(lambda x: x.code, _name, (None, 'en')),
  'country_code3': _countries(_name, lambda x: x.code3, ('en', None)),
  'code3_country': _countries(lambda x: x.code3, _name, (None, 'en')),
  'country_domain': _countries(_name, lambda x: x.domain, ('en', None)),
  'domain_country': _countries(lambda x: x.domain, _name, (None, 'en')),
  'country_phone': _countries(_name, lambda x: x.phone),
  'phone_country': _countries(lambda x: x.phone, _name),
  'country_official_name': Maker(functools.partial(_official_names, False)),
  'official_name_country': Maker(functools.partial(_official_names, True)),
  'region_country': Maker(_regions),
  'city_country': _cities(lambda x: x.country.name),
  'city_continent': _cities(lambda x: x.country.continent),
  'city_capital': _cities(
    lambda x: '' if x.name == x.country.capital else x.country.capital
  ),
  'city_language': _cities(lambda x: x.country.language),
  'city_currency': _cities(lambda x: x.country.currency),
  'city_north_or_south': _cities(
    lambda x: _hemisphere(x.latitude, ('north', 'south'))
  ),
  'city_east_or_west': _cities(
    lambda x: _hemisphere(x.longitude, ('east', 'west'))
  ),
  'american_city_state': _americans(lambda x: x.state, 'en'),
  'american_city_state_code': _americans(lambda x: x.state_code, None),
  'state_code': Maker(functools.partial(_states, False), ('en', None)),
  'code_state': Maker(functools.partial(_states, True), (None, 'en')),
  'currency_code_name': Maker(
    functools.partial(_currencies, False), (None, 'en')
  ),
  'currency_name_code': Maker(
    functools.partial(_currencies, True), ('en', None)
  ),
  'larger_country': Maker(
    functools.partial(
      _larger, 'area', places.countries, _name, lambda x: x.area
    )
  ),
  'more_populous_country': Maker(
    functools.partial(
      _larger, 'population', places.countries, _name, _population
    )
  ),
  'larger_city': Maker(
    functools.partial(
      _larger, 'city', places.cities, lambda x: x.name, _population
    )
  ),
  'border': Maker(_borders),
  'country_on_other_continent': Maker(_odd_one_out),
  'country_in_africa': Maker(functools.partial(_on_continent, 'Africa')),
  'country_in_asia': Maker(functools.partial(_on_continent, 'Asia')),
  'country_in_europe': Maker(functools.partial(_on_continent, 'Europe')),
}
