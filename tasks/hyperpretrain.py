"""Hyperpretraining on text (CACLM): C4, a folder, or the interpreter's docs.

Every function registers a task and returns its name, so that gin files can have

    MIXTURE_OR_TASK_NAME = @hyperpretrain.text_folder()
    hyperpretrain.text_folder.folder = '/path/to/texts'
    hyperpretrain.text_folder.lengths = @caclm.SegmentLengths()
    caclm.SegmentLengths.window = 512

With `parts = 2`, the hypermodel reads the first part of a text, and the
downstream model predicts the second; CACLM has 4 parts.

When the module is imported, it registers these with default lengths:
`hyperpretrain_python` and `hyperpretrain_c4`; and to pretrain a downstream
model without phi, `python_docs_lm`, and `downstream_toy`, which mixes it with
episodes.
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
  seqio_vocabularies,
  vocabularies,
)
from hypertuning.data.caclm import SegmentLengths
from hypertuning.data.oddities import Oddities
from hypertuning.data.text_format import TextFormat, check
from hypertuning.errors import UserError
from hypertuning.old_names import takes_text_format
from hypertuning.ranges import Count, Name, Path, ShareBelowOne
from hypertuning.tasks import toy  # type: ignore[attr-defined]  # by __path__

# Lengths of windows of documentation, in bytes: the default tasks need no file
# of a vocabulary. B is short, so that C depends on A and D, which only phi can
# show.
BYTE_LENGTHS = SegmentLengths(window=40, b=(1, 4), c=(2, 6))
# A and B are one input here, which is no longer than that of a toy episode with
# its shots.
LM_LENGTHS = SegmentLengths(window=42, b=(1, 4), c=(2, 6))

Preprocessor = Callable[..., tf.data.Dataset]


@takes_text_format
def python_docs(
  name: Name = 'hyperpretrain_python',
  lengths: SegmentLengths = BYTE_LENGTHS,
  text_format: TextFormat | None = None,
  parts: Count = 4,
) -> str:
  """Registers hyperpretraining on the interpreter's documentation.

  Args:
    name: name of the task.
    lengths: distributions of the lengths of the parts.
    text_format: format of the text; T5's over bytes by default.
    parts: number of parts in a window, see `caclm.caclm`.

  Returns:
    The name.
  """
  segment = functools.partial(caclm.caclm, lengths=lengths, parts=parts)
  return _add(name, _documentation(), segment, text_format)


@takes_text_format
def python_docs_lm(
  name: Name = 'python_docs_lm',
  lengths: SegmentLengths = LM_LENGTHS,
  queries: Count = 4,
  text_format: TextFormat | None = None,
) -> str:
  """Registers the documentation for pretraining a downstream model.

  Args:
    name: name of the task.
    lengths: distributions of the lengths of the parts.
    queries: number of windows per example.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name.
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
  parts: Count = 4,
) -> str:
  """Registers hyperpretraining on the UTF-8 files in a folder.

  Args:
    folder: folder of the files, about 5% of which are held out.
    name: name of the task.
    pattern: glob that the files match, relative to the folder.
    lengths: distributions of the lengths of the parts.
    text_format: format of the text; T5's over bytes by default.
    parts: number of parts in a window, see `caclm.caclm`.

  Returns:
    The name.

  Raises:
    UserError: there is no such folder, it has fewer than two texts, or a file
      is not UTF-8.
  """
  files = {
    split: [str(path) for path in corpus.text_files(folder, split, pattern)]
    for split in corpus.SPLITS
  }
  segment = functools.partial(caclm.caclm, lengths=lengths, parts=parts)
  source = _source(files.__getitem__, read_text=_read_file)
  return _add(name, source, segment, text_format)


@takes_text_format
def text_rows(
  train: Path,
  validation: Path,
  name: Name = 'hyperpretrain_rows',
  field: Name = 'text',
  lengths: SegmentLengths = BYTE_LENGTHS,
  text_format: TextFormat | None = None,
  parts: Count = 4,
) -> str:
  """Registers hyperpretraining on the rows of two files.

  A file is only read when its split is first used.

  Args:
    train: path of the file of the split `train`, in a form that `row_files`
      reads.
    validation: path of the file of the split `validation`, in such a form too.
    name: name of the task.
    field: name of the field that holds a row's text.
    lengths: distributions of the lengths of the parts.
    text_format: format of the text; T5's over bytes by default.
    parts: number of parts in a window, see `caclm.caclm`.

  Returns:
    The name.

  Raises:
    UserError: `text_format` is no `TextFormat`.
  """
  segment = functools.partial(caclm.caclm, lengths=lengths, parts=parts)
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
  """Registers the rows of two files for pretraining a downstream model.

  Args:
    train: path of the file of the split `train`, see `text_rows`.
    validation: path of the file of the split `validation`, see `text_rows`.
    name: name of the task.
    field: name of the field that holds a row's text.
    lengths: distributions of the lengths of the parts.
    queries: number of windows per example.
    text_format: format of the text; T5's over bytes by default.

  Returns:
    The name.
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
  """Registers hyperpretraining on C4, which tensorflow-datasets has prepared.

  No text is read before training starts.

  Args:
    name: name of the task.
    tfds_name: name of the data set in the data folder of tensorflow-datasets.
    lengths: distributions of the lengths of the parts; windows have 512 tokens
      by default.
    text_format: format of the text; T5's over bytes by default. In gin, bind
      %TEXT_FORMAT, the format of the model.
    parts: number of parts in a window, see `caclm.caclm`.

  Returns:
    The name.
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
  """Registers a mixture of episodes and text, to pretrain a downstream model.

  Args:
    name: name of the mixture.
    episodes: name of a mixture that `toy.episodes` has registered; most of its
      episodes show their shots in context.
    text: name of a task of prefix language modelling.
    text_rate: share of the text among all examples.
    zero_shot_rate: share of episodes without shots among all examples.

  Returns:
    The name of the mixture.

  Raises:
    UserError: the rates are no shares above 0, or leave nothing for episodes
      with shots.
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
    oddities = Oddities(f'{field!r}')
    tasks = row_files.read(files[split], fields, name='text', oddities=oddities)
    oddities.say()
    return tuple(row.inputs for task in tasks.values() for row in task.rows)

  return _source(texts)


def _source(
  items: Callable[[str], Sequence[str]],
  read_text: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
) -> seqio.DataSource:
  """A source that reads each text from an item of a split.

  Args:
    items: function from the name of a split to its items, which is called when
      the split is first used.
    read_text: function from an item to its text.
  """

  def dataset(
    split: str, shuffle_files: bool, seed: int | None = None
  ) -> tf.data.Dataset:
    item_names = tf.constant(list(items(split)))
    # The numbers of items are shuffled, and not their texts: t5x saves the
    # content of a shuffle buffer in its checkpoints.
    numbers = tf.data.Dataset.range(len(item_names))
    if shuffle_files:
      numbers = numbers.shuffle(len(item_names), seed=seed)
    return numbers.map(lambda i: {'text': read_text(item_names[i])})

  return seqio.FunctionDataSource(dataset, splits=corpus.SPLITS)


def _read_file(path: tf.Tensor) -> tf.Tensor:
  """The text of a file, without a byte order mark."""
  return tf.strings.regex_replace(tf.io.read_file(path), '^\ufeff', '')


def _add(
  name: str,
  source: seqio.DataSource,
  segment: Preprocessor,
  text_format: TextFormat | None,
) -> str:
  text_format = check(text_format or vocabularies.byte_format())
  encode = functools.partial(
    caclm.encode_text, vocabulary=text_format.vocabulary
  )
  # t5x needs a cache of these ids, as it cannot save its place in a pipeline
  # that runs Python. The number of this step is part of all seeds behind it: it
  # must not stand in other tasks.
  cache = (
    [seqio.CacheDatasetPlaceholder()]
    if seqio_vocabularies.runs_python(text_format.vocabulary)
    else []
  )
  registry.add_task(
    name,
    source=source,
    preprocessors=[encode, *cache, segment],
    output_features=features.output_features(text_format),
    metric_fns=[],
  )
  return name


python_docs()
python_docs_lm()
c4()
downstream_mixture()
