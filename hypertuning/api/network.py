"""Builds a model from gin files, beside whatever else gin has configured."""

import contextlib
from collections.abc import Iterator, Sequence

import gin
from gin import config as gin_config

from hypertuning import gin_utils
from hypertuning.models import HyperTuningModel

_LAST = 'gin/local/load.gin'
_DTYPE = 'ACTIVATION_DTYPE'
# What gin keeps of a configuration, by the names of its variables: it has no
# public way to put a configuration aside.
_STATE = ('_CONFIG', '_OPERATIVE_CONFIG', '_SINGLETONS', '_IMPORTS')


def build(model: HyperTuningModel) -> HyperTuningModel:
  """Returns the model that gin binds to the argument."""
  return model


def read(
  files: Sequence[str], bindings: Sequence[str] = (), dtype: str | None = None
) -> HyperTuningModel:
  """Builds the model of some gin files.

  Args:
    files: gin files of a model and its size, see `gin_utils.parse`.
    bindings: further bindings, `NAME = value`.
    dtype: dtype that the networks compute in; None takes that of the files.

  Raises:
    UserError: names the file, line or binding at fault.
  """
  bindings = list(bindings)
  if dtype and any(
    _DTYPE in line for f in files for line in gin_utils.lines(f)
  ):
    bindings.append(f'{_DTYPE} = {dtype!r}')
  with _apart():
    gin_utils.parse([*files, _LAST], bindings)
    model: HyperTuningModel = gin_utils.call(build)
  return model


@contextlib.contextmanager
def _apart() -> Iterator[None]:
  """A context with a configuration of its own; the earlier one comes back.

  A program that has read gin files of its own does not lose them.
  """
  kept = {name: getattr(gin_config, name).copy() for name in _STATE}
  is_locked = gin.config_is_locked()
  try:
    yield
  finally:
    for name, values in kept.items():
      state = getattr(gin_config, name)
      state.clear()
      state.update(values)
    gin_config._set_config_is_locked(is_locked)
