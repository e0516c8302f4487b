"""Embedded default: symbol mapping and string functions, with held-out tasks.

A task is a table (symbols to labels) or a function of two letters; the split
`validation` holds whole tasks that `train` never draws. A model can answer a
query only if it has understood the examples.

Registered: `toy_symbols`, `toy_strings` and the mixture `toy`, each in the
forms of `registry.FORMS`. A gin file can ask for other sizes:

    MIXTURE_OR_TASK_NAME = @toy.episodes()
    toy.episodes.symbol_shots = 6
"""

import functools
import itertools
import string
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Interval

from hypertuning.data import registry
from hypertuning.data.registry import FORMS
from hypertuning.data.rows import Tasks
from hypertuning.errors import UserError
from hypertuning.ranges import Count, Name, Natural, Part, Positive

# As few as leave tables to hold out: a model has to meet every pair of a symbol
# and a label many times.
SYMBOLS = string.ascii_lowercase[:10]
LABELS = string.ascii_uppercase[:10]
# Rows of a symbol differ in a filler; a table of one symbol has 20 rows.
FILLERS = string.digits + '!#$%&(),-.'
Symbols = Annotated[int, Interval(ge=1, le=len(SYMBOLS))]
# There are 90 pairs of different symbols.
Rows = Annotated[int, Interval(ge=1, le=90)]
NAME = 'toy'
_RATES = (3.0, 1.0)  # symbols take longer to learn than strings


def adjacent_heads(
  stddev: Positive = 1.0, strength: Positive = 8.0
) -> Callable[..., jax.Array]:
  """Initial relative biases with which small models soon read examples.

  Biases are normal, but the first head of a stack attends to the token before
  at first, and the second head to the token after, where the table has buckets
  for it. Without them a model of a few layers takes thousands of steps to learn
  to copy from examples in its context.

  Args:
    stddev: standard deviation of the normal biases.
    strength: number added to the biases of the two adjacent tokens.

  Returns:
    An initializer of a `[heads, buckets]` table, called with a key, the shape
    and a dtype.
  """

  def init(
    key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32
  ) -> jax.Array:
    table = stddev * jax.random.normal(key, shape, dtype)
    table = table.at[0, 1].add(strength)
    return table.at[1, shape[1] // 2 + 1].add(strength)

  return init


def symbol_tables(
  split: str,
  tables: Count = 4000,
  held_out: Count = 200,
  most_symbols: Symbols = 6,
  seed: Natural = 0,
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
    seed: seed for the tables.

  Returns:
    Task name to rows such as `('7c', 'cB')`.
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
  split: str, rows: Rows = 80, held_out: Part = 0.2, seed: Natural = 0
) -> Tasks:
  """Functions of two letters: a label, or none, before and one behind.

  Args:
    split: a function is in `train` or in `validation`.
    rows: examples of a function, at most 90.
    held_out: share of the functions in `validation`.
    seed: seed for the division and the rows.

  Returns:
    Task name to rows such as `('ab', 'DabH')`.
  """
  rng = np.random.default_rng(seed)
  affixes = ('', *LABELS)
  functions = [(left, right) for left in affixes for right in affixes][1:]
  words = [x + y for x, y in itertools.permutations(SYMBOLS, 2)]
  shuffled = rng.permutation(len(functions))
  cut = int(len(functions) * held_out)
  tasks = {}
  for i in shuffled[cut:] if split == 'train' else shuffled[:cut]:
    left, right = functions[i]
    # The rows of a function are the same, whatever else is drawn.
    order = np.random.default_rng([seed, i]).permutation(len(words))[:rows]
    tasks[f'function_{left}_{right}'] = [
      (words[n], left + words[n] + right) for n in order
    ]
  return tasks


def symbols(
  name: Name = 'toy_symbols',
  shots: Natural = 6,
  queries: Count = 4,
  tables: Count = 4000,
  held_out: Count = 200,
  most_symbols: Symbols = 6,
  seed: Natural = 0,
  draws: Count = 1,
) -> str:
  """Registers symbol tables in every form; returns the name.

  Args:
    name: name of the task; the forms' suffixes are added to it.
    shots: number of shots per episode, with every label equally often.
    queries: number of queries per episode.
    tables: see `symbol_tables`, also for the rest.
    held_out: number of held-out tables.
    most_symbols: greatest number of symbols.
    seed: seed for the tables.
    draws: number of draws of shots for every held-out episode.
  """
  rows = functools.partial(
    symbol_tables,
    tables=tables,
    held_out=held_out,
    most_symbols=most_symbols,
    seed=seed,
  )
  return _register(name, rows, shots, queries, draws, balanced=True)


def strings(
  name: Name = 'toy_strings',
  shots: Natural = 4,
  queries: Count = 4,
  rows: Rows = 80,
  held_out: Part = 0.2,
  seed: Natural = 0,
  draws: Count = 1,
) -> str:
  """Registers string functions in every form; returns the name.

  Args:
    name: name of the task; the forms' suffixes are added to it.
    shots: number of shots per episode.
    queries: number of queries per episode.
    rows: see `string_functions`, also for the rest.
    held_out: share of the functions that is held out.
    seed: seed for the division and the rows.
    draws: number of draws of shots for every held-out episode.
  """
  functions = functools.partial(
    string_functions, rows=rows, held_out=held_out, seed=seed
  )
  return _register(name, functions, shots, queries, draws)


def episodes(
  name: Name = NAME,
  form: str = '',
  symbol_shots: Natural = 6,
  string_shots: Natural = 4,
  queries: Count = 4,
  draws: Count = 1,
) -> str:
  """Registers both families and their mixture; returns its name.

  Args:
    name: name of the mixture.
    form: which of `registry.FORMS` to return.
    symbol_shots: number of shots per episode of symbols.
    string_shots: number of shots per episode of strings.
    queries: number of queries per episode.
    draws: number of draws of shots for every held-out episode.

  Raises:
    UserError: there is no such form.
  """
  if form not in FORMS:
    raise UserError(f'toy.episodes.form = {form!r}: give one of {FORMS}.')
  families = (
    symbols(f'{name}_symbols', symbol_shots, queries, draws=draws),
    strings(f'{name}_strings', string_shots, queries, draws=draws),
  )
  for suffix in FORMS:
    rates = zip(families, _RATES, strict=True)
    registry.add_mixture(
      name + suffix, {family + suffix: x for family, x in rates}
    )
  return name + form


def _register(
  name: str,
  rows: Callable[[str], Tasks],
  shots: int,
  queries: int,
  draws: int,
  balanced: bool = False,
) -> str:
  splits = {
    split: functools.partial(rows, split) for split in ('train', 'validation')
  }
  return registry.add_episodes(
    name, splits, shots, queries, balanced=balanced, visits=4, draws=draws
  )


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
    # Small tables to begin with, but most are as hard as the held-out ones.
    size = int(rng.integers(fewest, most + 1, 2).max())
    chosen = rng.choice(len(SYMBOLS), size, replace=False)
    labels = rng.choice(len(LABELS), size, replace=False, p=popularity)
    table = {SYMBOLS[i]: LABELS[j] for i, j in zip(chosen, labels, strict=True)}
    # Only 100 tables have one symbol: those may come again.
    if size > 1 and frozenset(table.items()) in seen:
      continue
    seen.add(frozenset(table.items()))
    tables.append(table)
  return tables


def _symbol_rows(split: str, tables: list[dict[str, str]]) -> Tasks:
  # A target restates its symbol: a small decoder that has written the symbol
  # looks its label up, where one that has not stays at guessing for very long.
  return {
    f'table_{split}_{i}': [
      (filler + symbol, symbol + label)
      for symbol, label in table.items()
      for filler in (FILLERS if len(table) == 1 else FILLERS[:10])
    ]
    for i, table in enumerate(tables)
  }


episodes()
