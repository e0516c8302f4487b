"""P3 / T0: the training mixture, and the held-out sets with their prompts.

Rendered rows are read from a folder of P3's files, which are parquet, TFRecords
or JSON lines (`hypertuning.data.p3_files` describes them); or they are rendered
here from the raw rows of a data set and promptsource's templates.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning.data import (
  aggregation,
  p3_files,
  promptsource,
  registry,
  sampling,
  vocabularies,
)
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import Row, RowTask, distinct_options, option_fault
from hypertuning.data.text_format import TextFormat, Vocabulary, check
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Draws, Name, Names, Natural, Path, Shots

# Starts of the names of the prompts that belong to T0's held-out data sets.
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
# The data sets that T0 was trained on, from a table in its repository, with
# promptsource's prompts.
T0_MIXTURE = pathlib.Path(__file__).with_name('t0_mixture.jsonl')


@takes_text_format
def t0_train(
  folder: Path,
  name: Name = 'p3_t0_train',
  table: Path | None = None,
  shots: Shots = 16,
  queries: Count = 1,
  longest_mean: Count | None = 320,
  most_rows: Count | None = 10_000,
  train_episodes: Count | None = None,
  in_context: bool = False,
  text_format: TextFormat | None = None,
) -> str:
  """Registers T0's training mixture as one seqio task, and returns its name.

  The source of the episodes draws their prompts by T0's rates. A seqio mixture
  of hundreds of tasks, one per prompt, would take minutes to start. Files are
  only read when the split is first used.

  Args:
    folder: folder of P3's files.
    name: name of the seqio task.
    table: path of a table of data sets, their sizes and their prompts; prompts
      without rows in the folder are left out. None takes the folder's
      `t0_mixture_table.jsonl` or, if there is none, T0's own (`T0_MIXTURE`).
    shots: number of shots per episode, or the least and the greatest, all with
      the prompt of the queries.
    queries: number of queries per episode.
    longest_mean: greatest mean number of tokens in the inputs of a prompt;
      prompts with more are left out, as in HyperTuning. None keeps all prompts.
    most_rows: greatest number of rows per prompt that are held in memory; they
      are read at equal distances, and rates do not change. None reads all.
    train_episodes: number of training episodes in a cache, see
      `registry.add_episodes`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Raises:
    UserError: `text_format` is no `TextFormat`.
  """
  text_format = check(text_format or vocabularies.byte_format())
  vocabulary = text_format.vocabulary
  own = pathlib.Path(folder, 't0_mixture_table.jsonl').expanduser()
  table = table or str(own if own.is_file() else T0_MIXTURE)

  def train() -> Mapping[str, RowTask]:
    rates = p3_files.read_table(table)
    needed = sampling.least(shots) + queries
    oddities = Oddities(f'{name}, prompts of {len(rates)} in {table}')
    rows = p3_files.rows(folder, 'train', most_rows)
    row_tasks = {}
    for task, rate in rates.items():
      if task not in rows:
        oddities.add('without rows', task)
      elif not _fits(rows[task], needed):
        oddities.add(f'left out, fewer than {needed} inputs', task)
      elif (
        longest_mean is not None
        and _mean_length(rows[task], vocabulary) > longest_mean
      ):
        oddities.add(
          f'left out, more than {longest_mean} tokens on average', task
        )
      else:
        row_tasks[task] = RowTask(rows[task], rate=rate)
    oddities.say()
    if not row_tasks:
      raise UserError(f'{folder}: no prompts of {table} in its files.')
    return row_tasks

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
  """Registers T0's held-out sets as a mixture, with one task per prompt.

  The tasks of the mixture score options, by their summed log-probability. Shots
  come from the training rows of the same prompt. Prompts without options or
  without training rows are left out; a line on stderr counts them.

  Args:
    folder: folder of P3's files, with the splits `train` and `validation`.
    name: name of the mixture.
    shots: number of shots per episode, all with the prompt of the queries.
    queries: number of queries per episode in tasks that generate text.
    draws: number of draws of shots per row; a sequence selects draws by their
      numbers.
    datasets: starts of the names of the prompts that are registered.
    most_rows: greatest number of rows per prompt, see `t0_train`.
    in_context: whether to return the form in which the downstream model itself
      reads the examples.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name of the mixture.

  Raises:
    UserError: there are no such files, they have no rows of the data sets, or
      no prompt has both options and training rows.
  """
  pools = p3_files.rows(folder, 'train', most_rows)
  query_rows = {
    task: rows
    for task, rows in p3_files.rows(folder, 'validation', most_rows).items()
    if task.startswith(tuple(datasets))
  }
  if not query_rows:
    raise UserError(f'{folder}: no rows of {", ".join(datasets)}.')
  oddities = Oddities(f'{name}, {folder}')
  for task in pools.keys() - query_rows.keys():
    if task.startswith(tuple(datasets)):
      oddities.add('prompts without rows to ask left out', task)
  members = []
  for task, rows in query_rows.items():
    if task not in pools:
      oddities.add('prompts without training rows left out', task)
      continue
    _add_prompt(task, pools[task], rows, shots, queries, draws, text_format)
    if rows[0].options:
      members.append(registry.form_of(task, in_context, scores_options=True))
    else:
      oddities.add('prompts without options, which are not scored', task)
  oddities.say()
  if not members:
    raise UserError(
      f'{folder}: no prompt of {", ".join(datasets)} has both options to score '
      'and training rows to show.'
    )
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
  """Renders a data set with promptsource's prompts, and registers a mixture.

  A row is left out if a prompt fails on it, or if its target is not one of its
  options. A prompt is left out if it cannot be parsed, or if it fails on every
  row. A line on stderr counts both.

  Args:
    file: path of promptsource's `templates.yaml`.
    train: raw rows that become shots, in a form that `p3_files.raw_rows` reads.
    validation: raw rows that become queries, in such a form too.
    prefix: start of the tasks' names, such as `super_glue_cb`; it is also the
      name of the mixture.
    shots: number of shots per episode, all with the prompt of the queries.
    queries: number of queries per episode in tasks that generate text.
    draws: number of draws of shots per row; a sequence selects draws by their
      numbers.
    only_original: whether to use only the prompts that T0 is evaluated with.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name of the mixture.

  Raises:
    UserError: a file cannot be read, or no prompt can be used; names the fault
      of the first prompt.
  """
  oddities = Oddities(prefix)
  raw = {
    path: list(p3_files.raw_rows(path, oddities))
    for path in dict.fromkeys((train, validation))
  }
  names: list[str] = []
  faults: list[UserError] = []
  for template in promptsource.read_templates(file, prefix):
    if only_original and not template.original_task:
      continue
    try:
      template.check()
      pool, query_rows = (
        _render(template, raw[path], path, oddities)
        for path in (train, validation)
      )
    except UserError as error:
      faults.append(error)
      continue
    task = template.task + SCORE_EVAL * bool(query_rows[0].options)
    if task in names:
      faults.append(UserError(f'{template}: another is {template.task} too.'))
      continue
    _add_prompt(
      template.task, pool, query_rows, shots, queries, draws, text_format
    )
    names.append(task)
  missing = f'{file}: no prompt of the original task.'
  _count_faults('prompts left out', faults, names, missing, oddities)
  oddities.say()
  return registry.add_mixture(prefix, dict.fromkeys(names, 1.0))


def _render(
  template: promptsource.Template,
  examples: Sequence[Mapping[str, Any]],
  path: str,
  oddities: Oddities,
) -> list[Row]:
  """Renders the rows of a prompt; counts rows that are left out or mended.

  Args:
    template: the prompt.
    examples: the raw rows.
    path: path of the raw rows, for error messages.
    oddities: counts rows with faults.

  Raises:
    UserError: no row can be used; names the fault of the first one.
  """
  rows: list[Row] = []
  faults: list[UserError] = []
  empty_places: list[str] = []
  for i, example in enumerate(examples):
    place = f'{template}: row {i + 1} of {path}'
    try:
      row = template.render(example, seed=i)
    except UserError as error:
      faults.append(error)
      continue
    if row is None:
      empty_places.append(place)
      continue
    num_options = len(row.options)
    row = row._replace(options=distinct_options(row.options))
    fault = option_fault(row, f' of row {i + 1}')
    if num_options and fault:
      faults.append(UserError(f'{template}: {fault}.'))
      continue
    if len(row.options) < num_options:
      oddities.add('rows mended, an option twice or empty', place)
    rows.append(row)
  missing = f'{template}: no row of {path} has an input and a target.'
  _count_faults('rows left out', faults, rows, missing, oddities)
  if empty_places:
    oddities.add(
      'rows without input or target left out',
      empty_places[0],
      len(empty_places),
    )
  return rows


def _count_faults(
  what: str,
  faults: Sequence[UserError],
  remainder: Sequence[Any],
  missing: str,
  oddities: Oddities,
) -> None:
  """Counts what was left out, if anything remains.

  Args:
    what: what is counted, such as `rows left out`.
    faults: the fault of each row or prompt that was left out.
    remainder: the rows or prompts that remain.
    missing: message if there was nothing to leave out, either.
    oddities: counts rows and prompts with faults.

  Raises:
    UserError: nothing remains; names the first fault.
  """
  if not remainder:
    raise faults[0] if faults else UserError(missing)
  if faults:
    oddities.add(what, faults[0], len(faults))


def aggregate(results: Sequence[aggregation.Row]) -> list[aggregation.Row]:
  """Means over prompts, then over ANLI's rounds, then over data sets."""

  def dataset(task: str) -> str:
    ending = registry.base_of(task)[-2:]
    if task.startswith('anli') and ending in _ROUNDS:
      return f'anli_{ending}'
    return next((name for name in HELD_OUT if task.startswith(name)), task)

  def without_round(name: str) -> str:
    return 'anli' if name.startswith('anli_r') else name

  return aggregation.group_means(results, dataset, without_round)


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
    options=bool(rows[0].options),
    text_format=text_format,
  )


def _fits(rows: Sequence[Row], least: int) -> bool:
  return len({row.inputs for row in rows}) >= least


def _mean_length(
  rows: Sequence[Row], vocabulary: Vocabulary, sample: int = 100
) -> float:
  texts = [row.inputs for row in rows[:sample]]
  return sum(len(vocabulary.encode(text)) for text in texts) / len(texts)
