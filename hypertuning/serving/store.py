"""Phi that clients hold by name."""

import collections
import secrets

from hypertuning.api.phi import Phi
from hypertuning.serving.failures import Failure


class Store:
  """Keeps the phi that were used last; for one thread."""

  def __init__(self, size: int) -> None:
    """Makes an empty store.

    Args:
      size: number of phi that are kept.
    """
    self._size = size
    self._phis: collections.OrderedDict[str, Phi] = collections.OrderedDict()

  def __len__(self) -> int:
    return len(self._phis)

  def put(self, phi: Phi, name: str | None = None) -> str:
    """Keeps a phi, which replaces another one of its name.

    Args:
      phi: the phi.
      name: its name; None makes one.

    Returns:
      The name.
    """
    name = name or f'phi-{secrets.token_hex(4)}'
    self._phis[name] = phi
    self._phis.move_to_end(name)
    while len(self._phis) > self._size:
      self._phis.popitem(last=False)
    return name

  def get(self, name: str) -> Phi:
    """The phi of a name.

    Raises:
      Failure: there is none, or it has been dropped.
    """
    if name not in self._phis:
      raise Failure(
        404,
        f'phi: {name!r:.80} is not here. The {self._size:,} that were used '
        'last are kept, until the server stops; adapt again.',
      )
    self._phis.move_to_end(name)
    return self._phis[name]
