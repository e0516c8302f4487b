"""Converts a public model's files into a checkpoint of ours, or back.

    python -m hypertuning.convert --source=SmolLM2.gguf --output=models/smollm2
    python -m hypertuning.convert --to_hugging_face \\
      --source=models/smollm2 --output=models/smollm2_hf

Reads a folder of Hugging Face's (safetensors, or files of torch without
executing code in them) or a GGUF file. OUTPUT gets `checkpoint_0`, the
vocabulary, and `model.gin`, which comes after the gin file of the network, such
as gin/models/llama.gin. It appears with all of its files or not at all. With
--to_hugging_face, a run of ours is a source too: its frozen model leaves, and
its `model.gin` says what it is.

    python -m hypertuning.convert --trained --source=run --base=smollm2_135m \\
      --output=hypermodel.safetensors

writes the trained part of a run, which was trained with SAVE_FROZEN = False, as
one file. It is a CHECKPOINT_PATH like the run itself, where MOVED_CHECKPOINTS
says in which folder its base is.
"""

import argparse
import pathlib
from collections.abc import Sequence

from hypertuning import command_line, files, folders, saved_config
from hypertuning.errors import UserError

_SOURCE, _OUTPUT, _LIKE, _BASE = '--source', '--output', '--like', '--base'


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
  source = folders.local(options.source, _SOURCE)
  output = _new_folder(options.output)
  if options.to_hugging_face:
    like = folders.local(options.like, _LIKE) if options.like else None
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
  from hypertuning.conversion import model_folder, sources

  model_folder.write(sources.open_source(source_path, _SOURCE), output, _OUTPUT)


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
      vocabulary are taken; by default the source's own, see
      `api.frozen_source`.

  Raises:
    UserError: there is no such checkpoint, or it does not fit the
      configuration; or the folder cannot be written.
  """
  from hypertuning.api import frozen_source
  from hypertuning.conversion import hugging_face

  source = frozen_source.read(source_path, _SOURCE, like)
  hugging_face.write(source, output, _OUTPUT)
  if not source.vocabulary_files():
    print(
      f'{output}: without a tokenizer, as the vocabulary of {source_path} has '
      'no file: its ids come from this library (load(...).text_format).'
    )


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
  if options.trained and options.to_hugging_face:
    raise UserError('Give --trained or --to_hugging_face, not both.')
  if bool(options.base) != options.trained:
    raise UserError(f'{_BASE} is required with --trained, and only there.')
  if options.like and not options.to_hugging_face:
    raise UserError(f'{_LIKE} has no effect without --to_hugging_face.')
  return options


def _new_folder(path: str) -> pathlib.Path:
  """The folder that is to be made; one that has files is refused."""
  place = folders.new_folder(path, _OUTPUT)
  if set('[]') & set(str(place)):
    raise UserError(
      f'{_OUTPUT} = {path!r}: checkpoints cannot be in a folder with [ or ] in '
      'its path.'
    )
  return place


def _new_file(path: str) -> pathlib.Path:
  """The file of a trained part that is to be made."""
  place = folders.local(path, _OUTPUT)
  if place.suffix != '.safetensors':
    raise UserError(f'{_OUTPUT} = {path!r}: give a name in .safetensors.')
  if place.exists():
    raise UserError(f'{_OUTPUT} = {path!r}: is there already; name a new file.')
  return place


if __name__ == '__main__':
  command_line.run_process(main)
