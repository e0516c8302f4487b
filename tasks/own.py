"""A user's own tasks, from a JSONL or TSV file and a few lines of gin.

    from hypertuning.tasks import own

    MIXTURE_OR_TASK_NAME = @own.task_file()
    own.task_file.name = 'mine'
    own.task_file.train = '/path/to/train.jsonl'
    own.task_file.validation = '/path/to/validation.jsonl'

`hypertuning.data.row_files` describes the lines of such a file. If a task of
the validation file is also in the training file, its shots come from there;
otherwise, they come from the task's own rows.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping

import seqio

from hypertuning.data import metrics, registry, row_files
from hypertuning.data.registry import Splits
from hypertuning.data.rows import RowTask, Tasks
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Path, Shots

METRICS = {
  'exact_match': metrics.exact_match,
  'rouge_l': metrics.rouge_l,
  'macro_f1': metrics.macro_f1,
}


@takes_text_format
def task_file(
  name: Name,
  train: Path,
  validation: Path | None = None,
  shots: Shots = 16,
  queries: Count = 1,
  balanced: bool = False,
  draws: Draws = 1,
  metric: Name = 'exact_match',
  fields: Mapping[str, str] | None = None,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks in one or two files as one seqio task.

  The files are read now, so that faults in them are found before training.

  Args:
    name: name of the seqio task.
    train: path of the file with the rows to train on, which are also shots in
      validation.
    validation: path of the file with the rows to evaluate on; None for none.
    shots: number of shots per episode; with a pair (least, most), episodes of
      training have from `least` to `most`, and others `most`.
    queries: number of queries per episode.
    balanced: whether shots have every target equally often.
    draws: number of draws of shots per validation row; a sequence selects draws
      by their numbers.
    metric: name of the metric, one of `METRICS`. If tasks have options,
      `<name>_score_eval` gives the accuracy of the likeliest option as well.
    fields: names that fields have in the files, such as
      `{'inputs': 'question'}`.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name.

  Raises:
    UserError: a file or a row is wrong, a task has too few rows, or there is no
      such metric.
  """
  if metric not in METRICS:
    raise UserError(
      f'own.task_file.metric = {metric!r}: give one of {", ".join(METRICS)}.'
    )
  shot_tasks = row_files.read(train, fields, need_options=True)
  query_tasks: Mapping[str, RowTask] = {}
  splits: Splits = {'train': functools.partial(dict, shot_tasks)}
  if validation is not None:
    query_tasks = row_files.read(validation, fields, need_options=True)
    splits = {
      **splits,
      'validation': lambda: _with_pools(query_tasks, shot_tasks),
    }
  # `_score_eval` refuses tasks without options; they can still be evaluated by
  # their text.
  query_rows = query_tasks or shot_tasks
  options = any(task.rows[0].options for task in query_rows.values())
  registry.add_episodes(
    name,
    splits,
    shots,
    queries,
    balanced=balanced,
    draws=draws,
    options=options,
    text_format=text_format,
    metric_fns=(METRICS[metric],),
  )
  for split in splits:  # refuses a task that is too small now
    seqio.TaskRegistry.get(name).source.check(split)
  return name


@takes_text_format
def task_folder(
  folder: Path,
  names: Names,
  name: Name = 'own',
  ending: Name = 'jsonl',
  shots: Shots = 16,
  queries: Count = 1,
  balanced: bool = False,
  draws: Draws = 1,
  metric: Name = 'exact_match',
  fields: Mapping[str, str] | None = None,
  text_format: TextFormat | None = None,
) -> str:
  """Registers tasks whose files are in one folder, as a mixture.

  Args:
    folder: folder with `<task>.train.<ending>` and `<task>.test.<ending>` for
      each task.
    names: names of the tasks, which come equally often.
    name: name of the mixture, with which the names of its seqio tasks begin.
    ending: ending of the files.
    shots: see `task_file`, as for the rest.
    queries: number of queries per episode.
    balanced: whether shots have every target equally often.
    draws: number of draws of shots per validation row.
    metric: name of the metric.
    fields: names that fields have in the files.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name of the mixture.

  Raises:
    UserError: see `task_file`.
  """
  members = [
    task_file(
      f'{name}_{task}',
      str(pathlib.Path(folder, f'{task}.train.{ending}')),
      str(pathlib.Path(folder, f'{task}.test.{ending}')),
      shots=shots,
      queries=queries,
      balanced=balanced,
      draws=draws,
      metric=metric,
      fields=fields,
      text_format=text_format,
    )
    for task in names
  ]
  return registry.add_mixture(name, dict.fromkeys(members, 1.0))


def _with_pools(
  query_tasks: Mapping[str, RowTask], shot_tasks: Mapping[str, RowTask]
) -> Tasks:
  return {
    name: dataclasses.replace(task, pool=shot_tasks[name].rows)
    if name in shot_tasks
    else task
    for name, task in query_tasks.items()
  }
