"""HyperTuning: adapt a frozen language model without back-propagation.

import hypertuning
model = hypertuning.load('smollm2-135m')
phi = model.adapt([('hot', 'cold'), ('big', 'small')])
model.answer(['fast', 'early'], phi)
"""

import sys
import typing

from hypertuning import interrupts

if sys.argv[:1] == ['-m']:  # Python looks for the module of a command
  interrupts.end_at_once()

if typing.TYPE_CHECKING:
  from hypertuning.api.loading import load as load
  from hypertuning.api.model import Model as Model
  from hypertuning.api.phi import Phi as Phi
  from hypertuning.errors import UserError as UserError

__version__ = '0.1.0'
__all__ = ['Model', 'Phi', 'UserError', 'load']
_PLACES = {
  'load': 'hypertuning.api.loading',
  'Model': 'hypertuning.api.model',
  'Phi': 'hypertuning.api.phi',
  'UserError': 'hypertuning.errors',
}


def __getattr__(name: str) -> typing.Any:
  """Imports what is asked for, so that the package itself imports no jax."""
  if name not in _PLACES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  import importlib

  return getattr(importlib.import_module(_PLACES[name]), name)
