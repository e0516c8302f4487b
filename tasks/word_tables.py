"""Tables of random words, which only their examples explain.

A task is a table from a few words to other words. An input is two words of the
table, and its target the two words that they stand for. A model that answers
has read the examples; it cannot know anything else about the table.

    MIXTURE_OR_TASK_NAME = @word_tables.word_tables()

Needs the libraries of `tasks/knowledge.py`: `pip install '.[knowledge]'`.
"""

import functools
import itertools

import seqio

from hypertuning.data import registry
from hypertuning.data.knowledge import sources
from hypertuning.data.rows import Row, RowTask, Tasks
from hypertuning.data.text_format import TextFormat
from hypertuning.ranges import Count, Name, Shots

_WORDS = 2000  # the most frequent words


def word_tables(
  name: Name = 'word_tables',
  tables: Count = 500,
  words: Count = 6,
  shots: Shots = 10,
  queries: Count = 4,
  text_format: TextFormat | None = None,
) -> str:
  """Registers tables as one seqio task, and returns its name.

  A tenth of the tables are the split `validation`.

  Args:
    name: name of the seqio task.
    tables: number of tables.
    words: number of words that a table translates, 3 or more.
    shots: number of shots per episode, or the least and the greatest.
    queries: number of queries per episode.
    text_format: format of the text; T5's over bytes by default.

  Raises:
    UserError: a library of the extra is not installed, or a table has too few
      rows for so many shots and queries.
  """
  held_out = -(-tables // 10)
  registry.add_episodes(
    name,
    {
      'train': functools.partial(_tables, held_out, tables, words),
      'validation': functools.partial(_tables, 0, held_out, words),
    },
    shots,
    queries,
    visits=4,
    text_format=text_format,
  )
  for split in ('train', 'validation'):
    seqio.TaskRegistry.get(name).source.check(split)
  return name


def _tables(first: int, end: int, words: int) -> Tasks:
  return {f'table_{n}': RowTask(_rows(n, words)) for n in range(first, end)}


def _rows(number: int, words: int) -> list[Row]:
  draws = sources.Draws(f'word table {number}')
  known = draws.several(sources.english_words()[:_WORDS], 2 * words)
  table = dict(zip(known[:words], known[words:], strict=True))
  return [
    Row(f'{one} {other}', f'{table[one]} {table[other]}')
    for one, other in itertools.permutations(table, 2)
  ]
