"""The default tasks, which need no files: symbol tables and string functions.

A task is a table from symbols to labels, or a function of two letters. The
split `validation` has whole tasks that are never in `train`. A model can answer
a query only if it has understood the examples.

When the module is imported, it registers `toy_symbols`, `toy_strings` and the
mixture `toy`, each in all of `registry.FORMS`. Gin files can have other sizes:

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
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.ranges import Count, Name, Natural, Part, Positive

# There are as few symbols as possible that leave tables to hold out, since a
# model must see every pair of a symbol and a label many times.
SYMBOLS = string.ascii_lowercase[:10]
LABELS = string.ascii_uppercase[:10]
# The rows of a symbol differ in a filler. A table of one symbol has 20 rows.
FILLERS = string.digits + '!#$%&(),-.'
Symbols = Annotated[int, Interval(ge=1, le=len(SYMBOLS))]
# A string function has one row per pair of different symbols: 90 at most.
Rows = Annotated[int, Interval(ge=1, le=90)]
NAME = 'toy'
_RATES = (3.0, 1.0)  # symbols take longer to learn than strings


def adjacent_heads(
  stddev: Positive = 1.0, strength: Positive = 8.0
) -> Callable[..., jax.Array]:
  """Initial relative biases with which small models soon read examples.

  Biases are normal. But at first, the first head of a stack attends to the
  previous token, and the second head to the next token, if the table has
  buckets for it. Otherwise, a model of a few layers needs thousands of steps to
  learn to copy from examples in its context.

  Args:
    stddev: standard deviation of the normal biases.
    strength: number that is added to the biases of the two adjacent tokens.

  Returns:
    An initializer of a table `[heads, buckets]`, which takes a key, the shape
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
  """Tables from lower-case symbols to upper-case labels.

  Some labels are drawn more often than others, so that there is a best guess
  for a model without examples.

  Args:
    split: name of the split. The tables of `train` have 1 to `most_symbols`
      symbols; those of `validation` have `most_symbols`, and none of them is a
      training table.
    tables: number of training tables.
    held_out: number of held-out tables.
    most_symbols: greatest number of symbols in a table.
    seed: seed for the tables.

  Returns:
    A dict from the name of each task to its rows, such as `('7c', 'cB')`.
  """
  rng = np.random.default_rng([seed, 1])
  train = _tables(rng, tables, 1, most_symbols, avoid=set())
  if split == 'train':
    return _symbol_rows('train', train)
  training_tables = {frozenset(table.items()) for table in train}
  rng = np.random.default_rng([seed, 2])
  rest = _tables(
    rng, held_out, most_symbols, most_symbols, avoid=training_tables
  )
  return _symbol_rows(split, rest)


def string_functions(
  split: str, rows: Rows = 80, held_out: Part = 0.2, seed: Natural = 0
) -> Tasks:
  """Functions of two letters, which put a label before or behind them, or both.

  Args:
    split: name of the split, `train` or `validation`, which have no function in
      common.
    rows: number of rows per function, at most 90.
    held_out: share of the functions that are in `validation`.
    seed: seed for the division of the functions, and for their rows.

  Returns:
    A dict from the name of each task to its rows, such as `('ab', 'DabH')`.
  """
  rng = np.random.default_rng(seed)
  affixes = ('', *LABELS)
  functions = [(prefix, suffix) for prefix in affixes for suffix in affixes][1:]
  words = [x + y for x, y in itertools.permutations(SYMBOLS, 2)]
  shuffled = rng.permutation(len(functions))
  num_held_out = int(len(functions) * held_out)
  tasks = {}
  for i in (
    shuffled[num_held_out:] if split == 'train' else shuffled[:num_held_out]
  ):
    prefix, suffix = functions[i]
    # The rows of a function depend on the seed and its number alone.
    order = np.random.default_rng([seed, i]).permutation(len(words))[:rows]
    tasks[f'function_{prefix}_{suffix}'] = [
      (words[n], prefix + words[n] + suffix) for n in order
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
  text_format: TextFormat | None = None,
) -> str:
  """Registers symbol tables in all forms, and returns the name.

  Args:
    name: name of the task, to which the suffixes of the forms are added.
    shots: number of shots per episode, which have all labels equally often.
    queries: number of queries per episode.
    tables: number of training tables.
    held_out: number of held-out tables.
    most_symbols: greatest number of symbols in a table.
    seed: seed for the tables.
    draws: number of draws of shots per visit to a held-out task.
    text_format: format of the text; T5's over bytes by default.
  """
  rows = functools.partial(
    symbol_tables,
    tables=tables,
    held_out=held_out,
    most_symbols=most_symbols,
    seed=seed,
  )
  sizes = (shots, queries, draws)
  return _register(name, rows, *sizes, text_format, balanced=True)


def strings(
  name: Name = 'toy_strings',
  shots: Natural = 4,
  queries: Count = 4,
  rows: Rows = 80,
  held_out: Part = 0.2,
  seed: Natural = 0,
  draws: Count = 1,
  text_format: TextFormat | None = None,
) -> str:
  """Registers string functions in all forms, and returns the name.

  Args:
    name: name of the task, to which the suffixes of the forms are added.
    shots: number of shots per episode.
    queries: number of queries per episode.
    rows: number of rows per function, at most 90.
    held_out: share of the functions that are held out.
    seed: seed for the division of the functions, and for their rows.
    draws: number of draws of shots per visit to a held-out task.
    text_format: format of the text; T5's over bytes by default.
  """
  functions = functools.partial(
    string_functions, rows=rows, held_out=held_out, seed=seed
  )
  return _register(name, functions, shots, queries, draws, text_format)


def episodes(
  name: Name = NAME,
  form: str = '',
  symbol_shots: Natural = 6,
  string_shots: Natural = 4,
  queries: Count = 4,
  draws: Count = 1,
  text_format: TextFormat | None = None,
) -> str:
  """Registers both families and their mixture, and returns its name.

  Args:
    name: name of the mixture.
    form: suffix of the form whose name is returned, one of `registry.FORMS`.
    symbol_shots: number of shots per episode of a symbol table.
    string_shots: number of shots per episode of a string function.
    queries: number of queries per episode.
    draws: number of draws of shots per visit to a held-out task.
    text_format: format of the text; T5's over bytes by default.

  Raises:
    UserError: there is no such form.
  """
  if form not in FORMS:
    raise UserError(f'toy.episodes.form = {form!r}: give one of {FORMS}.')
  options: Any = {'draws': draws, 'text_format': text_format}
  families = (
    symbols(f'{name}_symbols', symbol_shots, queries, **options),
    strings(f'{name}_strings', string_shots, queries, **options),
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
  text_format: TextFormat | None,
  balanced: bool = False,
) -> str:
  splits = {
    split: functools.partial(rows, split) for split in ('train', 'validation')
  }
  return registry.add_episodes(
    name,
    splits,
    shots,
    queries,
    balanced=balanced,
    visits=4,
    draws=draws,
    text_format=text_format,
  )


def _tables(
  rng: np.random.Generator,
  count: int,
  fewest: int,
  most: int,
  avoid: set[frozenset],
) -> list[dict[str, str]]:
  """Draws different tables, none of which is to be avoided."""
  popularity = 1.0 / (np.arange(len(LABELS)) + 3.0)
  popularity /= popularity.sum()
  used_tables = set(avoid)
  tables: list[dict[str, str]] = []
  while len(tables) < count:
    # The greater of two sizes makes most tables nearly as large as the
    # held-out ones, and leaves some small ones, which are learned first.
    size = int(rng.integers(fewest, most + 1, 2).max())
    symbol_numbers = rng.choice(len(SYMBOLS), size, replace=False)
    labels = rng.choice(len(LABELS), size, replace=False, p=popularity)
    table = {
      SYMBOLS[i]: LABELS[j] for i, j in zip(symbol_numbers, labels, strict=True)
    }
    # There are only 100 tables of one symbol, which may occur several times.
    if size > 1 and frozenset(table.items()) in used_tables:
      continue
    used_tables.add(frozenset(table.items()))
    tables.append(table)
  return tables


def _symbol_rows(split: str, tables: list[dict[str, str]]) -> Tasks:
  # A target repeats its symbol. A small decoder that has just written the
  # symbol soon learns to look up its label; otherwise, it guesses for very
  # many steps.
  return {
    f'table_{split}_{i}': [
      (filler + symbol, symbol + label)
      for symbol, label in table.items()
      for filler in (FILLERS if len(table) == 1 else FILLERS[:10])
    ]
    for i, table in enumerate(tables)
  }


episodes()
