"""All knowledge tasks, by kind, and which of them are held out."""

import collections
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from hypertuning.data.knowledge import (
  arithmetic,
  dates,
  elements,
  geography,
  morphology,
  numerals,
  strings,
  translation,
)
from hypertuning.data.knowledge.sources import Maker, Makers, Pair, is_common
from hypertuning.data.rows import Row, RowTask, Tasks

# A task with fewer rows is left out. One with more keeps its best-known ones.
LEAST_ROWS, MOST_ROWS = 24, 300
LONGEST = 64  # bytes of an input or a target
KINDS: Mapping[str, Makers] = {
  'geography': geography.MAKERS,
  'translation': translation.MAKERS,
  'numerals': numerals.MAKERS,
  'arithmetic': arithmetic.MAKERS,
  'morphology': morphology.MAKERS,
  'elements': elements.MAKERS,
  'strings': strings.MAKERS,
  'dates': dates.MAKERS,
}
# What is never trained on. A task is held out with its inverse, and with the
# tasks that ask the same of most inputs: the past and the participle.
HELD_OUT_KINDS = frozenset({'elements'})
HELD_OUT = frozenset(
  {
    *('country_capital', 'capital_country', 'city_country'),
    *('country_in_spanish', 'spanish_country', 'language_in_italian'),
    *('number_in_english', 'english_number'),
    *('number_in_portuguese', 'portuguese_number'),
    *('larger', 'next_in_sequence'),
    *('verb_past', 'past_verb', 'verb_participle', 'participle_verb'),
    *('adjective_comparative', 'comparative_adjective'),
    *('first_letter', 'upper_case', 'last_word'),
    *('clock_half_day', 'half_day_clock', 'long_month'),
  }
)


def split_tasks(kind: str, split: str) -> Tasks:
  """The tasks of a kind in a split, by name.

  No pair of texts of a held-out task is a row of a task to train on, in either
  order.

  Args:
    kind: one of `KINDS`.
    split: `train`, or `validation` for the held-out tasks.

  Raises:
    UserError: a library of the extra is not installed.
  """
  return {
    name: RowTask([Row(*pair) for pair in pairs])
    for name, pairs in _split_pairs()[split][kind].items()
  }


def names(kind: str, split: str) -> Sequence[str]:
  """Names of the tasks of a kind in a split; no rows are made for them."""
  return [
    name
    for name in KINDS[kind]
    if is_held_out(kind, name) == (split == 'validation')
  ]


def is_held_out(kind: str, name: str) -> bool:
  """Whether a task is in the split `validation`."""
  return kind in HELD_OUT_KINDS or name in HELD_OUT


@functools.cache
def _split_pairs() -> Mapping[str, Mapping[str, Mapping[str, list[Pair]]]]:
  """Pairs by split, kind and task."""
  held_out = {
    kind: _large_enough(
      {
        name: _rows(name, KINDS[kind][name])
        for name in names(kind, 'validation')
      }
    )
    for kind in KINDS
  }
  leaks = {
    pair
    for tasks in held_out.values()
    for pairs in tasks.values()
    for pair in pairs
  }
  leaks |= {(target, source) for source, target in leaks}
  train = {
    kind: _large_enough(
      {
        name: [
          pair for pair in _rows(name, KINDS[kind][name]) if pair not in leaks
        ]
        for name in names(kind, 'train')
      }
    )
    for kind in KINDS
  }
  return {'train': train, 'validation': held_out}


def _large_enough(tasks: Mapping[str, list[Pair]]) -> Mapping[str, list[Pair]]:
  return {
    name: pairs for name, pairs in tasks.items() if len(pairs) >= LEAST_ROWS
  }


def _rows(name: str, maker: Maker) -> list[Pair]:
  """The rows of a task, without those that are rare, long or ambiguous.

  Their order is that of a hash, so that the first rows are not the best known.
  """
  targets: dict[str, set[str]] = collections.defaultdict(set)
  for source, target in maker.pairs():
    targets[source].add(target)
  pairs = [
    (source, target)
    for source, (target, *others) in targets.items()
    if not others and _is_usable(source, target, maker.languages)
  ]
  return sorted(pairs[:MOST_ROWS], key=functools.partial(_place, name))


def _is_usable(
  source: str, target: str, languages: Iterable[str | None]
) -> bool:
  return all(
    len(text.encode()) <= LONGEST
    and text == text.strip() != ''
    and text.isprintable()
    and (language is None or is_common(text, language))
    for text, language in zip((source, target), languages, strict=True)
  )


def _place(name: str, pair: Pair) -> bytes:
  return hashlib.sha256('\n'.join([name, *pair]).encode()).digest()
