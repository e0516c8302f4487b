"""Function vectors' toy tasks: antonyms, capitals, the last of five words, ...

A folder as their repository has it (Todd et al., 2024): one file per task, JSON
or JSON lines of `input` and `output`, in sub-folders or not. Whole tasks are
held out: `train` and `validation` have no task in common.

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
from hypertuning.data.rows import RowTask
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Natural, Path

FIELDS = {'inputs': 'input', 'targets': 'output'}
_ENDINGS = ('.json', '.jsonl', '.jsonl.gz')


@takes_text_format
def function_vectors(
  folder: Path,
  name: Name = 'function_vectors',
  held_out: Count | Names = 16,
  shots: Natural = 16,
  queries: Count = 1,
  most_asked: Count | None = None,
  draws: Draws = 1,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks of a folder, as one task; returns the name.

  Args:
    folder: see the module.
    name: name of the task.
    held_out: names of the tasks of `validation`, or at least how many these
      are: see `choose`.
    shots: number of shots per episode.
    queries: number of queries per episode.
    most_asked: number of rows of a held-out task that become queries, the first
      ones; shots come from all of its rows. None takes all as queries.
    draws: number of draws of shots for every validation row, or the numbers
      of some of them.
    train_episodes: see `registry.add_episodes`.
    in_context: whether to return the form whose examples stand in the
      downstream model's own input.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no such folder, a row is wrong, a task has too few rows, or what
      is held out is not there or leaves nothing to train on.
  """
  tasks = _read(folder)
  held = choose(list(tasks), held_out)
  train = {task: rows for task, rows in tasks.items() if task not in held}
  query_tasks = {
    task: dataclasses.replace(
      tasks[task], rows=tasks[task].rows[:most_asked], pool=tasks[task].rows
    )
    for task in held
  }
  registry.add_episodes(
    name,
    {
      'train': functools.partial(dict, train),
      'validation': functools.partial(dict, query_tasks),
    },
    shots,
    queries,
    draws=draws,
    train_episodes=train_episodes,
    text_format=text_format,
  )
  for split in ('train', 'validation'):  # too small a task is found now
    seqio.TaskRegistry.get(name).source.check(split)
  return registry.form_of(name, in_context)


def choose(names: Sequence[str], held_out: int | Sequence[str]) -> list[str]:
  """Names of the tasks that are held out.

  A number takes tasks at equal distances in the order of the alphabet, without
  chance. Those that differ in a number at the end alone (`choose_last_of_3`,
  `choose_last_of_5`) are one function, and go together: there may be one task
  more than asked for.

  Args:
    names: of all tasks.
    held_out: see `function_vectors`.

  Raises:
    UserError: see `function_vectors`.
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
    held = [
      name for n in range(count) for name in groups[n * len(groups) // count]
    ]
    if 0 < held_out <= len(held):
      return held
  raise UserError(
    f'function_vectors.held_out = {held_out}: give a number from 1 that leaves '
    f'some of the {len(groups)} functions ({len(names)} tasks) to train on.'
  )


def _function(name: str) -> str:
  return re.sub(r'_\d+$', '', name)


def _read(folder: str) -> dict[str, RowTask]:
  root = pathlib.Path(folder).expanduser()
  tasks: dict[str, RowTask] = {}
  for path in sorted(root.rglob('*')):
    if path.name.endswith(_ENDINGS):
      name = path.name.partition('.')[0]
      if name in tasks:
        raise UserError(f'{path}: another file has task {name!r} as well.')
      tasks |= row_files.read(str(path), FIELDS, strip=True, name=name)
  if not tasks:
    raise UserError(
      f'{folder}: no {", ".join(_ENDINGS)} file of rows in this folder.'
    )
  return tasks
