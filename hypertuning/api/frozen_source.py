"""The frozen model of a checkpoint, as it leaves for other libraries."""

import os
import pathlib

from hypertuning import folders, saved_config
from hypertuning.api import loading
from hypertuning.conversion import origins
from hypertuning.conversion.checkpoint_source import CheckpointSource


def read(
  path: str | os.PathLike,
  binding: str,
  like: str | os.PathLike | None = None,
) -> CheckpointSource:
  """The frozen model of a checkpoint under Hugging Face's names.

  Args:
    path: folder that `hypertuning.convert` made, or the folder of a run or of
      one of its checkpoints. A run with a hypermodel gives its `downstream`.
    binding: name of the flag or argument that gives the path.
    like: folder that `hypertuning.convert` made, which has the configuration
      and the vocabulary; None takes those beside the checkpoint, or those by
      which the `model.gin` of a run builds its network.

  Raises:
    UserError: there is no such checkpoint, it does not fit the configuration,
      or `transformers` has no such network.
  """
  place = folders.local(path, binding)
  folder = folders.local(like, '--like') if like else origins.find(place)
  if folder is not None:
    return CheckpointSource(place, binding, origins.from_folder(folder))
  found = saved_config.model_of(str(place))
  if found is None:
    raise origins.missing(place, binding)
  return CheckpointSource(place, binding, _of_run(place, found[0]))


def _of_run(place: pathlib.Path, model: str) -> origins.Origin:
  built = loading.build(loading.find(str(place)))
  return origins.from_network(
    *(built.module.downstream.config, built.text_format, str(place), model)
  )
