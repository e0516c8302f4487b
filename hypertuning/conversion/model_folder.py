"""Writes the folder of a converted model: weights, vocabulary, gin file."""

import os
import sys
from collections.abc import Mapping

import tqdm
from etils import epath

from hypertuning import files, folders, saved_config
from hypertuning.conversion import (
  checkpoint_writer,
  families,
  gin_file,
  pairing,
  sources,
)
from hypertuning.conversion.sources import Source
from hypertuning.conversion.vocabulary import Vocabulary

_CHECKPOINT = 'checkpoint_0'
# For the description of an array, and the smallest part of a disk.
_BYTES_PER_ARRAY = 8192


def write(source: Source, output: str | os.PathLike, binding: str) -> None:
  """Writes a model as a checkpoint of ours, with all that belongs to it.

  Args:
    source: the model's weights.
    output: folder that is made.
    binding: name of the flag or argument that gives the folder.

  Raises:
    UserError: the weights do not fit their configuration, the vocabulary
      belongs to another model, or the folder cannot be written.
  """
  family = families.find(source.fields)
  config = family.config(source.fields)
  pairs = pairing.pair(source, family, family.variables(config))
  contents = source.vocabulary_files()
  size = sum(source.arrays[name].size for _, name in pairs)
  place = folders.new_folder(output, binding)
  space = room(size, len(pairs), contents)
  with folders.written(place, binding, space) as folder:
    for name, data in contents.items():
      (folder / name).write_bytes(data)
    own = family.read_vocabulary(contents, folder, source.fields, source.place)
    config = config.replace(vocab_size=own.rows(config.vocab_size))
    files.write_text(folder, sources.CONFIG_FILE, source.fields.text())
    text = gin_file.text(family.gin, config, own, place)
    files.write_text(folder, saved_config.MODEL_FILE, text)
    with bar(size) as progress:
      checkpoint_writer.write(
        epath.Path(folder / _CHECKPOINT), source, pairs, own, progress.update
      )


def write_run(
  source: Source,
  own: Vocabulary,
  model: str,
  output: str | os.PathLike,
  binding: str,
) -> None:
  """Writes a model as a run of ours, whose gin file says all of it.

  A model that was trained from the start may have a vocabulary or a text format
  that no public model has.

  Args:
    source: the model's weights.
    own: the model's vocabulary.
    model: text of the gin file that builds the model.
    output: folder that is made.
    binding: name of the flag or argument that gives the folder.

  Raises:
    UserError: the folder cannot be written.
  """
  family = families.find(source.fields)
  variables = family.variables(family.config(source.fields))
  pairs = pairing.pair(source, family, variables)
  size = sum(source.arrays[name].size for _, name in pairs)
  place = folders.new_folder(output, binding)
  with (
    folders.written(place, binding, room(size, len(pairs), {})) as folder,
    bar(size) as progress,
  ):
    files.write_text(folder, saved_config.MODEL_FILE, model)
    checkpoint_writer.write(
      epath.Path(folder / _CHECKPOINT), source, pairs, own, progress.update
    )


def room(size: int, arrays: int, contents: Mapping[str, bytes]) -> int:
  """The number of bytes that a folder takes.

  Args:
    size: number of bytes of the arrays.
    arrays: number of arrays.
    contents: further files, by name.
  """
  return size + arrays * _BYTES_PER_ARRAY + sum(map(len, contents.values()))


def bar(size: int) -> tqdm.tqdm:
  """A bar that counts bytes, on a terminal.

  Args:
    size: number of bytes at its end.
  """
  return tqdm.tqdm(
    total=size,
    unit='B',
    unit_scale=True,
    dynamic_ncols=True,
    disable=not sys.stderr.isatty(),
  )
