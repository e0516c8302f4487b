"""P3 / T0: the training mixture, and the held-out sets with their prompts.

Rendered rows are read from a folder of P3's files (parquet, TFRecords or JSON
lines: `hypertuning.data.p3_files` has the layouts), or rendered here from a
data set's raw rows and promptsource's templates.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

from hypertuning.data import (
  aggregation,
  p3_files,
  promptsource,
  registry,
  vocabularies,
)
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.rows import Row, RowTask
from hypertuning.data.text_format import TextFormat, Vocabulary, check
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Natural, Path

# T0's held-out data sets, by the start of their prompts' names.
HELD_OUT = (
  'anli',
  'hellaswag',
  'super_glue_cb',
  'super_glue_copa',
  'super_glue_rte',
  'super_glue_wic',
  'super_glue_wsc.fixed',
  'winogrande_winogrande_xl',
)
_ROUNDS = ('r1', 'r2', 'r3')
# What T0 was trained on: its repository's table with promptsource's prompts.
T0_MIXTURE = pathlib.Path(__file__).with_name('t0_mixture.jsonl')


@takes_text_format
def t0_train(
  folder: Path,
  name: Name = 'p3_t0_train',
  table: Path | None = None,
  shots: Natural = 16,
  queries: Count = 1,
  longest_mean: Count | None = 320,
  most_rows: Count | None = 10_000,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers T0's training mixture as one task; returns the name.

  The prompt of an episode is drawn by T0's rates in the sampler: hundreds of
  seqio tasks would take minutes to start.

  Args:
    folder: folder of P3's files.
    name: name of the task.
    table: data sets, their sizes and prompts; by default the folder's own
      `t0_mixture_table.jsonl`, or without one T0's (`T0_MIXTURE`). Its prompts
      without rows in the folder are left out.
    shots: number of shots per episode, all with the prompt of the queries.
    queries: number of queries per episode.
    longest_mean: prompts whose inputs have more tokens than this on average are
      left out, as HyperTuning does; None keeps all.
    most_rows: greatest number of rows per prompt in memory, taken at equal
      distances from its files; rates do not change. None keeps all.
    train_episodes: see `registry.add_episodes`.
    in_context: whether to return the form whose examples stand in the
      downstream model's own input.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no rows of the mixture.
  """
  text_format = check(text_format or vocabularies.byte_format())
  vocabulary = text_format.vocabulary
  own = pathlib.Path(folder, 't0_mixture_table.jsonl').expanduser()
  table = table or str(own if own.is_file() else T0_MIXTURE)

  def train() -> Mapping[str, RowTask]:
    rates = p3_files.read_table(table)
    found = {
      task: RowTask(rows, rate=rates[task])
      for task, rows in p3_files.rows(folder, 'train', most_rows).items()
      if task in rates and _fits(rows, shots + queries)
    }
    kept = {
      task: rows
      for task, rows in found.items()
      if longest_mean is None
      or _mean_length(rows.rows, vocabulary) <= longest_mean
    }
    if not kept:
      raise UserError(f'{folder}: no prompts of {table} in its files.')
    return kept

  registry.add_episodes(
    name,
    {'train': train},
    shots,
    queries,
    train_episodes=train_episodes,
    text_format=text_format,
  )
  return registry.form_of(name, in_context)


@takes_text_format
def held_out(
  folder: Path,
  name: Name = 'p3_held_out',
  shots: Natural = 16,
  queries: Count = 1,
  draws: Draws = 1,
  datasets: Names = HELD_OUT,
  most_rows: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers T0's held-out sets, one task per prompt; returns the mixture.

  The mixture scores options (`<name>` holds the `_score_eval` tasks): accuracy
  by the summed log-probability, shots from the training rows of the prompt.

  Args:
    folder: folder of P3's files, with the splits `train` and `validation`.
    name: name of the mixture.
    shots: number of shots per episode, all with the prompt of the queries.
    queries: number of queries per episode of tasks that generate text.
    draws: number of draws of shots for every row, or the numbers of some.
    datasets: starts of the names of the prompts.
    most_rows: greatest number of rows per prompt, see `t0_train`.
    in_context: see `t0_train`.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no files, or no rows of the data sets.
  """
  pools = p3_files.rows(folder, 'train', most_rows)
  query_rows = {
    task: rows
    for task, rows in p3_files.rows(folder, 'validation', most_rows).items()
    if task.startswith(tuple(datasets))
  }
  if not query_rows:
    raise UserError(f'{folder}: no rows of {", ".join(datasets)}.')
  for task, rows in query_rows.items():
    if task not in pools:
      raise UserError(f'{folder}: task {task} has no training rows to show.')
    _add_prompt(task, pools[task], rows, shots, queries, draws, text_format)
  members = [
    registry.form_of(task, in_context, scored=True) for task in query_rows
  ]
  return registry.add_mixture(
    registry.form_of(name, in_context), dict.fromkeys(members, 1.0)
  )


@takes_text_format
def templates(
  file: Path,
  train: Path,
  validation: Path,
  prefix: Name,
  shots: Natural = 16,
  queries: Count = 1,
  draws: Draws = 1,
  only_original: bool = True,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the prompts of a data set, rendered here; returns a mixture.

  Args:
    file: promptsource's `templates.yaml`.
    train: raw rows to show, see `p3_files.raw_rows`.
    validation: raw rows to ask.
    prefix: start of the tasks' names, such as `super_glue_cb`, and the name of
      the mixture.
    shots: number of shots per episode, all with the prompt of the queries.
    queries: number of queries per episode of tasks that generate text.
    draws: number of draws of shots for every row, or the numbers of some.
    only_original: whether to take only the prompts that T0 is evaluated with.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: a file is wrong, or a row lacks a field of a prompt.
  """
  raw = {path: list(p3_files.raw_rows(path)) for path in (train, validation)}
  names = []
  for template in promptsource.read_templates(file, prefix):
    if only_original and not template.original_task:
      continue
    pool, query_rows = (
      [
        row
        for i, example in enumerate(raw[path])
        if (row := template.render(example, seed=i)) is not None
      ]
      for path in (train, validation)
    )
    _add_prompt(
      template.task, pool, query_rows, shots, queries, draws, text_format
    )
    scored = all(row.options for row in query_rows)
    names.append(template.task + (SCORE_EVAL if scored else ''))
  if not names:
    raise UserError(f'{file}: no prompt of the original task.')
  return registry.add_mixture(prefix, dict.fromkeys(names, 1.0))


def aggregate(results: Sequence[aggregation.Row]) -> list[aggregation.Row]:
  """Means over prompts, then over ANLI's rounds, then over data sets."""

  def dataset(task: str) -> str:
    ending = registry.base_of(task)[-2:]
    if task.startswith('anli') and ending in _ROUNDS:
      return f'anli_{ending}'
    return next((name for name in HELD_OUT if task.startswith(name)), task)

  def without_round(name: str) -> str:
    return 'anli' if name.startswith('anli_r') else name

  return aggregation.grouped(results, dataset, without_round)


def _add_prompt(
  task: str,
  pool: Sequence[Row],
  rows: Sequence[Row],
  shots: int,
  queries: int,
  draws: int | Sequence[int],
  text_format: TextFormat | None,
) -> None:
  held_out_task = {task: RowTask(rows, pool=pool)}
  registry.add_episodes(
    task,
    {'validation': functools.partial(dict, held_out_task)},
    shots,
    queries,
    draws=draws,
    options=all(row.options for row in rows),
    text_format=text_format,
  )


def _fits(rows: Sequence[Row], needed: int) -> bool:
  return len({row.inputs for row in rows}) >= needed


def _mean_length(
  rows: Sequence[Row], vocabulary: Vocabulary, sample: int = 100
) -> float:
  texts = [row.inputs for row in rows[:sample]]
  return sum(len(vocabulary.encode(text)) for text in texts) / len(texts)
