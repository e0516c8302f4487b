"""Writes recorded episodes, see `recording`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hypertuning import files
from hypertuning.data.recording import (
  HEADER,
  WEIGHTS,
  Header,
  as_json,
  digest_of,
  mask,
)
from hypertuning.errors import UserError

Episode = Mapping[str, np.ndarray]
# A part's arrays before compression, so that it is smaller than this.
_PART_BYTES = 60 * 2**20


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
    arrays = {k: np.asarray(x) for k, x in episode.items() if k != WEIGHTS}
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
    files.write_text(self._folder, HEADER, as_json(header))
    return header

  def _write_part(self) -> None:
    arrays: dict[str, Any] = {}
    for name in self._pending[0]:
      texts = np.concatenate(
        [x[name].reshape(-1, x[name].shape[-1]) for x in self._pending]
      )
      sizes = _sizes(texts)
      ids = texts[mask(sizes, texts.shape[-1])]
      arrays[f'{name}.ids'] = _smallest(ids)
      arrays[f'{name}.sizes'] = _smallest(sizes)
    name = f'episodes_{len(self._parts):05}.npz'
    with files.atomic_file(self._folder / name) as path:
      with open(path, 'wb') as file:
        np.savez_compressed(file, **arrays)
      digest = digest_of(path.read_bytes())
    self._parts.append((name, len(self._pending), digest))
    self._pending, self._bytes = [], 0


def _sizes(texts: np.ndarray) -> np.ndarray:
  """Number of ids up to the last that is no padding, int `[texts]`."""
  places = np.arange(1, texts.shape[-1] + 1)
  return ((texts != 0) * places).max(axis=-1)


def _smallest(values: np.ndarray) -> np.ndarray:
  """The same numbers in 16 bits, if they fit."""
  fits = values.max(initial=0) < 2**16
  return values.astype(np.uint16 if fits else np.uint32)
