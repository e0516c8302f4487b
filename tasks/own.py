"""One's own tasks: a JSONL or TSV file, and a line of gin or Python.

    from hypertuning.tasks import own

    MIXTURE_OR_TASK_NAME = @own.task_file()
    own.task_file.name = 'mine'
    own.task_file.train = '/path/to/train.jsonl'
    own.task_file.validation = '/path/to/validation.jsonl'

`hypertuning.data.row_files` says what a line looks like. A task of the
validation file that is in the training file too shows examples from there;
others show their own rows.
"""

import dataclasses
import functools
from collections.abc import Mapping

import seqio

from hypertuning.data import metrics, registry, row_files
from hypertuning.data.registry import Splits
from hypertuning.data.rows import RowTask, Tasks
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Natural, Path

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
  shots: Natural = 16,
  queries: Count = 1,
  balanced: bool = False,
  draws: Draws = 1,
  metric: Name = 'exact_match',
  fields: Mapping[str, str] | None = None,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the tasks of one or two files; returns the name.

  Files are read, and refused, here and not when training has started.

  Args:
    name: name of the task.
    train: file of the rows to train on; they are shots of validation too.
    validation: file of the rows to evaluate on.
    shots: number of shots per episode.
    queries: number of queries per episode.
    balanced: whether shots have every target equally often.
    draws: number of draws of shots for every validation row, or the numbers
      of some of them.
    metric: one of `METRICS`. Rows with options give accuracy as well, under
      the name `<name>_score_eval`.
    fields: names in the files, such as `{'inputs': 'question'}`.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: a file or a row is wrong, a task has too few rows, or there is no
      such metric.
  """
  if metric not in METRICS:
    raise UserError(
      f'own.task_file.metric = {metric!r}: give one of {", ".join(METRICS)}.'
    )
  shot_tasks = row_files.read(train, fields)
  splits: Splits = {'train': functools.partial(dict, shot_tasks)}
  if validation is not None:
    query_tasks = row_files.read(validation, fields)
    splits = {
      **splits,
      'validation': lambda: _with_pools(query_tasks, shot_tasks),
    }
  options = all(
    row.options for task in shot_tasks.values() for row in task.rows
  )
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
  for split in splits:  # a task that is too small is found now
    seqio.TaskRegistry.get(name).source.check(split)
  return name


def _with_pools(
  query_tasks: Mapping[str, RowTask], shot_tasks: Mapping[str, RowTask]
) -> Tasks:
  return {
    name: dataclasses.replace(task, pool=shot_tasks[name].rows)
    if name in shot_tasks
    else task
    for name, task in query_tasks.items()
  }
