"""Symbol tuning: classification tasks whose labels mean nothing.

Any files of rows (`hypertuning.data.row_files`), one task per file or named by
their field `task`. The labels of an episode are replaced by symbols drawn for
it, the same ones in its shots, queries and options. Evaluation uses other
symbols than training (Wei et al., 2023).

    MIXTURE_OR_TASK_NAME = @symbol_tuning.train()
    symbol_tuning.train.files = ['sst2.train.jsonl', 'trec.train.jsonl']
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence

import seqio

from hypertuning.data import registry, row_files, symbols
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.rows import RowTask
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Natural, Path

MOST_LABELS = 10  # more is no classification, as symbol tuning has it


@takes_text_format
def train(
  files: Names,
  name: Name = 'symbol_tuning_train',
  shots: Natural = 16,
  queries: Count = 1,
  fields: Mapping[str, str] | None = None,
  words: Path | None = None,
  train_episodes: Count | None = None,
  text_format: TextFormat | None = None,
) -> str:
  """Registers training with symbols for labels, every task as often.

  Args:
    files: files of rows.
    name: name of the task.
    shots: number of shots per episode, with every label as often as can be.
    queries: number of queries per episode.
    fields: names in the files, such as `{'inputs': 'sentence'}`.
    words: a file with one word per line; they are symbols as well.
    train_episodes: see `registry.add_episodes`.
    text_format: layout of the text, T5's over bytes by default.

  Returns:
    The name.

  Raises:
    UserError: a file or a row is wrong, a task is no classification, or it has
      too few rows.
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
  return name


@takes_text_format
def test(
  files: Names,
  pools: Sequence[Name] = (),
  name: Name = 'symbol_tuning_test',
  shots: Natural = 16,
  draws: Draws = 1,
  fields: Mapping[str, str] | None = None,
  words: Path | None = None,
  text_format: TextFormat | None = None,
) -> str:
  """Registers one task per file that scores symbols; returns their mixture.

  Args:
    files: files of rows that become queries.
    pools: files of rows to show to the task of the same name; a task without
      any shows its own rows.
    name: of the mixture, and before the tasks' names.
    shots: see `train`.
    draws: number of draws of shots for every row, or the numbers of some.
    fields: see `train`.
    words: see `train`.
    text_format: see `train`.

  Raises:
    UserError: see `train`; or a task of `pools` is not one of `files`.
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
    members.append(member + SCORE_EVAL)
  return registry.add_mixture(name, dict.fromkeys(members, 1.0))


def _read(
  files: Sequence[str], fields: Mapping[str, str] | None
) -> dict[str, RowTask]:
  """Tasks whose rows all have the task's labels as options."""
  tasks: dict[str, RowTask] = {}
  for path in files:
    for task, read in row_files.read(path, fields).items():
      labels = tuple(sorted({row.targets for row in read.rows}))
      if not 2 <= len(labels) <= MOST_LABELS:
        raise UserError(
          f'{path}: task {task!r} has {len(labels)} labels; symbol tuning '
          f'takes classification with 2 to {MOST_LABELS}.'
        )
      rows = [row._replace(options=row.options or labels) for row in read.rows]
      if task in tasks:
        raise UserError(f'{path}: task {task!r} is in another file as well.')
      tasks[task] = dataclasses.replace(read, rows=rows)
  return tasks


def _words(path: str | None) -> Sequence[str]:
  if path is None:
    return ()
  try:
    return pathlib.Path(path).expanduser().read_text('utf-8').split()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'{path}: no file of words in UTF-8.') from error
