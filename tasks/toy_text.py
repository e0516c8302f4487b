"""Texts of the default tasks, to pretrain a decoder-only model on every token.

A text is either the rows of one task of `toy`, one after the other, or a random
string that is repeated. A small decoder-only model that reads rows alone stays
for very many steps at guessing among the labels that it has seen. To go on with
a random string, it must find the place where its last token stood before and
copy what followed; the same circuit then answers from rows.

    MIXTURE_OR_TASK_NAME = @toy_text.texts()
    toy_text.texts.text_format = %TEXT_FORMAT
"""

import functools
import string
from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from hypertuning.data import (
  features,
  registry,
  rows,
  seqio_vocabularies,
  vocabularies,
)
from hypertuning.data import text_format as text_format_lib
from hypertuning.data.text_format import Ids, TextFormat, check
from hypertuning.ranges import Count, Name, Natural, Share
from hypertuning.tasks import toy  # type: ignore[attr-defined]  # by __path__

# The strings have other characters than the symbols of the rows, too: what is
# learned of them is to copy, and not which character follows which.
CHARACTERS = string.ascii_letters + string.digits
_SPLITS = ('train', 'validation')
# Symbols take longer to learn than functions of strings.
_SYMBOL_SHARE = 0.75


def texts(
  name: Name = 'toy_text',
  text_format: TextFormat | None = None,
  length: Count = 60,
  repeated: Share = 0.35,
  count: Count = 20_000,
  seed: Natural = 0,
) -> str:
  """Registers the texts as a task, and returns its name.

  Args:
    name: name of the task.
    text_format: format of the rows; `decoder_format` over bytes by default.
    length: number of tokens in a text, after those that begin it.
    repeated: share of the texts that are a repeated random string.
    count: number of texts of the split `train`; `validation` has a twentieth.
    seed: seed of the texts.

  Raises:
    UserError: `text_format` is no `TextFormat`.
  """
  form = check(
    text_format
    or text_format_lib.decoder_format(vocabularies.byte_vocabulary())
  )
  ids = functools.partial(_token_ids, form, length, repeated, count, seed)

  def dataset(
    split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    all_ids = tf.constant(ids(split))
    numbers = tf.data.Dataset.range(len(all_ids))
    if shuffle_files:
      numbers = numbers.shuffle(len(all_ids), seed=seed)
    start = seqio_vocabularies.constant(form.start)
    return numbers.map(
      lambda number: {
        'hyper_inputs': start,
        'inputs': start[None],
        'targets': all_ids[number][None],
      }
    )

  registry.add_task(
    name,
    source=seqio.FunctionDataSource(dataset, splits=_SPLITS),
    preprocessors=[],
    output_features=features.output_features(form),
    metric_fns=[],
  )
  return name


def _token_ids(
  form: TextFormat,
  length: int,
  repeated: float,
  count: int,
  seed: int,
  split: str,
) -> np.ndarray:
  """The texts of a split, int32 `[texts, length]`, without what begins them."""
  rng = np.random.default_rng([seed, _SPLITS.index(split)])
  families = [
    [_rows_by_target(form, task) for task in family(split).values()]
    for family in (toy.symbol_tables, toy.string_functions)
  ]
  texts = np.empty(
    (count if split == 'train' else max(count // 20, 1), length), np.int32
  )
  for text in texts:
    if rng.random() < repeated:
      text[:] = _repeated_string(form, length, rng)
    else:
      tasks = families[int(rng.random() >= _SYMBOL_SHARE)]
      task = tasks[int(rng.integers(len(tasks)))]
      text[:] = _rows_of_a_task(task, length, rng)
  return texts


def _repeated_string(
  form: TextFormat, length: int, rng: np.random.Generator
) -> np.ndarray:
  """A string that stands two or three times in a text, int32 `[length]`."""
  size = int(rng.integers(length // 3, length // 2))
  characters = rng.integers(len(CHARACTERS), size=size)
  text = ''.join(CHARACTERS[i] for i in characters)
  ids = form.vocabulary.encode(text)
  return np.resize(np.array(ids, np.int32), length)


def _rows_of_a_task(
  rows_by_target: Sequence[Sequence[Ids]], length: int, rng: np.random.Generator
) -> np.ndarray:
  """Rows of a task, int32 `[length]`; the last one may be cut.

  As with balanced shots, no target comes again before all have come: what a row
  asks for the second time has stood in the text.
  """
  ids: list[int] = []
  while len(ids) < length:
    for i in rng.permutation(len(rows_by_target)).tolist():
      rows_of_target = rows_by_target[i]
      ids += rows_of_target[int(rng.integers(len(rows_of_target)))]
  return np.array(ids[:length], np.int32)


def _rows_by_target(
  form: TextFormat, task: rows.RowTask | Sequence[tuple[str, str]]
) -> list[list[Ids]]:
  """Token ids of the rows of a task, those of one target together."""
  encode = functools.cache(form.encode)
  groups: dict[str, list[Ids]] = {}
  for row in rows.as_task(task).rows:
    groups.setdefault(row.targets, []).append(
      (
        *form.inputs,
        *encode(row.inputs, 'inputs'),
        *form.targets,
        *encode(row.targets, 'targets'),
        *(form.between or form.target_end),
      )
    )
  return list(groups.values())


texts()
