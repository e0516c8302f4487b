"""Reads P3: rendered rows, T0's table of data sets, and raw rows.

A folder may hold rendered rows in any of these layouts, and in several at once:

    <any>.jsonl[.gz]                 rows of many prompts, of all splits
    <any>.<split>.jsonl[.gz]         rows of many prompts
    <prompt>/<split>-*.parquet       as on the Hugging Face hub today
    <prompt>/<split>.tfrecord-*      as P3 was published, and as seqio caches it

The fields are `task` (in JSON lines only), `inputs_pretokenized`,
`targets_pretokenized` and, if a prompt has options, `answer_choices`.
"""

import json
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import seqio

from hypertuning.data import row_files
from hypertuning.data.fewshot import SCORE_EVAL
from hypertuning.data.rows import Row
from hypertuning.errors import UserError

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
  for number, item in _json_lines(path):
    try:
      if item['do_train'] != kind:
        continue
      each = rate(item['train_size'], item['num_prompts'])
      rates |= dict.fromkeys(item['prompts'], each)
    except (KeyError, TypeError) as error:
      raise UserError(f'{path}:{number}: no row of the table ({error}).') from (
        error
      )
  return {name: x for name, x in rates.items() if name not in BLACK_LIST}


def rows(folder: str, split: str, most: int | None) -> dict[str, list[Row]]:
  """Reads the different rows of every prompt in a folder.

  Args:
    folder: folder in the layouts that the module's docstring shows.
    split: name of the split, `train` or `validation`.
    most: greatest number of rows per prompt; None reads all. If there are more,
      rows at equal distances are read.

  Returns:
    A dict from the name of each prompt to its rows.

  Raises:
    UserError: the folder has no files of the split, or a row is wrong.
  """
  rows_by_task: dict[str, dict[tuple[str, str], Row]] = {}
  for prompt, paths in _files(folder, split).items():
    each = most and math.ceil(most / len(paths)) if prompt else None
    for path in paths:
      tasks = row_files.read(str(path), FIELDS, True, prompt or None, each)
      for task, part in tasks.items():
        different_rows = rows_by_task.setdefault(task, {})
        for row in part.rows:
          different_rows.setdefault((row.inputs, row.targets), row)
  return {
    task: _thin_out(list(x.values()), most) for task, x in rows_by_task.items()
  }


def raw_rows(path: str) -> Iterator[Mapping[str, Any]]:
  """Yields the rows of a data set, before a prompt renders them.

  Args:
    path: path of a file of JSON lines; or `tfds:NAME#SPLIT`, such as
      `tfds:super_glue/cb#train`, for a data set that tensorflow-datasets has
      prepared.

  Raises:
    UserError: the file or data set does not exist, or a line is not JSON.
  """
  if path.startswith(_TFDS):
    yield from _tfds_rows(path)
  else:
    for _, item in _json_lines(path):
      yield item


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


def _json_lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
  try:
    text = pathlib.Path(path).expanduser().read_text('utf-8')
  except OSError as error:
    raise UserError(f'{path}: no such file.') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{path}: not UTF-8 at byte {error.start}.') from error
  for number, line in enumerate(text.split('\n'), start=1):
    if not line.strip():
      continue
    try:
      item = json.loads(line)
    except json.JSONDecodeError as error:
      raise UserError(f'{path}:{number}: not JSON ({error.msg}).') from error
    if not isinstance(item, dict):
      raise UserError(f'{path}:{number}: not an object: write {{...}}.')
    yield number, item


def _tfds_rows(path: str) -> Iterator[Mapping[str, Any]]:
  name, _, split = path.removeprefix(_TFDS).partition('#')
  try:
    # seqio's loader knows --tfds_data_dir.
    dataset = seqio.LazyTfdsLoader(name).load(split, shuffle_files=False)
  except Exception as error:  # whatever a builder and a download raise
    reason = str(error).strip().split('\n')[0]
    raise UserError(
      f'{path}: tensorflow-datasets does not give it ({reason}): write '
      'tfds:NAME#SPLIT, and give --tfds_data_dir, a folder where it was '
      'prepared with `tfds build`.'
    ) from error
  for row in dataset.as_numpy_iterator():
    yield {field: _plain(value) for field, value in row.items()}


def _plain(value: Any) -> Any:
  if isinstance(value, bytes):
    return value.decode('utf-8')
  if isinstance(value, dict):
    return {name: _plain(x) for name, x in value.items()}
  if isinstance(value, np.ndarray):
    return [_plain(x) for x in value.tolist()]
  return value.item() if isinstance(value, np.generic) else value
