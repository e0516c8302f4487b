"""Converts a public model's files into a checkpoint of ours, or back.

    python -m hypertuning.convert --source=SmolLM2.gguf --output=models/smollm2
    python -m hypertuning.convert --to_hugging_face \\
      --source=models/smollm2 --output=models/smollm2_hf

Reads a folder of Hugging Face's (safetensors, or files of torch without
executing code in them) or a GGUF file. OUTPUT gets `checkpoint_0`, the
vocabulary, and `model.gin`, which comes after the gin file of the network, such
as gin/models/llama.gin. It appears with all of its files or not at all.

    python -m hypertuning.convert --trained --source=run --base=smollm2_135m \\
      --output=hypermodel.safetensors

writes the trained part of a run, which was trained with SAVE_FROZEN = False, as
one file. It is a CHECKPOINT_PATH like the run itself, where MOVED_CHECKPOINTS
says in which folder its base is.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tqdm
from etils import epath

from hypertuning import command_line, files, saved_config
from hypertuning.errors import UserError

_SOURCE, _OUTPUT, _LIKE, _BASE = '--source', '--output', '--like', '--base'
_CHECKPOINT = 'checkpoint_0'
# For the description of an array, and the smallest part of a disk.
_BYTES_PER_ARRAY = 8192


def main(arguments: Sequence[str]) -> None:
  """Runs the command.

  Args:
    arguments: arguments of the command line.

  Raises:
    UserError: a flag, a file or a folder is at fault.
  """
  options = _options(arguments)
  if options.trained:
    trained(options.source, _new_file(options.output), options.base)
    return
  source = _local(options.source, _SOURCE)
  output = _new_folder(options.output)
  if options.to_hugging_face:
    like = _local(options.like, _LIKE) if options.like else None
    to_hugging_face(source, output, like)
  else:
    convert(source, output)


def convert(source_path: pathlib.Path, output: pathlib.Path) -> None:
  """Converts a public model into a checkpoint of ours.

  Args:
    source_path: folder of Hugging Face's, or a file of weights.
    output: folder that is made.

  Raises:
    UserError: the files are damaged, lack something or hold something that is
      not read; or the folder cannot be written.
  """
  # jax takes a second to import: bad arguments are refused before.
  from hypertuning.conversion import (
    checkpoint_writer,
    families,
    gin_file,
    pairing,
    sources,
    vocabulary,
  )

  source = sources.open_source(source_path, _SOURCE)
  family = families.find(source.fields)
  config = family.config(source.fields)
  pairs = pairing.pair(source, family, family.variables(config))
  contents = source.vocabulary_files()
  size = sum(
    int(np.prod(source.arrays[name].shape)) * source.arrays[name].dtype.itemsize
    for _, name in pairs
  )
  with _written(output, size, len(pairs), contents) as folder:
    own = vocabulary.read(contents, folder, source.fields, source.place)
    config = config.replace(vocab_size=own.rows(config.vocab_size))
    files.write_text(folder, sources.CONFIG_FILE, source.fields.text())
    files.write_text(folder, 'model.gin', gin_file.text(config, own, output))
    with _bar(size) as bar:
      checkpoint_writer.write(
        epath.Path(folder / _CHECKPOINT), source, pairs, own, bar.update
      )


def to_hugging_face(
  source_path: pathlib.Path,
  output: pathlib.Path,
  like: pathlib.Path | None = None,
) -> None:
  """Writes a checkpoint of ours as a folder that `transformers` reads.

  Args:
    source_path: folder that `convert` made, or the folder of a run or of one of
      its checkpoints.
    output: folder that is made.
    like: folder that `convert` made, from which the configuration and the
      vocabulary are taken; by default the source's own.

  Raises:
    UserError: there is no such checkpoint, or it does not fit the
      configuration; or the folder cannot be written.
  """
  from hypertuning.conversion import (
    families,
    hugging_face,
    sources,
    vocabulary,
  )

  like = like or hugging_face.origin(source_path)
  fields = sources.read_config(like)
  family = families.find(fields)
  config = family.config(fields)
  contents = sources.vocabulary_files(like)
  own = vocabulary.read(contents, like, fields, str(like))
  arrays = hugging_face.Arrays(source_path, _SOURCE, family, config, own)
  with _written(output, arrays.size, 1, contents) as folder:
    files.write_text(folder, sources.CONFIG_FILE, fields.text())
    with _bar(arrays.size) as bar:
      hugging_face.write(folder, arrays, own, bar.update)


def trained(run: str, output: pathlib.Path, base: str) -> None:
  """Writes the trained part of a run as one file, see `engine.trained_file`.

  Args:
    run: folder of a run, or of one of its checkpoints.
    output: the file that is written.
    base: name of the model that stays frozen.

  Raises:
    UserError: there is no such run, it holds its frozen weights, or the file
      cannot be written.
  """
  from hypertuning.engine import checkpoints, trained_file

  variables, part = checkpoints.restore_trained(run, _SOURCE)
  files.check_writable(output.parent, _OUTPUT)
  built = trained_file.Built(*(saved_config.model_of(run) or ('', None)))
  size = trained_file.save(output, variables, part, base, built)
  print(f'{output}: {size:,} bytes.')


def _options(arguments: Sequence[str]) -> argparse.Namespace:
  """The flags; a wrong one is a `UserError`."""
  parser = command_line.Parser('hypertuning.convert', __doc__)
  parser.add_argument(_SOURCE, help='what is converted: a folder or a file')
  parser.add_argument(_OUTPUT, help='a new folder')
  parser.add_argument(
    '--to_hugging_face',
    action='store_true',
    help='convert a checkpoint of ours into a folder of Hugging Face',
  )
  parser.add_argument(
    '--trained',
    action='store_true',
    help='write the trained part of a run as one safetensors file',
  )
  parser.add_argument(
    _BASE, help='with --trained, the name of the frozen model in the file'
  )
  parser.add_argument(
    _LIKE,
    help='with --to_hugging_face, a folder that this command made, whose '
    'configuration and vocabulary the checkpoint has; by default its own',
  )
  options = parser.parse_args(arguments)
  for flag in (_SOURCE, _OUTPUT):
    if not getattr(options, flag.removeprefix('--')):
      raise UserError(f'{flag} is required; --help lists the flags.')
  if bool(options.base) != options.trained:
    raise UserError(f'{_BASE} is required with --trained, and only there.')
  if options.trained and options.to_hugging_face:
    raise UserError('Give --trained or --to_hugging_face, not both.')
  if options.like and not options.to_hugging_face:
    raise UserError(f'{_LIKE} has no effect without --to_hugging_face.')
  return options


def _local(path: str, flag: str) -> pathlib.Path:
  """A path on a disk; a bucket is refused."""
  place = files.folder(path, flag)
  if files.is_remote(place):
    raise UserError(
      f'{flag} = {path!r}: is in a bucket; convert on a disk, and copy.'
    )
  return pathlib.Path(place)


def _new_folder(path: str) -> pathlib.Path:
  """The folder that is to be made; one that has files is refused."""
  place = _local(path, _OUTPUT)
  if place.exists() and not (place.is_dir() and not any(place.iterdir())):
    raise UserError(
      f'{_OUTPUT} = {path!r}: is there already; give a new folder.'
    )
  if set('[]') & set(str(place)):
    raise UserError(
      f'{_OUTPUT} = {path!r}: checkpoints cannot be in a folder with [ or ] in '
      'its path.'
    )
  return place


def _new_file(path: str) -> pathlib.Path:
  """The file of a trained part that is to be made."""
  place = _local(path, _OUTPUT)
  if place.suffix != '.safetensors':
    raise UserError(f'{_OUTPUT} = {path!r}: give a name in .safetensors.')
  if place.exists():
    raise UserError(f'{_OUTPUT} = {path!r}: is there already; name a new file.')
  return place


@contextlib.contextmanager
def _written(
  output: pathlib.Path,
  size: int,
  arrays: int,
  contents: Mapping[str, bytes],
) -> Iterator[pathlib.Path]:
  """A context in which a folder is written; it is then complete, or absent.

  Args:
    output: the folder that appears at the end of the context.
    size: number of bytes of the arrays.
    arrays: number of arrays.
    contents: files that are written first, by name.

  Yields:
    The temporary folder, which has these files.

  Raises:
    UserError: the folder cannot be written.
  """
  room = size + arrays * _BYTES_PER_ARRAY + sum(map(len, contents.values()))
  files.check_writable(output, _OUTPUT, room)
  folder = output.with_name(f'.{os.getpid()}.tmp.{output.name}')
  try:
    folder.mkdir(parents=True)
    for name, data in contents.items():
      (folder / name).write_bytes(data)
    yield folder
    os.replace(folder, output)
  except OSError as error:
    raise UserError(
      f'{_OUTPUT} = {str(output)!r}: cannot be written ({files.reason(error)}).'
    ) from error
  finally:
    shutil.rmtree(folder, ignore_errors=True)


def _bar(size: int) -> tqdm.tqdm:
  """A bar that counts bytes, on a terminal."""
  return tqdm.tqdm(
    total=size,
    unit='B',
    unit_scale=True,
    dynamic_ncols=True,
    disable=not sys.stderr.isatty(),
  )


if __name__ == '__main__':
  command_line.run_process(main)
