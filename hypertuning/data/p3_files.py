"""Reads P3 in the forms in which it is stored: rows, T0's table, raw data.

A folder may hold rendered rows in any of these layouts, and mix them:

    <any>.jsonl[.gz]                 rows of many prompts, of all splits
    <any>.<split>.jsonl[.gz]         rows of many prompts
    <prompt>/<split>-*.parquet       as on the Hugging Face hub today
    <prompt>/<split>.tfrecord-*      as P3 was published, and as seqio caches it

with the fields `task` (JSON lines only), `inputs_pretokenized`,
`targets_pretokenized` and, where a prompt has options, `answer_choices`.
"""

import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import seqio

from hypertuning import text_files
from hypertuning.data import row_files, texts
from hypertuning.data.fewshot import SCORE_EVAL
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

  T0's code divides the cap among the prompts of a data set, but not the size of
  a data set that is below the cap. The same is done here.

  Args:
    train_size: number of training rows of the data set.
    prompts: number of prompts over the data set.
    cap: greatest number of rows that a data set may count as.
  """
  return cap // prompts if train_size > cap else train_size


def read_table(path: str, kind: str = 'BASE') -> dict[str, int]:
  """Rates of the prompts of T0's training mixture.

  Args:
    path: JSON lines, one per data set, with `do_train`, `train_size` (rows),
      `num_prompts` and `prompts`.
    kind: value of `do_train` to take: `BASE` for T0, `GPT_EVAL` for what T0+
      adds, `SGLUE` for what T0++ adds.

  Returns:
    Name of each prompt to its rate.

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
      each = rate(size, count)
      rates |= {texts.text(prompt): each for prompt in prompts}
    except (KeyError, TypeError, MalformedError) as error:
      raise UserError(
        f'{path}:{number}: no row of the table ({error!r}).'
      ) from error
  return {name: x for name, x in rates.items() if name not in BLACK_LIST}


def rows(folder: str, split: str, most: int | None) -> dict[str, list[Row]]:
  """Rows of every prompt of a folder, without repetitions.

  Args:
    folder: a folder in one of the layouts above.
    split: `train` or `validation`.
    most: greatest number of rows per prompt. Where there are more, rows at
      equal distances are taken.

  Returns:
    Name of each prompt to its rows.

  Raises:
    UserError: the folder has no files of the split, or a row is wrong.
  """
  found: dict[str, dict[tuple[str, str], Row]] = {}
  for prompt, paths in _files(folder, split).items():
    each = most and math.ceil(most / len(paths)) if prompt else None
    for path in paths:
      read = row_files.read(str(path), FIELDS, True, prompt or None, each)
      for task, part in read.items():
        kept = found.setdefault(task, {})
        for row in part.rows:
          kept.setdefault((row.inputs, row.targets), row)
  return {task: _thinned(list(x.values()), most) for task, x in found.items()}


def raw_rows(path: str) -> Iterator[Mapping[str, Any]]:
  """Rows of a data set, before a prompt renders them.

  Args:
    path: a file of JSON lines, or `tfds:NAME#SPLIT` for a data set of
      tensorflow-datasets that has been prepared, such as
      `tfds:super_glue/cb#train`.

  Raises:
    UserError: the file or data set does not exist, or a line is not JSON or has
      a text that is none. A field with NaN is left out, as a missing one is.
  """
  if path.startswith(_TFDS):
    items: Iterable[tuple[int, Mapping[str, Any]]] = _tfds_rows(path)
  else:
    items = text_files.json_lines(path)
  for number, item in items:
    values = {
      field: _plain(f'{path}:{number}: {field!r}', value)
      for field, value in item.items()
    }
    yield {
      field: value
      for field, value in values.items()
      if value is None or not texts.is_missing(value)
    }


def _files(folder: str, split: str) -> dict[str, list[pathlib.Path]]:
  """Name of each prompt to its files; '' to files of several prompts."""
  root = pathlib.Path(folder).expanduser()
  others = tuple(f'.{other}.' for other in _SPLITS if other != split)
  found = {
    '': [
      path
      for path in sorted(root.glob('*.jsonl*'))
      if path.name not in _LISTS and not any(x in path.name for x in others)
    ]
  }
  for pattern in (f'*/{split}-*.parquet', f'*/{split}.tfrecord*'):
    for path in sorted(root.glob(pattern)):
      if not path.parent.name.endswith(SCORE_EVAL):  # a row an option
        found.setdefault(path.parent.name, []).append(path)
  found = {prompt: paths for prompt, paths in found.items() if paths}
  if not found:
    raise UserError(
      f'{folder}: no files of P3 for {split}: *.jsonl, *.{split}.jsonl, '
      f'<prompt>/{split}-*.parquet or <prompt>/{split}.tfrecord-*.'
    )
  return found


def _thinned(found: list[Row], most: int | None) -> list[Row]:
  return found[:: math.ceil(len(found) / most)] if most else found


def _plain(place: str, value: Any) -> Any:
  try:
    return texts.plain(value)
  except MalformedError as error:
    raise UserError(f'{place} {error}.') from error


def _tfds_rows(path: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
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
  yield from enumerate(dataset.as_numpy_iterator(), start=1)
