"""Symbol tuning: classification with arbitrary symbols in place of labels.

The tasks come from files of rows (`hypertuning.data.row_files`). A file has one
task, or several that the field `task` names. For every episode, symbols are
drawn, and replace the labels in its shots, queries and options. Evaluation uses
other symbols than training (Wei et al., 2023).

    MIXTURE_OR_TASK_NAME = @symbol_tuning.train()
    symbol_tuning.train.files = ['sst2.train.jsonl', 'trec.train.jsonl']
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import seqio

from hypertuning import text_files
from hypertuning.data import registry, row_files, symbols
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import RowTask
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Natural, Path, Shots

MOST_LABELS = 10  # a task with more is no classification task here


@takes_text_format
def train(
  files: Names,
  name: Name = 'symbol_tuning_train',
  shots: Shots = 16,
  queries: Count = 1,
  fields: Mapping[str, str] | None = None,
  words: Path | None = None,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers training with symbols, in which all tasks come equally often.

  Args:
    files: paths of the files of rows.
    name: name of the seqio task.
    shots: number of shots per episode, or the least and the greatest, which
      have all labels equally often, as far as possible.
    queries: number of queries per episode.
    fields: names that fields have in the files, such as
      `{'inputs': 'sentence'}`.
    words: path of a file with one word per line, which are symbols as well;
      None for no words.
    train_episodes: number of training episodes in a cache, see
      `registry.add_episodes`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name.

  Raises:
    UserError: a file or all of its rows are wrong, a task is no classification,
      or it has too few rows.
  """
  tasks = _read(files, fields)
  registry.add_episodes(
    name,
    {'train': functools.partial(dict, tasks)},
    shots,
    queries,
    balanced=True,
    symbol_labels=symbols.symbol_labels(words=_words(words)),
    train_episodes=train_episodes,
    text_format=text_format,
  )
  seqio.TaskRegistry.get(name).source.check('train')
  return registry.form_of(name, in_context)


@takes_text_format
def test(
  files: Names,
  pools: Sequence[Name] = (),
  name: Name = 'symbol_tuning_test',
  shots: Natural = 16,
  draws: Draws = 1,
  fields: Mapping[str, str] | None = None,
  words: Path | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers a mixture of tasks that score symbols.

  Args:
    files: paths of the files of rows that become queries.
    pools: paths of the files of rows that become shots of the task with the
      same name; the shots of other tasks come from their own rows.
    name: name of the mixture, with which the names of its tasks start.
    shots: number of shots per episode, see `train`.
    draws: number of draws of shots per row; a sequence selects draws by their
      numbers.
    fields: names that fields have in the files, see `train`.
    words: path of a file of words, see `train`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name of the mixture.

  Raises:
    UserError: the files are wrong, see `train`, or a task in `pools` is not in
      `files`.
  """
  labels = symbols.symbol_labels(held_out=True, words=_words(words))
  query_tasks, shot_tasks = _read(files, fields), _read(pools, fields)
  for task in shot_tasks.keys() - query_tasks.keys():
    raise UserError(
      f'symbol_tuning.test.pools: task {task!r} is not one of the files, which '
      f'have {", ".join(query_tasks)}.'
    )
  members = []
  for task, rows in query_tasks.items():
    if task in shot_tasks:
      rows = dataclasses.replace(rows, pool=shot_tasks[task].rows)
    member = f'{name}_{task.replace("-", "_")}'
    registry.add_episodes(
      member,
      {'validation': functools.partial(dict, {task: rows})},
      shots,
      balanced=True,
      draws=draws,
      options=True,
      symbol_labels=labels,
      text_format=text_format,
    )
    seqio.TaskRegistry.get(member).source.check('validation')
    members.append(registry.form_of(member, in_context, scores_options=True))
  return registry.add_mixture(
    registry.form_of(name, in_context), dict.fromkeys(members, 1.0)
  )


def _read(
  files: Sequence[str], fields: Mapping[str, str] | None
) -> dict[str, RowTask]:
  """Reads tasks, and gives every row the labels of its task as options."""
  tasks: dict[str, RowTask] = {}
  for path in files:
    oddities = Oddities('symbol tuning')
    file_tasks = row_files.read(path, fields, oddities=oddities)
    oddities.say()
    for task, task_rows in file_tasks.items():
      labels = tuple(sorted({row.targets for row in task_rows.rows}))
      if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(
          f'{path}: task {task!r} has {len(labels)} labels; symbol tuning '
          f'takes classification with 2 to {MOST_LABELS}.'
        )
      rows = [
        row._replace(options=row.options or labels) for row in task_rows.rows
      ]
      if task in tasks:
        raise UserError(f'{path}: task {task!r} is in another file as well.')
      tasks[task] = dataclasses.replace(task_rows, rows=rows)
  return tasks


def _words(path: str | None) -> Sequence[str]:
  if path is None:
    return ()
  return text_files.read_text(path, 'no such file of words.').split()
