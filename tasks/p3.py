"""P3 / T0: the training mixture, and the held-out sets with their prompts.

Rows come from JSON lines in the layout of P3's files today,

    {"task": "super_glue_cb_can_we_infer", "inputs_pretokenized": "...",
     "targets_pretokenized": "Yes", "answer_choices": ["Yes", "No", "Maybe"]}

or are rendered from a data set's raw rows and a templates file. A folder holds
files of many prompts, `<data set>.jsonl[.gz]` (or `<data set>.train.jsonl` and
`<data set>.validation.jsonl`), and T0's table, `t0_mixture_table.jsonl`.
"""

import functools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import seqio

from hypertuning.data import (
  aggregation,
  promptsource,
  registry,
  row_files,
  vocabularies,
)
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.rows import Row, RowTask
from hypertuning.errors import UserError

FIELDS = {
  'inputs': 'inputs_pretokenized',
  'targets': 'targets_pretokenized',
  'options': 'answer_choices',
}
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
BLACK_LIST = ('gigaword_summarize_',)  # as in T0's code
CAP = 500_000


def rate(train_size: int, prompts: int, cap: int = CAP) -> int:
  """The rate of one prompt of a data set in T0's mixture.

  As T0's code has it: the cap is divided among the prompts, but the size of a
  data set below it is not.
  """
  return cap // prompts if train_size > cap else train_size


def read_table(path: str, kind: str = 'BASE') -> dict[str, int]:
  """Rates of the prompts of T0's training mixture.

  Args:
    path: `t0_mixture_table.jsonl`, a data set a line.
    kind: `BASE` for T0, `GPT` for what T0+ adds, `SGLUE` for what T0++ adds.

  Raises:
    UserError: no such file, or a line without a field.
  """
  rates: dict[str, int] = {}
  try:
    lines = pathlib.Path(path).read_text('utf-8').splitlines()
  except OSError as error:
    raise UserError(f'{path}: no such table of T0 data sets.') from error
  for number, line in enumerate(lines, start=1):
    try:
      item = json.loads(line)
      if item['do_train'] != kind:
        continue
      each = rate(item['train_size'], item['num_prompts'])
      rates |= dict.fromkeys(item['prompts'], each)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
      raise UserError(f'{path}:{number}: no row of the table ({error}).') from (
        error
      )
  return {name: x for name, x in rates.items() if name not in BLACK_LIST}


def t0_train(
  folder: str,
  name: str = 'p3_t0_train',
  table: str | None = None,
  shots: int = 16,
  queries: int = 1,
  longest_mean: int | None = 320,
  train_episodes: int | None = None,
  vocabulary: seqio.Vocabulary | None = None,
) -> str:
  """Registers T0's training mixture as one task; returns the name.

  The prompt of an episode is drawn by T0's rates in the sampler: hundreds of
  seqio tasks would take minutes to start.

  Args:
    folder: of P3's files.
    name: of the task.
    table: T0's table; that of the folder by default. Prompts of the table
      without rows in the folder are left out.
    shots: examples an episode shows, of the same prompt.
    queries: examples an episode asks.
    longest_mean: prompts whose inputs have more tokens than this on average are
      left out, as HyperTuning does; None keeps all.
    train_episodes: see `registry.add_episodes`.
    vocabulary: bytes by default.

  Raises:
    UserError: no rows of the mixture.
  """
  vocabulary = vocabulary or vocabularies.byte_vocabulary()
  table = table or str(pathlib.Path(folder, 't0_mixture_table.jsonl'))

  def train() -> Mapping[str, RowTask]:
    rates = read_table(table)
    found = {
      task: RowTask(rows, rate=rates[task])
      for task, rows in _rows(_files(folder, '*.jsonl*')).items()
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

  return registry.add_episodes(
    name,
    {'train': train},
    shots,
    queries,
    train_episodes=train_episodes,
    vocabulary=vocabulary,
  )


def held_out(
  folder: str,
  name: str = 'p3_held_out',
  shots: int = 16,
  queries: int = 1,
  draws: int = 1,
  datasets: Sequence[str] = HELD_OUT,
  vocabulary: seqio.Vocabulary | None = None,
) -> str:
  """Registers T0's held-out sets, a task a prompt; returns the mixture's name.

  The mixture scores options (`<name>` holds the `_score_eval` tasks): accuracy
  by the summed log-probability, shots from the training rows of the prompt.

  Args:
    folder: of P3's files, `<data set>.train.jsonl` and `.validation.jsonl`.
    name: of the mixture.
    shots: examples an episode shows, of the same prompt.
    queries: of the tasks that generate text.
    draws: of shots for every row.
    datasets: starts of the names of the prompts.
    vocabulary: bytes by default.

  Raises:
    UserError: no files, or no rows of the data sets.
  """
  pools = _rows(_files(folder, '*.train.jsonl*'))
  asked = {
    task: rows
    for task, rows in _rows(_files(folder, '*.validation.jsonl*')).items()
    if task.startswith(tuple(datasets))
  }
  if not asked:
    raise UserError(f'{folder}: no rows of {", ".join(datasets)}.')
  for task, rows in asked.items():
    if task not in pools:
      raise UserError(f'{folder}: task {task} has no training rows to show.')
    _add_prompt(task, pools[task], rows, shots, queries, draws, vocabulary)
  return registry.add_mixture(name, {t + SCORE_EVAL: 1.0 for t in asked})


def templates(
  file: str,
  train: str,
  validation: str,
  prefix: str,
  shots: int = 16,
  queries: int = 1,
  draws: int = 1,
  only_original: bool = True,
  vocabulary: seqio.Vocabulary | None = None,
) -> str:
  """Registers the prompts of a data set, rendered here; returns a mixture.

  Args:
    file: promptsource's `templates.yaml`.
    train: JSON lines of raw rows to show.
    validation: JSON lines of raw rows to ask.
    prefix: of the tasks, such as `super_glue_cb`; the mixture's name.
    shots: examples an episode shows, of the same prompt.
    queries: of the tasks that generate text.
    draws: of shots for every row.
    only_original: the prompts that T0 is evaluated with.
    vocabulary: bytes by default.

  Raises:
    UserError: a file is wrong, or a row lacks a field of a prompt.
  """
  raw = {path: _raw_rows(path) for path in (train, validation)}
  names = []
  for template in promptsource.read_templates(file, prefix):
    if only_original and not template.original_task:
      continue
    pool, asked = (
      [
        row
        for i, example in enumerate(raw[path])
        if (row := template.render(example, seed=i)) is not None
      ]
      for path in (train, validation)
    )
    _add_prompt(template.task, pool, asked, shots, queries, draws, vocabulary)
    scored = all(row.options for row in asked)
    names.append(template.task + (SCORE_EVAL if scored else ''))
  if not names:
    raise UserError(f'{file}: no prompt of the original task.')
  return registry.add_mixture(prefix, dict.fromkeys(names, 1.0))


def aggregate(results: Sequence[aggregation.Row]) -> list[aggregation.Row]:
  """Means over prompts, then over ANLI's rounds, then over data sets."""

  def dataset(task: str) -> str:
    if (
      task.startswith('anli') and task.removesuffix(SCORE_EVAL)[-2:] in _ROUNDS
    ):
      return f'anli_{task.removesuffix(SCORE_EVAL)[-2:]}'
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
  draws: int,
  vocabulary: seqio.Vocabulary | None,
) -> None:
  held_out_task = {task: RowTask(rows, pool=pool)}
  registry.add_episodes(
    task,
    {'validation': functools.partial(dict, held_out_task)},
    shots,
    queries,
    draws=draws,
    options=all(row.options for row in rows),
    vocabulary=vocabulary,
  )


def _files(folder: str, pattern: str) -> list[pathlib.Path]:
  skipped = ('index.jsonl', 't0_mixture_table.jsonl')
  found = sorted(pathlib.Path(folder).expanduser().glob(pattern))
  found = [path for path in found if path.name not in skipped]
  if not found:
    raise UserError(f'{folder}: no files {pattern} of P3.')
  return found


def _rows(files: Iterable[pathlib.Path]) -> dict[str, list[Row]]:
  """Rows of every prompt; what repeats is kept once."""
  found: dict[str, dict[tuple[str, str], Row]] = {}
  for path in files:
    for task, read in row_files.read(str(path), FIELDS, strip=True).items():
      rows = found.setdefault(task, {})
      for row in read.rows:
        rows.setdefault((row.inputs, row.targets), row)
  return {task: list(rows.values()) for task, rows in found.items()}


def _raw_rows(path: str) -> list[dict[str, Any]]:
  try:
    lines = pathlib.Path(path).read_text('utf-8').splitlines()
    return [json.loads(line) for line in lines if line.strip()]
  except OSError as error:
    raise UserError(f'{path}: no such file of raw rows.') from error
  except ValueError as error:
    raise UserError(f'{path}: not JSON lines in UTF-8 ({error}).') from error


def _fits(rows: Sequence[Row], needed: int) -> bool:
  return len({row.inputs for row in rows}) >= needed


def _mean_length(
  rows: Sequence[Row], vocabulary: seqio.Vocabulary, sample: int = 100
) -> float:
  texts = [row.inputs for row in rows[:sample]]
  return sum(len(vocabulary.encode(text)) for text in texts) / len(texts)
