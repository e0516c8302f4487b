"""MetaICL: its settings, its files and its direct format, with k = 16.

The folder is one that MetaICL's scripts have made. It has these files:
`config/<setting>.json`; `config/tasks/<task>.json`, or `tasks.json` with all of
them; and `data/<task>/<task>_<k>_<seed>_{train,test}.jsonl`, whose lines have
the fields `input`, `output` and `options`.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

from hypertuning import text_files
from hypertuning.data import aggregation, metrics, registry, row_files, texts
from hypertuning.data import text_format as text_format_lib
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import RowTask
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Name, Names, Natural, Path, Seeds

SETTINGS = (
  'hr_to_lr',
  'class_to_class',
  'non_class_to_class',
  'qa_to_qa',
  'non_qa_to_qa',
  'non_nli_to_nli',
  'non_paraphrase_to_paraphrase',
)
SEEDS = (100, 13, 21, 42, 87)
TRAIN_K, TRAIN_SEED = 16384, 100
FIELDS = {'inputs': 'input', 'targets': 'output'}


def direct_format(vocabulary: Any) -> TextFormat:
  """MetaICL's direct format: input, line break, output, three line breaks.

  Args:
    vocabulary: a `Vocabulary` or a seqio vocabulary.
  """
  return text_format_lib.markers_format(
    vocabulary, definition='', inputs='\n\n\n', targets='\n'
  )


def setting_tasks(folder: str, setting: str, split: str) -> list[str]:
  """The names of the tasks in a setting.

  Args:
    folder: folder of the files, see the module.
    setting: name of the setting, one of `SETTINGS`.
    split: name of the split: `train` for the training tasks, `test` for the
      test tasks.

  Raises:
    UserError: there is no such setting, or its file has no list of tasks.
  """
  if setting not in SETTINGS:
    raise UserError(
      f'metaicl.setting = {setting!r}: give one of {", ".join(SETTINGS)}.'
    )
  path = pathlib.Path(folder, 'config', f'{setting}.json')
  names = _json(path).get(split)
  if not names or not isinstance(names, list):
    raise UserError(f'{path}: no list of tasks {split!r}.')
  try:
    return [texts.text(name) for name in names]
  except text_files.MalformedError as error:
    raise UserError(f'{path}: a name of {split!r} {error}.') from error


@takes_text_format
def train(
  folder: Path,
  setting: Name = 'hr_to_lr',
  k: Natural = 16,
  queries: Count = 1,
  symbol_labels: Names | None = None,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers meta-training on a setting, with all tasks equally often.

  A file of rows is only read when the split is first used.

  Args:
    folder: folder of the files, see the module.
    setting: name of the setting, one of `SETTINGS`.
    k: number of shots per episode.
    queries: number of queries per episode.
    symbol_labels: symbols that replace labels, see `registry.add_episodes`.
    train_episodes: number of training episodes in a cache, see
      `registry.add_episodes`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name of the task.

  Raises:
    UserError: there is no such setting, or its file is missing.
  """
  names = setting_tasks(folder, setting, 'train')

  def tasks() -> dict[str, RowTask]:
    return {
      name: _read(folder, name, TRAIN_K, TRAIN_SEED, 'train') for name in names
    }

  name = registry.add_episodes(
    f'metaicl_{setting}_train',
    {'train': tasks},
    k,
    queries,
    symbol_labels=symbol_labels,
    train_episodes=train_episodes,
    text_format=text_format,
  )
  return registry.form_of(name, in_context)


@takes_text_format
def test(
  folder: Path,
  setting: Name = 'hr_to_lr',
  k: Natural = 16,
  seeds: Seeds = SEEDS,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers a mixture with one task per test task and seed of the shots.

  Options are scored by their mean log-probability per token. The metric `score`
  is macro-F1 for classification, and accuracy for other tasks. A file of rows
  is only read when the split is first used.

  Args:
    folder: folder of the files, see the module.
    setting: name of the setting, one of `SETTINGS`.
    k: number of shots per episode, which are all rows in the file of a seed.
    seeds: seeds of MetaICL's draws of shots.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name of the mixture.

  Raises:
    UserError: there is no such setting, or a file that describes it or its
      tasks is missing; or a file has rows of several tasks, or no options to
      score.
  """
  task_file = pathlib.Path(folder, 'tasks.json')
  kinds = _json(task_file) if task_file.is_file() else {}

  def tasks(name: str, seed: int) -> dict[str, RowTask]:
    pool = _read(folder, name, k, seed, 'train').rows
    return {name: RowTask(_read(folder, name, k, seed, 'test').rows, pool=pool)}

  members = []
  for name in setting_tasks(folder, setting, 'test'):
    entry = kinds.get(name)
    kind = entry.get('task_type') if isinstance(entry, dict) else None
    kind = kind or _kind(folder, name)
    is_label = kind == 'classification'
    for seed in seeds:
      task = f'metaicl_{name.replace("-", "_")}_{seed}'
      registry.add_episodes(
        task,
        {'validation': functools.partial(tasks, name, seed)},
        k,
        options=True,
        text_format=text_format,
        score_metric_fns=(
          metrics.metaicl_label_score
          if is_label
          else metrics.metaicl_choice_score,
          metrics.mean_ties,
        ),
      )
      members.append(registry.form_of(task, in_context, scores_options=True))
  return registry.add_mixture(
    registry.form_of(f'metaicl_{setting}_test', in_context),
    dict.fromkeys(members, 1.0),
  )


def aggregate(results: Sequence[aggregation.Row]) -> list[aggregation.Row]:
  """Means over seeds and then over tasks, and the mean of each worst seed."""

  def task_of(task: str) -> str:
    return registry.base_of(task).rpartition('_')[0]

  worst = aggregation.worst(results, task_of, 'score')
  return aggregation.group_means(results, task_of) + worst


def _kind(folder: str, task: str) -> str:
  """The kind of a task: `classification`, `multi-choice` or `free-form`."""
  path = pathlib.Path(folder, 'config', 'tasks', f'{task}.json')
  config = _json(path)
  if 'task_type' not in config:
    raise UserError(f"{path}: no 'task_type' of the task {task!r}.")
  return config['task_type']


def _read(folder: str, task: str, k: int, seed: int, part: str) -> RowTask:
  path = pathlib.Path(folder, 'data', task, f'{task}_{k}_{seed}_{part}.jsonl')
  needs_options = part == 'test'
  oddities = Oddities(f'MetaICL, {task}')
  tasks = row_files.read(
    str(path), FIELDS, oddities=oddities, need_options=needs_options
  )
  oddities.say()
  if len(tasks) > 1:
    raise UserError(
      f'{path}: rows of {len(tasks)} tasks ({", ".join(map(repr, tasks))}), '
      'but a file of MetaICL has one.'
    )
  (task_rows,) = tasks.values()
  if needs_options and not task_rows.rows[0].options:
    raise UserError(f'{path}: no row has "options", which are scored.')
  return task_rows


def _json(path: pathlib.Path) -> dict[str, Any]:
  return text_files.read_json(path, 'no such file of MetaICL.')
