"""Embedded default: symbol mapping and string functions, with held-out tasks.

A task is a table (symbols to labels) or a function of a short string; the split
`validation` holds whole tasks that `train` never draws. A model can answer a
query only if it has understood the examples.

Registered: `toy_symbols`, `toy_strings` and the mixture `toy`, each in the
forms of `FORMS`. A gin file can ask for other sizes:

    MIXTURE_OR_TASK_NAME = @toy.episodes()
    toy.episodes.symbol_shots = 6
"""

import functools
import string
from collections.abc import Callable

import numpy as np
import seqio

from hypertuning.data import episodes as episodes_lib
from hypertuning.data import features, fewshot, metrics, vocabularies
from hypertuning.data.episodes import Tasks
from hypertuning.errors import UserError

LABELS = string.ascii_uppercase + '*+'
# Rows of a symbol differ in a filler; a table of one symbol has 20 rows.
FILLERS = string.digits + '!#$%&(),-.'
# Suffix of a task's name to what the downstream model reads before a query:
# nothing (phi tells), every shot, or from none to all (to pretrain it on).
FORMS = ('', '_in_context', '_downstream')
_POSITIONS = [(i, j) for i in range(3) for j in range(3) if i != j]


def symbol_tables(
  split: str,
  tables: int = 4000,
  held_out: int = 200,
  most_symbols: int = 6,
  seed: int = 0,
) -> Tasks:
  """Tables of lower-case symbols to labels.

  Labels are drawn with uneven popularity, so that a model without examples has
  a best guess.

  Args:
    split: `train` has tables of 1 to `most_symbols` symbols, `validation` of
      exactly `most_symbols`, none of them a training table.
    tables: number of training tables.
    held_out: number of held-out tables.
    most_symbols: greatest number of symbols.
    seed: of the tables.

  Returns:
    Task name to rows such as `('7q', 'B')`.
  """
  rng = np.random.default_rng([seed, 1])
  train = _tables(rng, tables, 1, most_symbols, avoid=set())
  if split == 'train':
    return _symbol_rows('train', train)
  known = {frozenset(table.items()) for table in train}
  rng = np.random.default_rng([seed, 2])
  rest = _tables(rng, held_out, most_symbols, most_symbols, avoid=known)
  return _symbol_rows(split, rest)


def string_functions(
  split: str, rows: int = 120, held_out: float = 0.2, seed: int = 0
) -> Tasks:
  """Functions of three letters: two of them, in some order, and an affix.

  Args:
    split: a function is in `train` or in `validation`.
    rows: examples of a function.
    held_out: share of the functions in `validation`.
    seed: of the division and of the rows.

  Returns:
    Task name to rows such as `('abc', 'caT')`.
  """
  rng = np.random.default_rng(seed)
  functions = [
    (first, second, affix, at_end)
    for first, second in _POSITIONS
    for affix in LABELS
    for at_end in (False, True)
  ]
  shuffled = rng.permutation(len(functions))
  cut = int(len(functions) * held_out)
  tasks = {}
  for i in shuffled:
    first, second, affix, at_end = functions[i]
    inputs: dict[str, None] = {}
    while len(inputs) < rows:
      letters = rng.choice(26, 3, replace=False)
      inputs[''.join(string.ascii_lowercase[n] for n in letters)] = None
    tasks[
      f'function_{first}{second}_{affix}_{"end" if at_end else "start"}'
    ] = [
      (x, picked + affix if at_end else affix + picked)
      for x, picked in ((x, x[first] + x[second]) for x in inputs)
    ]
  names = list(tasks)
  chosen = names[cut:] if split == 'train' else names[:cut]
  return {name: tasks[name] for name in chosen}


def symbols(
  name: str = 'toy_symbols',
  shots: int = 12,
  queries: int = 4,
  tables: int = 4000,
  held_out: int = 200,
  most_symbols: int = 6,
  seed: int = 0,
) -> str:
  """Registers symbol tables in every form; returns the name.

  Args:
    name: of the task; the forms' suffixes are added to it.
    shots: examples an episode shows, every label equally often.
    queries: examples an episode asks.
    tables: see `symbol_tables`, also for the rest.
    held_out: number of held-out tables.
    most_symbols: greatest number of symbols.
    seed: of the tables.
  """
  rows = functools.partial(
    symbol_tables,
    tables=tables,
    held_out=held_out,
    most_symbols=most_symbols,
    seed=seed,
  )
  return register(name, rows, shots, queries, balanced=True)


def strings(
  name: str = 'toy_strings',
  shots: int = 8,
  queries: int = 4,
  rows: int = 120,
  held_out: float = 0.2,
  seed: int = 0,
) -> str:
  """Registers string functions in every form; returns the name.

  Args:
    name: of the task; the forms' suffixes are added to it.
    shots: examples an episode shows.
    queries: examples an episode asks.
    rows: see `string_functions`, also for the rest.
    held_out: share of the functions that is held out.
    seed: of the division and of the rows.
  """
  functions = functools.partial(
    string_functions, rows=rows, held_out=held_out, seed=seed
  )
  return register(name, functions, shots, queries)


def episodes(
  name: str = 'toy',
  form: str = '',
  symbol_shots: int = 12,
  string_shots: int = 8,
  queries: int = 4,
) -> str:
  """Registers both families and their equal mixture; returns its name.

  Args:
    name: of the mixture.
    form: which of `FORMS` to return.
    symbol_shots: examples of an episode of symbols.
    string_shots: examples of an episode of strings.
    queries: examples an episode asks.

  Raises:
    UserError: there is no such form.
  """
  if form not in FORMS:
    raise UserError(f'toy.episodes.form = {form!r}: give one of {FORMS}.')
  families = (
    symbols(f'{name}_symbols', symbol_shots, queries),
    strings(f'{name}_strings', string_shots, queries),
  )
  for suffix in FORMS:
    add_mixture(name + suffix, {family + suffix: 1.0 for family in families})
  return name + form


def register(
  name: str,
  rows: Callable[[str], Tasks],
  shots: int,
  queries: int,
  balanced: bool = False,
) -> str:
  """Registers episodes of one family in every form; returns the name.

  Args:
    name: of the task; the forms' suffixes are added to it.
    rows: split to tasks.
    shots: examples an episode shows.
    queries: examples an episode asks.
    balanced: show every target equally often.
  """
  vocabulary = vocabularies.byte_vocabulary()
  source = episodes_lib.EpisodeSource(
    {
      split: functools.partial(rows, split) for split in ('train', 'validation')
    },
    shots=shots,
    queries=queries,
    balanced=balanced,
  )
  shown = {'': None, '_in_context': (shots, shots), '_downstream': (0, shots)}
  for form in FORMS:
    if name + form in seqio.TaskRegistry.names():  # gin may ask for it again
      seqio.TaskRegistry.remove(name + form)
    seqio.TaskRegistry.add(
      name + form,
      source=source,
      preprocessors=[
        functools.partial(
          fewshot.episode_features,
          vocabulary=vocabulary,
          shots_shown=shown[form],
        )
      ],
      output_features=features.output_features(vocabulary),
      postprocess_fn=metrics.as_text,
      metric_fns=[metrics.exact_match],
      shuffle_buffer_size=None,  # episodes are drawn at random
    )
  return name


def add_mixture(name: str, rates: dict[str, float]) -> str:
  """Registers a mixture, in place of an older one; returns the name."""
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  seqio.MixtureRegistry.add(name, list(rates.items()))
  return name


def _tables(
  rng: np.random.Generator,
  count: int,
  fewest: int,
  most: int,
  avoid: set[frozenset],
) -> list[dict[str, str]]:
  """Different tables, none of them among those to avoid."""
  popularity = 1.0 / (np.arange(len(LABELS)) + 3.0)
  popularity /= popularity.sum()
  seen = set(avoid)
  tables: list[dict[str, str]] = []
  while len(tables) < count:
    size = int(rng.integers(fewest, most + 1))
    chosen = rng.choice(26, size, replace=False)
    labels = rng.choice(len(LABELS), size, replace=False, p=popularity)
    table = {
      string.ascii_lowercase[i]: LABELS[j]
      for i, j in zip(chosen, labels, strict=True)
    }
    # Only 728 tables have one symbol: those may come again.
    if size > 1 and frozenset(table.items()) in seen:
      continue
    seen.add(frozenset(table.items()))
    tables.append(table)
  return tables


def _symbol_rows(split: str, tables: list[dict[str, str]]) -> Tasks:
  # The filler comes first: symbol and label are then as near as can be.
  return {
    f'table_{split}_{i}': [
      (filler + symbol, label)
      for symbol, label in table.items()
      for filler in (FILLERS if len(table) == 1 else FILLERS[:10])
    ]
    for i, table in enumerate(tables)
  }


episodes()
