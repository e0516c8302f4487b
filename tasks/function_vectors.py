"""The toy tasks of function vectors, such as antonyms and capitals.

The folder is that of the authors' repository (Todd et al., 2024). It has one
file per task, maybe in sub-folders, of JSON or JSON lines with the fields
`input` and `output`. Whole tasks are held out: `train` and `validation` have no
task in common.

    MIXTURE_OR_TASK_NAME = @function_vectors.function_vectors()
    function_vectors.function_vectors.folder = '/path/to/dataset_files'
"""

import dataclasses
import difflib
import functools
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

import seqio

from hypertuning.data import registry, row_files
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import RowTask
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Path, Shots

FIELDS = {'inputs': 'input', 'targets': 'output'}
_ENDINGS = ('.json', '.jsonl', '.jsonl.gz')


@takes_text_format
def function_vectors(
  folder: Path,
  name: Name = 'function_vectors',
  held_out: Count | Names = 16,
  shots: Shots = 16,
  queries: Count = 1,
  most_asked: Count | None = None,
  visits: Count | None = None,
  draws: Draws = 1,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks in a folder as one seqio task, and returns its name.

  Args:
    folder: folder of the files, see the module.
    name: name of the seqio task.
    held_out: names of the tasks in the split `validation`, or their least
      number, see `choose`.
    shots: number of shots per episode; with a pair (least, most), episodes of
      training have from `least` to `most`, and others `most`.
    queries: number of queries per episode.
    most_asked: number of rows of a held-out task that become queries, which are
      its first ones; None takes all rows. Shots come from all of its rows.
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
    UserError: there is no such folder, all rows of a file are wrong, a task has
      too few rows, or the held-out tasks do not exist or leave none to train
      on.
  """
  tasks = _read(folder)
  held_out_names = choose(list(tasks), held_out)
  train = {
    task: rows for task, rows in tasks.items() if task not in held_out_names
  }
  query_tasks = {
    task: dataclasses.replace(
      tasks[task], rows=tasks[task].rows[:most_asked], pool=tasks[task].rows
    )
    for task in held_out_names
  }
  registry.add_episodes(
    name,
    {
      'train': functools.partial(dict, train),
      'validation': functools.partial(dict, query_tasks),
    },
    shots,
    queries,
    visits=visits,
    draws=draws,
    train_episodes=train_episodes,
    text_format=text_format,
  )
  for split in ('train', 'validation'):  # refuses a task that is too small now
    seqio.TaskRegistry.get(name).source.check(split)
  return registry.form_of(name, in_context)


def choose(names: Sequence[str], held_out: int | Sequence[str]) -> list[str]:
  """Chooses the tasks that are held out.

  A number chooses tasks at equal distances in alphabetical order; nothing is
  drawn at random. Tasks whose names differ only in a number at the end, such as
  `choose_last_of_3` and `choose_last_of_5`, are one function, and are held out
  together. There may therefore be more tasks than the number says.

  Args:
    names: names of all tasks.
    held_out: names of the held-out tasks, or their least number.

  Returns:
    Names of the held-out tasks.

  Raises:
    UserError: a held-out task does not exist, or none is left to train on.
  """
  if isinstance(held_out, str):
    held_out = [held_out]
  if not isinstance(held_out, int):
    for name in held_out:
      if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f'did you mean {near[0]}?' if near else 'the folder has none.'
        raise UserError(f'function_vectors.held_out: no task {name!r}; {hint}')
    if not 0 < len(set(held_out)) < len(names):
      raise UserError(
        f'function_vectors.held_out: {len(set(held_out))} of {len(names)} '
        'tasks; name some, and leave some to train on.'
      )
    return sorted(set(held_out))
  functions: Mapping[str, list[str]] = {
    function: list(members)
    for function, members in itertools.groupby(sorted(names), _function)
  }
  groups = list(functions.values())
  for count in range(1, len(groups)):
    held_out_names = [
      name for n in range(count) for name in groups[n * len(groups) // count]
    ]
    if 0 < held_out <= len(held_out_names):
      return held_out_names
  raise UserError(
    f'function_vectors.held_out = {held_out}: give a number from 1 that leaves '
    f'some of the {len(groups)} functions ({len(names)} tasks) to train on.'
  )


def _function(name: str) -> str:
  return re.sub(r'_\d+$', '', name)


def _read(folder: str) -> dict[str, RowTask]:
  root = pathlib.Path(folder).expanduser()
  tasks: dict[str, RowTask] = {}
  oddities = Oddities(folder)
  for path in sorted(root.rglob('*')):
    if path.name.endswith(_ENDINGS):
      name = path.name.partition('.')[0]
      if name in tasks:
        raise UserError(f'{path}: another file has task {name!r} as well.')
      tasks |= row_files.read(
        str(path), FIELDS, strip=True, name=name, oddities=oddities
      )
  oddities.say()
  if not tasks:
    raise UserError(
      f'{folder}: no {", ".join(_ENDINGS)} file of rows in this folder.'
    )
  return tasks
