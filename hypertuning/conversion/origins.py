"""What a checkpoint of ours is: its configuration and its vocabulary.

They stand in a folder that `convert` made. A run that was trained from the
start has none: there they follow from its network and its text format.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from hypertuning import text_files
from hypertuning.conversion import families, sources
from hypertuning.conversion.fields import Fields
from hypertuning.conversion.vocabulary import BYTE_LEVEL, Vocabulary
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError
from hypertuning.padding import PAD_ID


class Origin(NamedTuple):
  """What a checkpoint of ours is.

  Attributes:
    place: path that error messages begin with.
    fields: the fields of its `config.json`.
    vocabulary: its vocabulary.
    files: the content of the files of the vocabulary, by name.
    model: the text of the `model.gin` of a run, which says all of this; '' for
      a folder that `convert` made.
  """

  place: str
  fields: Fields
  vocabulary: Vocabulary
  files: Mapping[str, bytes]
  model: str = ''


def find(source: pathlib.Path) -> pathlib.Path | None:
  """The folder whose configuration a checkpoint has, or None.

  Args:
    source: a folder that `convert` made, or the folder of its checkpoint.
  """
  for folder in (source, source.parent):
    if (folder / sources.CONFIG_FILE).is_file():
      return folder
  return None


def from_folder(folder: pathlib.Path) -> Origin:
  """Reads the configuration and the vocabulary of a folder.

  Args:
    folder: a folder that `convert` made.

  Raises:
    UserError: one of them is missing or damaged.
  """
  fields = sources.read_config(folder)
  contents = sources.vocabulary_files(folder)
  own = families.find(fields).read_vocabulary(
    contents, folder, fields, str(folder)
  )
  return Origin(str(folder), fields, own, contents)


def from_network(
  config: Any, form: TextFormat, place: str, model: str
) -> Origin:
  """The configuration and the vocabulary of a network.

  Args:
    config: config of the network.
    form: format of the model's text. A vocabulary that has no file, such as
      bytes, gives no file.
    place: path that error messages begin with.
    model: the text of the `model.gin` that builds the network.

  Raises:
    UserError: `transformers` has no such network, or a file is missing.
  """
  family = families.find_by_config(config)
  ids = form.vocabulary
  swapped = getattr(ids, 'swapped_ids', None)
  places = dict([swapped, swapped[::-1]] if swapped else [])
  start, *ends, pad = (
    places.get(token, token)
    for token in (*(form.start[:1] or (PAD_ID,)), *form.end_ids, PAD_ID)
  )
  values = {
    'architectures': [family.architecture],
    **family.fields(config),
    'bos_token_id': start if form.start else None,
    'eos_token_id': ends[0] if len(ends) == 1 else ends,
    'pad_token_id': pad,
  }
  path = str(getattr(ids, 'path', ''))
  name, contents = '', {}
  if path:
    name = BYTE_LEVEL if path.endswith('.json') else family.pieces
    contents = {name: text_files.read_bytes(pathlib.Path(path))}
  return Origin(
    place,
    Fields(values, place),
    Vocabulary(name, ids.size, swapped=swapped),
    contents,
    model,
  )


def missing(source: pathlib.Path, binding: str) -> UserError:
  """The error about a checkpoint of which nothing is known but its arrays.

  Args:
    source: path of the checkpoint.
    binding: name of the flag or argument that gives the path.
  """
  if not source.exists():
    return UserError(f'{binding} = {str(source)!r}: there is no such folder.')
  return UserError(
    f'{binding} = {str(source)!r}: has no {sources.CONFIG_FILE} and no '
    'model.gin; give a folder that hypertuning.convert made or a run, or name '
    'such a folder as --like.'
  )
