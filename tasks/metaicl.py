"""MetaICL: its settings, its files, its direct format, k = 16.

A folder as its repository makes it: `config/<setting>.json`,
`config/tasks/<task>.json` (or all of them in one `tasks.json`), and
`data/<task>/<task>_<k>_<seed>_{train,test}.jsonl`, lines of `input`, `output`
and `options`. The data itself is built by MetaICL's own scripts.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from hypertuning.data import aggregation, metrics, registry, row_files
from hypertuning.data import text_format as text_format_lib
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
    vocabulary: a `Vocabulary` or seqio vocabulary.
  """
  return text_format_lib.markers_format(
    vocabulary, definition='', inputs='\n\n\n', targets='\n'
  )


def setting_tasks(folder: str, setting: str, split: str) -> list[str]:
  """Names of the `train` or `test` tasks of a setting.

  Raises:
    UserError: no such setting, or no file of it.
  """
  if setting not in SETTINGS:
    raise UserError(
      f'metaicl.setting = {setting!r}: give one of {", ".join(SETTINGS)}.'
    )
  return _json(pathlib.Path(folder, 'config', f'{setting}.json'))[split]


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
  """Registers meta-training on a setting, every task as often; returns a name.

  Args:
    folder: see the module.
    setting: one of `SETTINGS`.
    k: number of shots per episode.
    queries: number of queries per episode.
    symbol_labels: see `registry.add_episodes`.
    train_episodes: see `registry.add_episodes`.
    in_context: whether to return the form whose examples stand in the
      downstream model's own input.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no such setting; a file that is not there when it is first read.
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
  """Registers one task per test task and seed of the shots; returns a mixture.

  Options are scored by the mean log-probability per token. The metric `score`
  is macro-F1 of classification, accuracy of other tasks.

  Args:
    folder: see the module.
    setting: one of `SETTINGS`.
    k: number of shots per episode: all that the file of a seed has.
    seeds: seeds of MetaICL's draws of shots.
    in_context: see `train`.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no such setting; a file that is not there when it is first read.
  """
  merged = pathlib.Path(folder, 'tasks.json')
  kinds = _json(merged) if merged.is_file() else {}

  def tasks(name: str, seed: int) -> dict[str, RowTask]:
    pool = _read(folder, name, k, seed, 'train').rows
    return {name: RowTask(_read(folder, name, k, seed, 'test').rows, pool=pool)}

  members = []
  for name in setting_tasks(folder, setting, 'test'):
    kind = kinds.get(name, {}).get('task_type') or _kind(folder, name)
    is_label = kind == 'classification'
    for seed in seeds:
      task = f'metaicl_{name.replace("-", "_")}_{seed}'
      registry.add_episodes(
        task,
        {'validation': functools.partial(tasks, name, seed)},
        k,
        options=True,
        text_format=text_format,
        score_metric_fns=(_label_score if is_label else _choice_score,),
      )
      members.append(registry.form_of(task, in_context, scored=True))
  return registry.add_mixture(
    registry.form_of(f'metaicl_{setting}_test', in_context),
    dict.fromkeys(members, 1.0),
  )


def aggregate(results: Sequence[aggregation.Row]) -> list[aggregation.Row]:
  """Means over seeds, then over tasks; and the same of every worst seed."""

  def task_of(task: str) -> str:
    return registry.base_of(task).rpartition('_')[0]

  worst = aggregation.worst(results, task_of, 'score')
  return aggregation.grouped(results, task_of) + worst


def _label_score(targets: Any, scores: Any) -> dict[str, float]:
  """MetaICL's number of a classification task: macro-F1."""
  return {'score': metrics.mean_rank_macro_f1(targets, scores)['macro_f1']}


def _choice_score(targets: Any, scores: Any) -> dict[str, float]:
  """MetaICL's number of other tasks: accuracy."""
  return {'score': metrics.mean_rank_accuracy(targets, scores)['accuracy']}


def _kind(folder: str, task: str) -> str:
  """`classification`, `multi-choice` or `free-form`, by the task's own file."""
  path = pathlib.Path(folder, 'config', 'tasks', f'{task}.json')
  known = _json(path)
  if 'task_type' not in known:
    raise UserError(f"{path}: no 'task_type' of the task {task!r}.")
  return known['task_type']


def _read(folder: str, task: str, k: int, seed: int, part: str) -> RowTask:
  path = pathlib.Path(folder, 'data', task, f'{task}_{k}_{seed}_{part}.jsonl')
  (read,) = row_files.read(str(path), FIELDS).values()
  return read


def _json(path: pathlib.Path) -> Any:
  try:
    return json.loads(path.read_text('utf-8'))
  except OSError as error:
    raise UserError(f'{path}: no such file of MetaICL.') from error
  except ValueError as error:
    raise UserError(f'{path}: not JSON ({error}).') from error
