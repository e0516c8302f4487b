"""Tasks of dates, times of day and years."""

import calendar
import datetime
import functools
from collections.abc import Callable, Iterator

from hypertuning.data.knowledge.sources import (
  Draws,
  Maker,
  Makers,
  Pair,
  library,
)

_ROWS = 300
_FIRST = datetime.date(1950, 1, 1)
_DAYS = 80 * 365
_SEASONS = ('winter', 'spring', 'summer', 'autumn')
_LANGUAGES = {'german': 'de', 'french': 'fr', 'spanish': 'es', 'italian': 'it'}
_UNCHECKED = (None, None)  # numbers, and the names of months and days


def _format(pattern: str, locale: str = 'en') -> Callable[[datetime.date], str]:
  """A function that writes a date in a pattern of the library babel."""

  def write(date: datetime.date) -> str:
    formatted = library('babel.dates').format_date(date, pattern, locale=locale)
    # Some locales have spaces that do not break.
    return ' '.join(formatted.split())

  return write


def _dates(
  ask: Callable[[datetime.date], str], answer: Callable[[datetime.date], str]
) -> Maker:
  """Two texts about dates that are drawn."""

  def pairs() -> Iterator[Pair]:
    draws = Draws('dates')
    for _ in range(_ROWS):
      date = _FIRST + datetime.timedelta(days=draws.below(_DAYS))
      yield ask(date), answer(date)

  return Maker(pairs, _UNCHECKED)


def _of_year(
  answer: Callable[[int], str], first: int = 1700, last: int = 2029
) -> Maker:
  """A text about a year."""

  def pairs() -> Iterator[Pair]:
    for year in range(last, first - 1, -1):
      yield str(year), answer(year)

  return Maker(pairs, _UNCHECKED)


def _times(
  ask: Callable[[datetime.datetime], str],
  answer: Callable[[datetime.datetime], str],
) -> Maker:
  """Two texts about times of day at whole five minutes."""

  def pairs() -> Iterator[Pair]:
    midnight = datetime.datetime(2000, 1, 1)
    for number in range(24 * 12):
      time = midnight + datetime.timedelta(minutes=5 * number)
      yield ask(time), answer(time)

  return Maker(pairs, _UNCHECKED)


def _day_in(locale: str, date: datetime.date) -> str:
  """Day and month as a language writes them, such as 5 de marzo."""
  return library('babel.dates').format_skeleton('MMMMd', date, locale=locale)


def _moved(days: int, write: Callable[[datetime.date], str]) -> Maker:
  return _dates(write, lambda date: write(date + datetime.timedelta(days=days)))


def _next_year(date: datetime.date) -> str:
  if (date.month, date.day) == (2, 29):
    return ''  # there is no such day a year later, and the row is left out
  return _ISO(date.replace(year=date.year + 1))


def _ordinal(number: int) -> str:
  return library('num2words').num2words(number, to='ordinal_num')


def _half_day(time: datetime.datetime) -> str:
  return f'{time.hour % 12 or 12}:{time.minute:02} {_half(time)}'


def _half(time: datetime.datetime) -> str:
  return 'AM' if time.hour < 12 else 'PM'


def _clock(time: datetime.datetime) -> str:
  return f'{time.hour:02}:{time.minute:02}'


def _part_of_day(time: datetime.datetime) -> str:
  names = ('night', 'morning', 'afternoon', 'evening')
  return names[time.hour // 6]


def _durations(swap: bool) -> Iterator[Pair]:
  """Minutes, and the hours and minutes that they are."""
  for minutes in range(60, 360):
    pair = f'{minutes} minutes', f'{minutes // 60}:{minutes % 60:02}'
    yield pair[::-1] if swap else pair


def _days_in_months() -> Iterator[Pair]:
  name = _format('MMMM y')
  for year in range(2000, 2025):
    for month in range(1, 13):
      days = calendar.monthrange(year, month)[1]
      yield name(datetime.date(year, month, 1)), str(days)


def _later_days() -> Iterator[Pair]:
  """A day of the week and a number of days, and the day that follows then."""
  names = library('babel').Locale('en').days['stand-alone']['wide']
  for number in range(1, 15):
    for day in range(7):
      days = 'day' if number == 1 else 'days'
      yield f'{number} {days} after {names[day]}', names[(day + number) % 7]


def _later_months() -> Iterator[Pair]:
  """As `_later_days`, for months."""
  names = library('babel').Locale('en').months['stand-alone']['wide']
  for number in range(1, 13):
    for month in range(12):
      months = 'month' if number == 1 else 'months'
      yield (
        f'{number} {months} after {names[month + 1]}',
        names[(month + number) % 12 + 1],
      )


_ISO = _format('yyyy-MM-dd')
_LONG = _format('MMMM d, y')
_SHORT = _format('MMM d')
_DAY = _format('MMMM d')

MAKERS: Makers = {
  'iso_long': _dates(_ISO, _LONG),
  'long_iso': _dates(_LONG, _ISO),
  'iso_american': _dates(_ISO, _format('M/d/y')),
  'iso_european': _dates(_ISO, _format('dd.MM.y')),
  'american_iso': _dates(_format('MM/dd/y'), _ISO),
  'iso_year': _dates(_ISO, _format('y')),
  'iso_month': _dates(_ISO, _format('MMMM')),
  'iso_day': _dates(_ISO, _format('d')),
  'long_year': _dates(_LONG, _format('y')),
  'long_month': _dates(_LONG, _format('MMMM')),
  'long_month_number': _dates(_LONG, _format('M')),
  'long_short': _dates(_LONG, _SHORT),
  'long_without_year': _dates(_LONG, _DAY),
  'day_first': _dates(_DAY, _format('d MMMM')),
  'day_ordinal': _dates(
    _DAY, lambda x: f'{_format("MMMM")(x)} {_ordinal(x.day)}'
  ),
  'day_number': _dates(_DAY, _format('M/d')),
  'number_day': _dates(_format('MM/dd'), _DAY),
  'day_season': _dates(_DAY, lambda x: _SEASONS[x.month % 12 // 3]),
  'day_quarter': _dates(_DAY, lambda x: f'Q{(x.month + 2) // 3}'),
  'iso_quarter': _dates(_ISO, lambda x: f'Q{(x.month + 2) // 3}'),
  'next_day': _moved(1, _DAY),
  'previous_day': _moved(-1, _ISO),
  'next_week': _moved(7, _ISO),
  'next_year': _dates(_ISO, _next_year),
  'year_century': _of_year(
    lambda year: f'{_ordinal((year + 99) // 100)} century'
  ),
  'year_decade': _of_year(lambda year: f'{year // 10 * 10}s'),
  'year_short': _of_year(lambda year: f"'{year % 100:02}", 1930),
  'leap_year': _of_year(
    lambda year: 'yes' if calendar.isleap(year) else 'no', 1900
  ),
  'following_year': _of_year(lambda year: str(year + 1)),
  'year_10_before': _of_year(lambda year: str(year - 10)),
  'clock_half_day': _times(_clock, _half_day),
  'half_day_clock': _times(_half_day, _clock),
  'clock_part': _times(_clock, _part_of_day),
  'clock_half': _times(_clock, _half),
  'clock_hour': _times(_clock, lambda x: str(x.hour)),
  'clock_next_hour': _times(
    _clock, lambda x: _clock(x + datetime.timedelta(hours=1))
  ),
  'clock_half_hour_before': _times(
    _clock, lambda x: _clock(x - datetime.timedelta(minutes=30))
  ),
  'minutes_hours': Maker(functools.partial(_durations, False), _UNCHECKED),
  'hours_minutes': Maker(functools.partial(_durations, True), _UNCHECKED),
  'days_in_month': Maker(_days_in_months, _UNCHECKED),
  'later_day': Maker(_later_days, _UNCHECKED),
  'later_month': Maker(_later_months, _UNCHECKED),
  **{
    f'date_in_{language}': _dates(_DAY, functools.partial(_day_in, code))
    for language, code in _LANGUAGES.items()
  },
}
