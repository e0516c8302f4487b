"""Recorded episodes: batches of a task, kept without TensorFlow or seqio.

A recording is a folder. `recording.json` says what was recorded, and names the
parts; it is written last, so that a folder without it is no recording. A part
`episodes_00000.npz` has, for each feature of the model, the ids of all its
texts one after the other (without padding, in 16 bits where they fit), and the
number of ids of each text.

A recording for evaluation has its questions as well, see `recorded_questions`.
That of a mixture has its episodes in the order of the mixture, as the held-out
loss of a training reads them, and one folder per task, which is a recording of
its own.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from hypertuning import files, text_files
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError, one_line

HEADER = 'recording.json'
_VERSION = 1
# What is computed from the ids when they are read.
WEIGHTS = 'target_weights'
# Texts whose ids tell vocabularies apart.
_PROBES = ('The quick brown fox, 3.14159!', ' naïve\n\n\tΩ 東京 🙂', 'x -> y')


@dataclasses.dataclass(frozen=True)
class Measures:
  """What an evaluation needs beside the episodes.

  Functions are named `module:function`.

  Attributes:
    questions: SHA-256 of the file of questions.
    postprocess: name of seqio's postprocessor; None for none.
    predict_metrics: names of the metrics of texts.
    score_metrics: names of the metrics of scores.
  """

  questions: str
  postprocess: str | None
  predict_metrics: Sequence[str]
  score_metrics: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Header:
  """What a recording holds.

  Attributes:
    task: name of the seqio task or mixture.
    split: its split.
    seed: seed of the drawing.
    endless: whether the episodes are those of training, drawn and shuffled; if
      not, each episode of the split was recorded once.
    lengths: room for the texts of an episode, as TASK_FEATURE_LENGTHS.
    vocabulary: the text format, in words.
    fingerprint: digest of the text format, see `fingerprint`.
    shapes: shape of each feature of one episode.
    episodes: number of episodes.
    parts: name of each part, its number of episodes and its SHA-256.
    members: names of the tasks of a mixture, which are also the names of the
      folders with their own recordings. Empty for one task, and for episodes of
      training.
    measures: what an evaluation needs; None for a mixture, and for episodes of
      training.
  """

  task: str
  split: str
  seed: int
  endless: bool
  lengths: Mapping[str, Any]
  vocabulary: str
  fingerprint: str
  shapes: Mapping[str, Sequence[int]]
  episodes: int
  parts: Sequence[tuple[str, int, str]]
  members: Sequence[str] = ()
  measures: Measures | None = None

  @property
  def digest(self) -> str:
    """A digest of everything that the recording holds."""
    return hashlib.sha256(as_json(self).encode()).hexdigest()


def as_json(header: Header) -> str:
  """The content of the file of a header."""
  fields = {'version': _VERSION, **dataclasses.asdict(header)}
  return json.dumps(fields, indent=1) + '\n'


def fingerprint(form: TextFormat) -> str:
  """A digest of a text format that equal formats share in every process.

  Vocabularies of other classes cannot be compared as files. They count as equal
  if they have the same size and EOS, and give the same ids for a few texts.
  """
  vocabulary = form.vocabulary
  fields = {
    field.name: getattr(form, field.name)
    for field in dataclasses.fields(form)
    if field.name not in ('vocabulary', 'names')
  }
  probes = [list(map(int, vocabulary.encode(text))) for text in _PROBES]
  value = [fields, vocabulary.size, vocabulary.eos_id, probes]
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def check_lengths(
  header: Header, lengths: Mapping[str, Any] | None, place: str
) -> None:
  """Refuses a recording with other lengths than are required.

  Args:
    header: header of the recording.
    lengths: TASK_FEATURE_LENGTHS that it must have; None accepts any.
    place: the binding and the path of the recording, for the error message.

  Raises:
    UserError: the lengths differ.
  """
  if lengths is None:
    return
  if {name: _plain(x) for name, x in lengths.items()} != header.lengths:
    raise UserError(
      f'{place}: was recorded with the lengths {header.lengths}, but '
      f'TASK_FEATURE_LENGTHS = {dict(lengths)}: give the same, or record again.'
    )


def check_text(header: Header, form: TextFormat, place: str) -> None:
  """Refuses a recording whose text has another format than the model's.

  Args:
    header: header of the recording.
    form: format of the model's text.
    place: the binding and the path of the recording, for the error message.

  Raises:
    UserError: the formats differ.
  """
  if header.fingerprint != fingerprint(form):
    raise UserError(
      f'{place}: its text is in {header.vocabulary}, but TEXT_FORMAT of the '
      f'model is {form}, or has other ids.'
    )


class Recording:
  """A recording on a disk or in a bucket, opened at any episode.

  Attributes:
    folder: its folder.
    header: description of its episodes.
  """

  def __init__(self, path: str, binding: str) -> None:
    """Reads the header.

    Args:
      path: folder of the recording.
      binding: name of the gin binding that gives the path, for error messages.

    Raises:
      UserError: there is no recording, or it is damaged or of another version.
    """
    self.folder = files.folder(path, binding)
    file = self.folder / HEADER
    if not file.exists():
      raise UserError(
        f'{binding} = {path!r}: no recording there, {HEADER} is missing; '
        '`python -m hypertuning.record` makes one.'
      )
    fields = text_files.read_json(file)
    version = fields.pop('version', None)
    if version != _VERSION:
      raise UserError(
        f'{file}: is of version {version}, and not of {_VERSION}.'
      )
    try:
      self.header = Header(
        **{
          **fields,
          'lengths': {k: _plain(x) for k, x in fields['lengths'].items()},
          'parts': [(name, n, digest) for name, n, digest in fields['parts']],
          'measures': fields['measures'] and Measures(**fields['measures']),
        }
      )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise UserError(
        f'{file}: is damaged ({one_line(error)}); record it again.'
      ) from error

  def batches(self, first: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields consecutive episodes as batches; the last may be smaller.

    Args:
      first: number of the first episode.
      size: number of episodes per batch.

    Raises:
      UserError: a part is missing or damaged.
    """
    rest: dict[str, np.ndarray] = {}
    start = 0
    for name, count, digest in self.header.parts:
      start, skipped = start + count, max(first - start, 0)
      if skipped >= count:
        continue
      part = {
        key: value[skipped:]
        for key, value in self._padded(name, digest).items()
      }
      rest = {
        key: np.concatenate([rest[key], value]) if rest else value
        for key, value in part.items()
      }
      while len(next(iter(rest.values()))) >= size:
        yield _with_weights({key: x[:size] for key, x in rest.items()})
        rest = {key: x[size:] for key, x in rest.items()}
    if len(next(iter(rest.values()), ())):
      yield _with_weights(rest)

  def ragged(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """All episodes of the recording, without padding.

    Returns:
      For each feature, the ids of all its texts one after the other, and the
      number of ids of each text `[texts]`; uint16 or uint32.

    Raises:
      UserError: a part is missing or damaged.
    """
    parts = [
      self._arrays(name, digest) for name, _, digest in self.header.parts
    ]
    ids, sizes = (
      {
        key: np.concatenate([part[f'{key}.{kind}'] for part in parts])
        for key in self.header.shapes
      }
      for kind in ('ids', 'sizes')
    )
    return {key: (ids[key], sizes[key]) for key in self.header.shapes}

  def read(self, name: str, digest: str) -> bytes:
    """The content of a file of the recording.

    Args:
      name: name of the file.
      digest: its SHA-256.

    Raises:
      UserError: the file is missing or damaged.
    """
    path = self.folder / name
    try:
      contents = epath.Path(path).read_bytes()
    except OSError as error:
      raise UserError(
        f'{path}: cannot be read ({files.reason(error)}).'
      ) from error
    if digest_of(contents) != digest:
      raise UserError(f'{path}: is damaged; record it again.')
    return contents

  def _arrays(self, name: str, digest: str) -> dict[str, np.ndarray]:
    """The arrays of a part, as they are on the disk."""
    with np.load(io.BytesIO(self.read(name, digest))) as arrays:
      return dict(arrays)

  def _padded(self, name: str, digest: str) -> dict[str, np.ndarray]:
    """The features of a part, int32, padded."""
    arrays = self._arrays(name, digest)
    return {
      key: _padded(arrays[f'{key}.ids'], arrays[f'{key}.sizes'], shape)
      for key, shape in self.header.shapes.items()
    }


def _plain(value: Any) -> Any:
  return tuple(value) if isinstance(value, (list, tuple)) else value


def digest_of(contents: bytes) -> str:
  """SHA-256 of the content of a file, in hexadecimal digits."""
  return hashlib.sha256(contents).hexdigest()


def mask(sizes: np.ndarray, length: int) -> np.ndarray:
  """Where texts have ids.

  Args:
    sizes: number of ids of each text, int `[texts]`.
    length: number of ids that a text has room for.

  Returns:
    bool `[texts, length]`.
  """
  return np.arange(length) < sizes[:, None]


def _padded(
  ids: np.ndarray, sizes: np.ndarray, shape: Sequence[int]
) -> np.ndarray:
  """Texts one after the other as int32 `[episodes, *shape]`."""
  texts = np.zeros((len(sizes), shape[-1]), np.int32)
  texts[mask(sizes.astype(np.int64), shape[-1])] = ids
  return texts.reshape(-1, *shape)


def _with_weights(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds the weights of the targets: 1 where there is an id."""
  weights = (batch['target_tokens'] > 0).astype(np.int32)
  return {**batch, WEIGHTS: weights}
