"""Reads P3: rendered rows, T0's table of data sets, and raw rows.

A folder may hold rendered rows in any of these layouts, and in several at once:

    <any>.jsonl[.gz]                 rows of many prompts, of all splits
    <any>.<split>.jsonl[.gz]         rows of many prompts
    <prompt>/<split>-*.parquet       as on the Hugging Face hub today
    <prompt>/<split>.tfrecord-*      as P3 was published, and as seqio caches it

The fields are `task` (in JSON lines only), `inputs_pretokenized`,
`targets_pretokenized` and, if a prompt has options, `answer_choices`.
"""

import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import seqio

from hypertuning import text_files
from hypertuning.data import row_files, texts
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import Row
from hypertuning.errors import UserError
from hypertuning.text_files import MalformedError

FIELDS = {
  'inputs': 'inputs_pretokenized',
  'targets': 'targets_pretokenized',
  'options': 'answer_choices',
}
CAP = 500_000
BLACK_LIST = ('gigaword_summarize_',)  # as in T0's code
_SPLITS = ('train', 'validation', 'test')
_TFDS = 'tfds:'
_LISTS = ('index.jsonl', 't0_mixture_table.jsonl')


def rate(train_size: int, prompts: int, cap: int = CAP) -> int:
  """The rate of one prompt of a data set in T0's mixture.

  T0's code divides the cap by the number of prompts of a large data set, but
  gives every prompt of a small data set the whole size. The same is done here.

  Args:
    train_size: number of training rows in the data set.
    prompts: number of prompts for the data set.
    cap: greatest number of rows that a data set may count as.
  """
  return cap // prompts if train_size > cap else train_size


def read_table(path: str, kind: str = 'BASE') -> dict[str, int]:
  """Reads the rates of the prompts in T0's training mixture.

  Args:
    path: path of a file of JSON lines, one per data set, with the fields
      `do_train`, `train_size` (number of rows), `num_prompts` and `prompts`.
    kind: value of `do_train` in the lines that are read: `BASE` for T0,
      `GPT_EVAL` for the data sets that T0+ adds, `SGLUE` for those that T0++
      adds.

  Returns:
    A dict from the name of each prompt to its rate.

  Raises:
    UserError: the file does not exist, or a line lacks a field.
  """
  rates: dict[str, int] = {}
  for number, item in text_files.json_lines(path):
    try:
      if item['do_train'] != kind:
        continue
      size, count, prompts = (
        item[field] for field in ('train_size', 'num_prompts', 'prompts')
      )
      if not (
        isinstance(size, int)
        and isinstance(count, int)
        and isinstance(prompts, list)
        and min(size, count) > 0
      ):
        raise TypeError('two numbers from 1 and a list of names are needed')
      prompt_rate = rate(size, count)
      rates |= {texts.text(prompt): prompt_rate for prompt in prompts}
    except (KeyError, TypeError, MalformedError) as error:
      raise UserError(
        f'{path}:{number}: not a row of the table ({error!r}).'
      ) from error
  return {name: x for name, x in rates.items() if name not in BLACK_LIST}


def rows(folder: str, split: str, most: int | None) -> dict[str, list[Row]]:
  """Reads the rows of every prompt in a folder.

  Rows with faults are left out. So are, in `validation` and `test`, the rows
  without options of a prompt whose other rows have them. A line on stderr
  counts them. In `train`, each of several equal rows is taken once; in other
  splits rows are asked as often as they were published.

  Args:
    folder: folder in the layouts that the module's docstring shows.
    split: name of the split, `train` or `validation`.
    most: greatest number of rows per prompt; None reads all. If there are more,
      rows at equal distances are read.

  Returns:
    A dict from the name of each prompt to its rows.

  Raises:
    UserError: the folder has no files of the split, or every row of a file has
      a fault.
  """
  oddities = Oddities(f'{folder}, {split}')
  rows_by_task: dict[str, list[Row]] = {}
  for prompt, paths in _files(folder, split).items():
    most_per_file = most and math.ceil(most / len(paths)) if prompt else None
    for path in paths:
      tasks = row_files.read(
        str(path),
        FIELDS,
        True,
        prompt or None,
        most_per_file,
        oddities,
        need_options=split != 'train',
      )
      for task, part in tasks.items():
        rows_by_task.setdefault(task, []).extend(part.rows)
  oddities.say()
  if split == 'train':
    rows_by_task = {
      task: list(dict.fromkeys(part)) for task, part in rows_by_task.items()
    }
  return {task: _thin_out(part, most) for task, part in rows_by_task.items()}


def raw_rows(
  path: str, oddities: Oddities | None = None
) -> Iterator[Mapping[str, Any]]:
  """Yields the rows of a data set, before a prompt renders them.

  Args:
    path: a file of JSON lines, or `tfds:NAME:VERSION#SPLIT` for a data set of
      tensorflow-datasets that has been prepared, such as
      `tfds:super_glue/cb:1.0.2#train`.
    oddities: counts lines with faults, which are left out; None refuses them.

  Yields:
    The rows, without the fields whose value is NaN.

  Raises:
    UserError: the file or data set does not exist; or, without `oddities`, a
      line is not a JSON object or has a malformed text.
  """

  def report(number: int, reason: str) -> None:
    text = f'{path}:{number}: {reason}'
    if oddities is None:
      raise UserError(text)
    oddities.add('rows left out', text)

  if path.startswith(_TFDS):
    items: Iterable[tuple[int, Mapping[str, Any]]] = _tfds_rows(path)
  else:
    items = text_files.json_lines(path, report=report)
  for number, item in items:
    values = {}
    try:
      for field, value in item.items():
        values[texts.text(field)] = texts.plain_value(value)
    except MalformedError as error:
      report(number, f'{list(item)[len(values)]!r} {error}.')
      continue
    yield {
      field: value
      for field, value in values.items()
      if value is None or not texts.is_missing(value)
    }


def _files(folder: str, split: str) -> dict[str, list[pathlib.Path]]:
  """Maps each prompt to its files, and '' to the files of several prompts."""
  root = pathlib.Path(folder).expanduser()
  others = tuple(f'.{other}.' for other in _SPLITS if other != split)
  files = {
    '': [
      path
      for path in sorted(root.glob('*.jsonl*'))
      if path.name not in _LISTS and not any(x in path.name for x in others)
    ]
  }
  for pattern in (f'*/{split}-*.parquet', f'*/{split}.tfrecord*'):
    for path in sorted(root.glob(pattern)):
      # The tasks that score options have one row per option, and are left out.
      if not path.parent.name.endswith(SCORE_EVAL):
        files.setdefault(path.parent.name, []).append(path)
  files = {prompt: paths for prompt, paths in files.items() if paths}
  if not files:
    raise UserError(
      f'{folder}: no files of P3 for {split}: *.jsonl, *.{split}.jsonl, '
      f'<prompt>/{split}-*.parquet or <prompt>/{split}.tfrecord-*.'
    )
  return files


def _thin_out(task_rows: list[Row], most: int | None) -> list[Row]:
  return task_rows[:: math.ceil(len(task_rows) / most)] if most else task_rows


def _tfds_rows(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
  name, _, split = path.removeprefix(_TFDS).partition('#')
  try:
    # seqio's loader knows --tfds_data_dir.
    dataset = seqio.LazyTfdsLoader(name).load(split, shuffle_files=False)
  except Exception as error:  # whatever a builder and a download raise
    reason = str(error).strip().split('\n')[0]
    raise UserError(
      f'{path}: tensorflow-datasets does not give it ({reason}): write '
      'tfds:NAME:VERSION#SPLIT, such as tfds:super_glue/cb:1.0.2#train, and '
      'give --tfds_data_dir or TFDS_DATA_DIR, a folder where it was prepared '
      'with `tfds build`.'
    ) from error
  yield from enumerate(dataset.as_numpy_iterator(), start=1)
