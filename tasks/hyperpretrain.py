"""Hyperpretraining on text (CACLM): C4, a folder, the interpreter's own docs.

Every function registers a task and returns its name, so that a gin file can say

    MIXTURE_OR_TASK_NAME = @hyperpretrain.text_folder()
    hyperpretrain.text_folder.folder = '/path/to/texts'
    hyperpretrain.text_folder.lengths = @caclm.SegmentLengths()
    caclm.SegmentLengths.window = 512

Registered at import, with default lengths: `hyperpretrain_python`,
`hyperpretrain_c4`, and to pretrain a downstream model without phi
`python_docs_lm` and `downstream_toy`, its mixture with episodes.
"""

import functools
from collections.abc import Callable, Sequence

import seqio
import tensorflow as tf

from hypertuning.data import (
  caclm,
  corpus,
  features,
  registry,
  row_files,
  vocabularies,
)
from hypertuning.data.caclm import SegmentLengths
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Name, Path, ShareBelowOne
from hypertuning.tasks import toy  # type: ignore[attr-defined]  # by __path__

# Windows of documentation in bytes; T5's vocabulary would need a file. B is
# short: what comes next then hangs on A and D, which phi alone can tell.
BYTE_LENGTHS = SegmentLengths(window=40, b=(1, 4), c=(2, 6))
# A and B are one input here: no longer than the toy episodes with their shots.
LM_LENGTHS = SegmentLengths(window=42, b=(1, 4), c=(2, 6))

Preprocessor = Callable[..., tf.data.Dataset]


@takes_text_format
def python_docs(
  name: Name = 'hyperpretrain_python',
  lengths: SegmentLengths = BYTE_LENGTHS,
  text_format: TextFormat | None = None,
) -> str:
  """Hyperpretraining on the interpreter's documentation; returns the name.

  Args:
    name: name of the task.
    lengths: length laws of the segments.
    text_format: layout of the text, T5's over bytes by default.
  """
  segment = functools.partial(caclm.caclm, lengths=lengths)
  return _add(name, _documentation(), segment, text_format)


@takes_text_format
def python_docs_lm(
  name: Name = 'python_docs_lm',
  lengths: SegmentLengths = LM_LENGTHS,
  queries: Count = 4,
  text_format: TextFormat | None = None,
) -> str:
  """The same text for pretraining a downstream model; returns the name.

  Args:
    name: name of the task.
    lengths: length laws of the segments.
    queries: number of windows per example.
    text_format: layout of the text, T5's over bytes by default.
  """
  segment = functools.partial(caclm.prefix_lm, lengths=lengths, queries=queries)
  return _add(name, _documentation(), segment, text_format)


@takes_text_format
def text_folder(
  folder: Path,
  name: Name = 'hyperpretrain_text',
  pattern: Name = '**/*.txt',
  lengths: SegmentLengths = BYTE_LENGTHS,
  text_format: TextFormat | None = None,
) -> str:
  """Hyperpretraining on the UTF-8 files below a folder; returns the name.

  Args:
    folder: where the files are; about 5% of them are held out.
    name: name of the task.
    pattern: glob, relative to the folder.
    lengths: length laws of the segments.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: no such folder, no text, a file that is not UTF-8.
  """
  files = {
    split: [str(path) for path in corpus.text_files(folder, split, pattern)]
    for split in corpus.SPLITS
  }
  segment = functools.partial(caclm.caclm, lengths=lengths)
  source = _source(files.__getitem__, read=tf.io.read_file)
  return _add(name, source, segment, text_format)


@takes_text_format
def text_rows(
  train: Path,
  validation: Path,
  name: Name = 'hyperpretrain_rows',
  field: Name = 'text',
  lengths: SegmentLengths = BYTE_LENGTHS,
  text_format: TextFormat | None = None,
) -> str:
  """Hyperpretraining on the rows of two files; returns the name.

  Args:
    train: JSON lines, gzipped or not, see `row_files`.
    validation: the same.
    name: name of the task.
    field: name of the field that holds a row's text.
    lengths: length laws of the segments.
    text_format: layout of the text, T5's over bytes by default.

  Raises:
    UserError: at the first use of a file that cannot be read, or whose rows
      lack the field.
  """
  segment = functools.partial(caclm.caclm, lengths=lengths)
  return _add(name, _rows(train, validation, field), segment, text_format)


@takes_text_format
def text_rows_lm(
  train: Path,
  validation: Path,
  name: Name = 'text_rows_lm',
  field: Name = 'text',
  lengths: SegmentLengths = LM_LENGTHS,
  queries: Count = 4,
  text_format: TextFormat | None = None,
) -> str:
  """The same texts for pretraining a downstream model; returns the name.

  Args:
    train: see `text_rows`.
    validation: see `text_rows`.
    name: name of the task.
    field: see `text_rows`.
    lengths: length laws of the segments.
    queries: number of windows per example.
    text_format: layout of the text, T5's over bytes by default.
  """
  segment = functools.partial(caclm.prefix_lm, lengths=lengths, queries=queries)
  return _add(name, _rows(train, validation, field), segment, text_format)


@takes_text_format
def c4(
  name: Name = 'hyperpretrain_c4',
  tfds_name: Name = 'c4/en:3.1.0',
  lengths: SegmentLengths | None = None,
  text_format: TextFormat | None = None,
  parts: Count = 4,
) -> str:
  """Hyperpretraining on C4, prepared by tensorflow-datasets; returns the name.

  Nothing is read before training starts.

  Args:
    name: name of the task.
    tfds_name: name of the data set; the TFDS data folder has to hold it.
    lengths: length laws of the segments; windows of 512 tokens by default.
    text_format: layout of the text, T5's over bytes by default; in gin bind
      %TEXT_FORMAT, the model's own.
    parts: number of parts of a window, see `caclm.caclm`.
  """
  segment = functools.partial(
    caclm.caclm, lengths=lengths or SegmentLengths(), parts=parts
  )
  source = seqio.TfdsDataSource(tfds_name, splits=corpus.SPLITS)
  return _add(name, source, segment, text_format)


def downstream_mixture(
  name: Name = 'downstream_toy',
  episodes: Name = toy.NAME,
  text: Name = 'python_docs_lm',
  text_rate: ShareBelowOne = 0.15,
  zero_shot_rate: ShareBelowOne = 0.05,
) -> str:
  """Registers episodes mixed with text, for the downstream model.

  Args:
    name: name of the mixture.
    episodes: a mixture of `toy.episodes`; most are read with their shots.
    text: a task of prefix language modelling.
    text_rate: share of the text among the examples.
    zero_shot_rate: share of the episodes without shots.

  Returns:
    The mixture's name.

  Raises:
    UserError: the rates are not shares.
  """
  rates = {
    text: text_rate,
    episodes: zero_shot_rate,
    f'{episodes}_in_context': 1 - text_rate - zero_shot_rate,
  }
  if min(rates.values()) <= 0:
    raise UserError(
      f'hyperpretrain.downstream_mixture: text_rate = {text_rate} and '
      f'zero_shot_rate = {zero_shot_rate}: give shares above 0 that leave some '
      'for episodes with shots.'
    )
  return registry.add_mixture(name, rates)


def _documentation() -> seqio.DataSource:
  return _source(corpus.python_documentation)


def _rows(train: str, validation: str, field: str) -> seqio.DataSource:
  files = {'train': train, 'validation': validation}

  @functools.cache
  def texts(split: str) -> tuple[str, ...]:
    fields = {'inputs': field, 'targets': field}
    tasks = row_files.read(files[split], fields, name='text')
    return tuple(row.inputs for row in tasks['text'].rows)

  return _source(texts)


def _source(
  items: Callable[[str], Sequence[str]],
  read: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> seqio.DataSource:
  """Texts read from the items of a split, which are listed when first used."""

  def dataset(
    split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    listed = tf.constant(list(items(split)))
    # Numbers are shuffled: a saved position holds them, and not the texts.
    numbers = tf.data.Dataset.range(len(listed))
    if shuffle_files:
      numbers = numbers.shuffle(len(listed), seed=seed)
    return numbers.map(lambda i: {'text': read(listed[i])})

  return seqio.FunctionDataSource(dataset, splits=corpus.SPLITS)


def _add(
  name: str,
  source: seqio.DataSource,
  segment: Preprocessor,
  text_format: TextFormat | None,
) -> str:
  text_format = check(text_format or vocabularies.byte_format())
  registry.add_task(
    name,
    source=source,
    preprocessors=[
      functools.partial(caclm.encode_text, vocabulary=text_format.vocabulary),
      segment,
    ],
    output_features=features.output_features(text_format),
    metric_fns=[],
  )
  return name


python_docs()
python_docs_lm()
c4()
downstream_mixture()
