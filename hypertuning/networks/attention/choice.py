"""Which way computes attention: by configuration, by platform and by shape."""

import sys
from typing import Any, Literal

import jax

from hypertuning.adapters.sites import SiteAdapter
from hypertuning.errors import UserError
from hypertuning.networks.attention.cudnn import Cudnn
from hypertuning.networks.attention.pallas import Pallas
from hypertuning.networks.attention.plain import Plain
from hypertuning.networks.attention.view import View

Way = Literal['auto', 'plain', 'cudnn', 'pallas']
Prepared = Plain | Cudnn | Pallas

# The kernel of each platform.
_KERNELS: dict[str, tuple[str, Any]] = {
  'NVIDIA GPU': ('cudnn', Cudnn),
  'TPU': ('pallas', Pallas),
}
_said: set[str] = set()


def platform() -> str:
  """What the program that is being traced will run on.

  It is that of the mesh, where there is one: `hypertuning.plan` compiles for
  TPUs in a process that has none.
  """
  mesh = jax.sharding.get_abstract_mesh()
  device: Any = None if mesh.empty else mesh.abstract_device
  device = device or jax.devices()[0]
  if device.platform == 'tpu':
    return 'TPU'
  if device.device_kind.startswith('NVIDIA'):
    return 'NVIDIA GPU'
  return device.platform.upper()


def prepare(
  config: Any, view: View, part: SiteAdapter | None, dropout: bool = False
) -> Prepared:
  """Prepares a view for the way of attention that a configuration asks for.

  A kernel that does not take the view falls back to the plain way; one line on
  stderr says why, once per reason.

  Args:
    config: configuration of the network, whose `attention`, `dtype` and
      `head_dim` are read.
    view: the keys that each query may see, see `View`.
    part: phi of the site, with all layers; None for none.
    dropout: whether attention weights have dropout.

  Raises:
    UserError: the configuration asks for a kernel that the platform does not
      have, that does not take its numbers or size of heads, or that does not
      compile on this machine.
  """
  kernel = _kernel(config)
  if kernel is None:
    return Plain(view.bias())
  name, made = kernel
  reason = 'weights with dropout' if dropout else made.refusal(view, part)
  if reason:
    _say(f'Attention: {name} does not take {reason}: computed plainly.')
    return Plain(view.bias())
  return made.make(view, part)


def _kernel(config: Any) -> tuple[str, Any] | None:
  """Name and class of the kernel that computes attention; None for none."""
  way = config.attention
  if way == 'plain':
    return None
  here = platform()
  own = _KERNELS.get(here)
  if way != 'auto' and (own is None or way != own[0]):
    needed = next(k for k, (name, _) in _KERNELS.items() if name == way)
    raise UserError(
      f'ATTENTION = {way!r} is for a machine with {needed}, and this one has '
      f"{here}: bind ATTENTION = 'auto', which takes what there is."
    )
  if own is None:
    return None
  name, made = own
  if misfit := made.misfit(config.dtype, config.head_dim):
    problem = f'does not take {misfit}'
    remedy = "change that, or bind ATTENTION = 'auto' or 'plain'"
  elif failure := made.failure(config.dtype, config.head_dim):
    problem, remedy = f'fails here ({failure})', "bind ATTENTION = 'plain'"
  else:
    return own
  if way != 'auto':
    raise UserError(f'ATTENTION = {way!r} {problem}: {remedy}.')
  _say(f'Attention: {name} {problem}: computed plainly.')
  return None


def _say(line: str) -> None:
  if line not in _said:
    _said.add(line)
    # Commands silence the logs of libraries.
    print(line, file=sys.stderr)
