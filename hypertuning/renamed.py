"""Old names of arguments: one line with the new name, in Python and in gin."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypertuning.errors import UserError

_P = ParamSpec('_P')
_R = TypeVar('_R')

_FORMAT = (
  'is `text_format` now: in gin bind %TEXT_FORMAT, in Python give '
  'text_format.t5_format(vocabulary) or text_format.markers_format(vocabulary)'
)
TEXT_FORMAT = {
  'vocabulary': _FORMAT,
  'markers': _FORMAT,
  'input_vocabulary': _FORMAT,
  'output_vocabulary': _FORMAT,
}


def takes_text_format(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """Decorator: names `text_format` to who calls with what it replaced.

  gin looks at the signature of the function itself and refuses the binding when
  it parses it; `hint` is for its message.
  """

  @functools.wraps(function)
  def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
    for name in TEXT_FORMAT.keys() & kwargs.keys():
      place = f'{function.__module__}.{function.__qualname__}'
      raise UserError(f'{place}: `{name}` {TEXT_FORMAT[name]}.')
    return function(*args, **kwargs)

  return checked


def hint(argument: str) -> str:
  """What an argument that gin does not find is called now, or nothing."""
  if argument not in TEXT_FORMAT:
    return ''
  return f' `{argument}` {TEXT_FORMAT[argument]}.'
