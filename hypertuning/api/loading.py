"""Loads a model by a name, a folder or a file."""

import os
import pathlib
import tempfile
from typing import Any

import jax

from hypertuning import files, saved_config
from hypertuning.api import fingerprints, network, places, public_models
from hypertuning.api.model import Model
from hypertuning.api.phi import Base
from hypertuning.conversion import sources
from hypertuning.data import lengths as lengths_lib
from hypertuning.engine import batching, train_state, trained_file
from hypertuning.engine.partitioning import one_device
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel

_CPU_DTYPE = 'float32'  # a CPU computes in bfloat16 by way of float32


def load(
  model: str | os.PathLike,
  *,
  base: str | os.PathLike | None = None,
  dtype: str | None = None,
) -> Model:
  """Loads a model; it uses one device, and needs no TensorFlow.

  Args:
    model: the name of a public model, such as 'smollm2-135m'; a folder that
      `hypertuning.convert` made; the folder of a run, or of one of its
      checkpoints; or a file of `hypertuning.convert --trained`.
    base: folder of the frozen model, where a run or a file does not hold it and
      it has been moved.
    dtype: dtype that the networks compute in, 'float32' or 'bfloat16'; None
      takes float32 on a CPU, and that of the model elsewhere.

  Raises:
    UserError: there is no such model, or it is damaged; the message says what
      to do.
  """
  place = find(model, base)
  if dtype is None and jax.default_backend() == 'cpu':
    dtype = _CPU_DTYPE
  built = build(place, dtype)
  partitioner = one_device()
  params, frozen = train_state.restore_variables(
    built,
    lengths_lib.shapes(_smallest(built), 1, built.is_taught),
    partitioner,
    place.checkpoint,
    moved=place.moved,
  )
  downstream = {
    **params.get('downstream', {}),
    **frozen.get('downstream', {}),
  }
  described = _base(place, built, fingerprints.fingerprint(downstream))
  return Model(
    built, params, frozen, described, place.lengths, partitioner, place.missing
  )


def describe(
  model: str | os.PathLike, base: str | os.PathLike | None = None
) -> Base:
  """What a model's frozen part is, without its weights.

  Args:
    model: see `load`.
    base: see `load`.

  Returns:
    A `Base` without a fingerprint.

  Raises:
    UserError: see `load`.
  """
  place = find(model, base)
  return _base(place, build(place), '')


def _base(place: places.Place, built: HyperTuningModel, mark: str) -> Base:
  return Base(
    *(place.name, place.folder, place.hugging_face),
    built.module.downstream.config,
    mark,
  )


def find(
  model: str | os.PathLike, base: str | os.PathLike | None = None
) -> places.Place:
  """Where a model is, see `load`.

  Raises:
    UserError: there is no such model, or `model` is no name and no path.
  """
  if not isinstance(model, str | os.PathLike):
    raise UserError(f'load: {model!r:.60}: give a name or a path.')
  model = os.fspath(model)
  base = None if base is None else os.fspath(base)
  if model in public_models.MODELS:
    return _public(model, base)
  path = pathlib.Path(files.folder(model, 'load'))
  if path.suffix == trained_file.SUFFIX and not path.is_dir():
    return places.trained(path, str(path), lambda name: _base_of(name, base))
  if path.is_file():
    raise UserError(
      f'load: {model!r} is no file of hypertuning.convert --trained, whose '
      f'name ends in {trained_file.SUFFIX}.'
    )
  if not path.is_dir():
    known = ', '.join(public_models.MODELS)
    raise UserError(
      f'load: {model!r}: there is no such folder or file, and no public model '
      f'of this name (there is {known}).'
    )
  if (path / sources.CONFIG_FILE).is_file():
    if not (path / saved_config.MODEL_FILE).is_file():
      raise UserError(
        f'load: {model!r} holds files of Hugging Face: convert them first, '
        f'python -m hypertuning.convert --source={model} --output=FOLDER'
      )
    return places.converted(path, str(path), '')
  return places.run(path, base)


def build(place: places.Place, dtype: str | None = None) -> HyperTuningModel:
  """The networks and the text format of a model, without its weights.

  Args:
    place: gin files and checkpoint of the model.
    dtype: see `load`.

  Raises:
    UserError: its gin files are damaged, or its vocabulary is missing.
  """
  with tempfile.TemporaryDirectory() as folder:
    gin_files = list(place.files)
    if place.text:
      files.write_text(folder, saved_config.MODEL_FILE, place.text)
      gin_files.insert(0, str(pathlib.Path(folder, saved_config.MODEL_FILE)))
    built = network.read(gin_files, place.bindings, dtype)
  batching.check_vocabulary(built)
  return built


def _smallest(built: HyperTuningModel) -> dict[str, Any]:
  """Lengths of a batch, on which no weight depends."""
  lengths: dict[str, Any] = {'hyper_inputs': 1, 'inputs': (1, 1)}
  lengths['targets'] = (1, 2)
  return lengths | ({'teacher_inputs': (1, 1)} if built.is_taught else {})


def _public(name: str, base: str | None) -> places.Place:
  """A public model, with the hypermodel of this package if it has one."""
  public = public_models.MODELS[name]
  folder = pathlib.Path(base) if base else public_models.converted(name)
  path = public_models.hypermodel(public)
  if path.is_file():
    return places.trained(path, name, lambda _: (folder, public.hugging_face))
  place = places.converted(folder, name, public.hugging_face)
  return place.without_hypermodel(
    f'The hypermodel of {name} is not trained yet: launch/smollm.sh --train '
    'trains one, and load(FILE) reads its file.'
  )


def _base_of(name: str, base: str | None) -> tuple[pathlib.Path, str]:
  """The folder of the frozen model of a file, and its name elsewhere."""
  if base:
    return pathlib.Path(files.folder(base, 'base')), ''
  for key, public in public_models.MODELS.items():
    if public.base == name:
      return public_models.converted(key), public.hugging_face
  raise UserError(
    f'load: the frozen model of this file is {name!r}; give its folder: '
    'load(..., base=FOLDER).'
  )
