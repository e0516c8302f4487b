"""Recorded episodes: batches of a task, kept without TensorFlow or seqio.

A recording is a folder. `recording.json` says what was recorded, and names the
parts; it is written last, so that a folder without it is no recording. A part
`episodes_00000.npz` has, for each feature of the model, the ids of all its
texts one after the other (without padding, in 16 bits where they fit), and the
number of ids of each text.
"""

import dataclasses
import hashlib
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
# A part's arrays before compression, so that it is smaller than this.
_PART_BYTES = 60 * 2**20
# What is computed from the ids when they are read.
_WEIGHTS = 'target_weights'
# Texts whose ids tell vocabularies apart.
_PROBES = ('The quick brown fox, 3.14159!', ' naïve\n\n\tΩ 東京 🙂', 'x -> y')
Episode = Mapping[str, np.ndarray]


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

  @property
  def digest(self) -> str:
    """A digest of everything that the recording holds."""
    return hashlib.sha256(_as_json(self).encode()).hexdigest()


def _as_json(header: Header) -> str:
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


class Recorder:
  """Writes episodes into a folder, one part after another."""

  def __init__(self, path: str, lengths: Mapping[str, Any]) -> None:
    """Starts a recording.

    Args:
      path: folder of the recording, which has none yet.
      lengths: TASK_FEATURE_LENGTHS.
    """
    self._folder = files.folder(path)
    self._lengths = lengths
    self._parts: list[tuple[str, int, str]] = []
    self._pending: list[dict[str, np.ndarray]] = []
    self._bytes = 0
    self._shapes: dict[str, Sequence[int]] = {}

  def add(self, episode: Episode) -> None:
    """Takes one episode: features of the model, int32, 0 on padding."""
    arrays = {k: np.asarray(x) for k, x in episode.items() if k != _WEIGHTS}
    self._shapes = {k: list(x.shape) for k, x in arrays.items()}
    self._pending.append(arrays)
    self._bytes += sum(4 * int(np.count_nonzero(x)) for x in arrays.values())
    if self._bytes >= _PART_BYTES:
      self._write_part()

  def close(self, **fields: Any) -> Header:
    """Writes the last part, and the header.

    Args:
      **fields: the fields of the `Header` that the episodes do not say.

    Raises:
      UserError: there is no episode.
    """
    if self._pending:
      self._write_part()
    if not self._parts:
      raise UserError(f'{self._folder}: there are no episodes to record.')
    header = Header(
      lengths=self._lengths,
      shapes=self._shapes,
      episodes=sum(count for _, count, _ in self._parts),
      parts=self._parts,
      **fields,
    )
    files.write_text(self._folder, HEADER, _as_json(header))
    return header

  def _write_part(self) -> None:
    arrays: dict[str, Any] = {}
    for name in self._pending[0]:
      texts = np.concatenate(
        [x[name].reshape(-1, x[name].shape[-1]) for x in self._pending]
      )
      sizes = _sizes(texts)
      ids = texts[_mask(sizes, texts.shape[-1])]
      arrays[f'{name}.ids'] = _smallest(ids)
      arrays[f'{name}.sizes'] = _smallest(sizes)
    name = f'episodes_{len(self._parts):05}.npz'
    with files.atomic_file(self._folder / name) as path:
      with open(path, 'wb') as file:
        np.savez_compressed(file, **arrays)
      digest = _sha256(path.read_bytes())
    self._parts.append((name, len(self._pending), digest))
    self._pending, self._bytes = [], 0


class Recording:
  """A recording on a disk or in a bucket, opened at any episode.

  Attributes:
    header: what it holds.
  """

  def __init__(self, path: str, binding: str) -> None:
    """Reads the header.

    Args:
      path: folder of the recording.
      binding: name of the gin binding that gives the path, for error messages.

    Raises:
      UserError: there is no recording, or it is damaged or of another version.
    """
    self._folder = files.folder(path, binding)
    file = self._folder / HEADER
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
        key: value[skipped:] for key, value in self._read(name, digest).items()
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

  def _read(self, name: str, digest: str) -> dict[str, np.ndarray]:
    """The features of a part, int32, padded."""
    path = self._folder / name
    try:
      contents = epath.Path(path).read_bytes()
    except OSError as error:
      raise UserError(
        f'{path}: cannot be read ({files.reason(error)}).'
      ) from error
    if _sha256(contents) != digest:
      raise UserError(f'{path}: is damaged; record it again.')
    with epath.Path(path).open('rb') as file, np.load(file) as arrays:
      return {
        key: _padded(arrays[f'{key}.ids'], arrays[f'{key}.sizes'], shape)
        for key, shape in self.header.shapes.items()
      }


def _plain(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def _sha256(contents: bytes) -> str:
  return hashlib.sha256(contents).hexdigest()


def _sizes(texts: np.ndarray) -> np.ndarray:
  """Number of ids up to the last that is no padding, int `[texts]`."""
  places = np.arange(1, texts.shape[-1] + 1)
  return ((texts != 0) * places).max(axis=-1)


def _mask(sizes: np.ndarray, length: int) -> np.ndarray:
  """Where `[texts, length]` has ids."""
  return np.arange(length) < sizes[:, None]


def _smallest(values: np.ndarray) -> np.ndarray:
  """The same numbers in 16 bits, if they fit."""
  fits = values.max(initial=0) < 2**16
  return values.astype(np.uint16 if fits else np.uint32)


def _padded(
  ids: np.ndarray, sizes: np.ndarray, shape: Sequence[int]
) -> np.ndarray:
  """Texts one after the other as int32 `[episodes, *shape]`."""
  texts = np.zeros((len(sizes), shape[-1]), np.int32)
  texts[_mask(sizes.astype(np.int64), shape[-1])] = ids
  return texts.reshape(-1, *shape)


def _with_weights(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Adds the weights of the targets: 1 where there is an id."""
  weights = (batch['target_tokens'] > 0).astype(np.int32)
  return {**batch, _WEIGHTS: weights}
