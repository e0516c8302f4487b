"""Tasks of knowledge: capitals, plurals, number words, dates, and so on.

Their rows come from libraries that carry facts as data, so that every machine
with a package index has them: `pip install '.[knowledge]'`. There are eight
kinds of tasks. Whole tasks, and one whole kind, are held out.

When the module is imported, it registers one task per kind, such as
`knowledge_geography`, and the mixture `knowledge`, each in all of
`registry.FORMS`. Rows are made when they are first used. Gin files can have
other sizes and another format of text:

    MIXTURE_OR_TASK_NAME = @knowledge.episodes()
    knowledge.episodes.text_format = %TEXT_FORMAT
"""

import dataclasses
import functools
from collections.abc import Sequence

import seqio

from hypertuning.data import registry
from hypertuning.data.knowledge import collection
from hypertuning.data.registry import FORMS
from hypertuning.data.rows import RowTask, Tasks, as_task
from hypertuning.data.text_format import TextFormat
from hypertuning.ranges import Count, Draws, Name, Shots

NAME = 'knowledge'
SPLITS = ('train', 'validation')


def episodes(
  name: Name = NAME,
  shots: Shots = 10,
  queries: Count = 4,
  most_asked: Count | None = 32,
  visits: Count | None = None,
  draws: Draws = 1,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks of every kind and their mixture, and returns its name.

  A kind's rate in the mixture is its number of tasks.

  Args:
    name: name of the mixture; those of the kinds' tasks begin with it.
    shots: number of shots per episode; with a pair (least, most), episodes of
      training have from `least` to `most`, and others `most`.
    queries: number of queries per episode.
    most_asked: number of rows of a held-out task that become queries; None
      takes all rows. Shots come from all of its rows.
    visits: number of visits to each held-out task, which then come in turn, so
      that an episode's neighbour is another task; each visit draws its queries
      and its shots. None makes every row a query once.
    draws: number of draws of shots per validation row; a sequence selects draws
      by their numbers.
    train_episodes: number of training episodes in a cache, see
      `registry.add_episodes`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Raises:
    UserError: a library of the extra is not installed, or a task has too few
      rows.
  """
  registered = _register(
    *(name, shots, queries, most_asked, visits, draws, train_episodes),
    text_format,
  )
  for task in registered:  # refuses a task that is too small now
    source = seqio.TaskRegistry.get(task).source
    for split in source.splits:
      source.check(split)
  return registry.form_of(name, in_context)


def _register(
  name: str,
  shots: Shots,
  queries: int,
  most_asked: int | None,
  visits: int | None,
  draws: int | Sequence[int],
  train_episodes: int | None,
  text_format: TextFormat | None,
) -> list[str]:
  """Registers without making rows; returns the names of the kinds' tasks."""
  rates = {}
  for kind in collection.KINDS:
    names = {split: collection.names(kind, split) for split in SPLITS}
    task = registry.add_episodes(
      f'{name}_{kind}',
      {
        split: functools.partial(_tasks, kind, split, most_asked)
        for split in SPLITS
        if names[split]
      },
      shots,
      queries,
      visits=visits,
      draws=draws,
      train_episodes=train_episodes,
      text_format=text_format,
    )
    rates[task] = float(len(names['train'] or names['validation']))
  for form in FORMS:
    registry.add_mixture(
      name + form, {task + form: rate for task, rate in rates.items()}
    )
  return list(rates)


def _tasks(kind: str, split: str, most_asked: int | None) -> Tasks:
  tasks = collection.split_tasks(kind, split)
  if split == 'train':
    return tasks
  return {
    name: _first_asked(as_task(task), most_asked)
    for name, task in tasks.items()
  }


def _first_asked(task: RowTask, count: int | None) -> RowTask:
  return dataclasses.replace(task, rows=task.rows[:count], pool=task.rows)


_register(NAME, 10, 4, 32, None, 1, None, None)
