"""Saves and loads adapters as safetensors files.

The header of a file holds the name, dtype and shape of every tensor. Its
metadata holds the kind of adapter, the name of the model that the adapters were
made for, the LoRA scale, and a configuration of the caller's choice. Reading a
file never unpickles anything.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hypertuning import files, text_files, trees
from hypertuning.adapters import Adapters
from hypertuning.adapters.lora import LoRA, without_heads
from hypertuning.adapters.prefix import Prefix
from hypertuning.adapters.sites import KeyValue, LowRank
from hypertuning.errors import UserError

_FORMAT = 'hypertuning.adapters.v2'
# Its LoRA factors `b` are those of `without_heads`.
_V1 = 'hypertuning.adapters.v1'
_KINDS = {'prefix': Prefix, 'lora': LoRA}
_LEAVES = {'prefix': {'key', 'value'}, 'lora': {'a', 'b'}}


@flax.struct.dataclass
class Header:
  """The description of the adapters in a file.

  Attributes:
    kind: kind of adapter, `prefix` or `lora`.
    model: name of the model that the adapters were made for.
    scale: scale `alpha / rank` of LoRA; 1 for a prefix, which has no scale.
    config: the configuration that was passed to `save`.
    shapes: maps the name of each tensor, such as `encoder_self/key`, to its
      shape.
  """

  kind: str
  model: str
  scale: float
  config: Mapping[str, Any]
  shapes: Mapping[str, tuple[int, ...]]


def save(
  adapters: Adapters,
  path: str | os.PathLike,
  *,
  model: str,
  config: Mapping[str, Any],
) -> None:
  """Writes adapters to a file, which appears whole or not at all.

  Args:
    adapters: a `Prefix` or `LoRA` of arrays, with any number of episodes.
    path: path of the file; its folder is made if it is missing.
    model: name of the model that the adapters were made for, for those who read
      the file.
    config: JSON values that describe how the adapters were made.

  Raises:
    UserError: the file cannot be written.
    ValueError: the adapters are a prefix with a mask, which files do not hold.
  """
  if getattr(adapters, 'mask', None) is not None:
    raise ValueError('A prefix with a mask cannot be saved.')
  kind = _kind(adapters)
  metadata = {
    'format': _FORMAT,
    'kind': kind,
    'model': model,
    'scale': repr(float(getattr(adapters, 'scale', 1.0))),
    'config': json.dumps(dict(config), sort_keys=True),
  }
  # safetensors writes the raw buffer of an array, which for a strided view does
  # not hold the values in their order.
  tensors = {
    name: np.ascontiguousarray(jax.device_get(leaf))
    for name, leaf in _flatten(adapters).items()
  }
  try:
    with files.atomic_file(files.folder(path)) as temporary:
      save_file(tensors, temporary, metadata)
  except SafetensorError as error:
    raise UserError(f'{path}: cannot be written ({error}).') from error


def read_header(path: str | os.PathLike) -> Header:
  """Reads the header of a file, but not its tensors.

  Args:
    path: path of a file that `save` wrote.

  Raises:
    UserError: the file is missing or damaged, or `save` did not write it.
  """
  return _read(path)[0]


def load(
  path: str | os.PathLike, *, expected: Adapters | None = None
) -> Adapters:
  """Reads adapters from a file.

  Args:
    path: path of a file that `save` wrote.
    expected: adapters like those that the model takes, such as the abstract
      arrays of `jax.eval_shape(generate, ...)`. The adapters in the file may
      differ from them in dtype only. None accepts any adapters.

  Returns:
    A `Prefix` or `LoRA` with exactly the values and dtypes that were saved.

  Raises:
    UserError: the file is missing or damaged, `save` did not write it, or its
      adapters do not fit `expected`.
  """
  header, tensors = _read(path, tensors=True)
  if expected is not None:
    _check(path, header, expected)
  sites = trees.unflatten_paths(
    {name: jnp.asarray(value) for name, value in tensors.items()}
  )
  if header.kind == 'prefix':
    return Prefix({site: KeyValue(**x) for site, x in sites.items()})
  return LoRA(
    {
      site: {name: LowRank(**x) for name, x in projections.items()}
      for site, projections in sites.items()
    },
    scale=header.scale,
  )


def _read(
  path: str | os.PathLike, tensors: bool = False
) -> tuple[Header, dict[str, np.ndarray]]:
  """Reads the header of a file and, if `tensors` is set, its tensors."""
  try:
    with (
      files.local_copy(files.folder(path)) as local,
      safe_open(local, framework='np') as file,
    ):
      metadata = file.metadata() or {}
      names = list(file.keys())
      shapes = {n: tuple(file.get_slice(n).get_shape()) for n in names}
      values = {n: file.get_tensor(n) for n in names} if tensors else {}
  except FileNotFoundError as error:
    raise UserError(f'{path}: no such file.') from error
  except (OSError, SafetensorError) as error:
    raise UserError(
      f'{path}: not a safetensors file, or cut short ({error}).'
    ) from error
  if metadata.get('format') == _V1:
    shapes = {n: _flat_factor(n, shape) for n, shape in shapes.items()}
    values = {n: x.reshape(shapes[n]) for n, x in values.items()}
  elif metadata.get('format') != _FORMAT:
    raise UserError(
      f'{path}: its header has no format {_FORMAT!r}: these are not adapters '
      'that this library saved.'
    )
  try:
    header = Header(
      kind=metadata['kind'],
      model=metadata['model'],
      scale=float(metadata['scale']),
      config=text_files.parse_json(metadata['config']),
      shapes=shapes,
    )
  except (KeyError, ValueError) as error:
    raise UserError(f'{path}: its header is damaged ({error!r}).') from error
  if header.kind not in _KINDS or not _well_named(header):
    raise UserError(
      f'{path}: its tensors are not those of kind {header.kind!r}: '
      f'{", ".join(sorted(shapes))[:200]}.'
    )
  return header, values


def _check(path: str | os.PathLike, header: Header, expected: Adapters) -> None:
  """Refuses a file whose kind, scale, names or shapes are not as expected."""
  kind = _kind(expected)
  if header.kind != kind:
    raise UserError(
      f'{path}: holds a {header.kind} for {header.model}, but the model here '
      f'takes a {kind}.'
    )
  if isinstance(expected, LoRA) and header.scale != expected.scale:
    raise UserError(
      f'{path}: LoRA scale (alpha / rank) {header.scale} there, '
      f'{expected.scale} here.'
    )
  want = {name: tuple(x.shape) for name, x in _flatten(expected).items()}
  for name in sorted({*want, *header.shapes}):
    theirs, ours = header.shapes.get(name), want.get(name)
    if theirs != ours:
      raise UserError(
        f'{path}: {name} is {theirs or "missing"} there (made for '
        f'{header.model}), {ours or "not used"} in the model here.'
      )


def _flat_factor(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape in version 2 of a tensor that version 1 saved."""
  if name.endswith('/b') and len(shape) == 5:
    return without_heads(shape)
  return shape


def _kind(adapters: Adapters) -> str:
  """The kind of adapters, `prefix` or `lora`."""
  return next(k for k, cls in _KINDS.items() if isinstance(adapters, cls))


def _flatten(adapters: Adapters) -> dict[str, Any]:
  """Maps names such as `encoder_self/key` or `encoder_self/query/a` to leaves.

  The first is a name in a prefix, the second one in LoRA.
  """
  state = flax.serialization.to_state_dict(adapters)
  return trees.flatten_paths(state['sites'])


def _well_named(header: Header) -> bool:
  """Whether the names are those of the kind's tensors: none missing or extra.

  Which sites and modules the adapters have is not checked here.
  """
  groups: dict[tuple[str, ...], set[str]] = {}
  for name in header.shapes:
    *group, leaf = name.split('/')
    groups.setdefault(tuple(group), set()).add(leaf)
  depth = {'prefix': 1, 'lora': 2}[header.kind]
  leaves = _LEAVES[header.kind]
  return bool(groups) and all(
    len(group) == depth and leaf_names == leaves
    for group, leaf_names in groups.items()
  )
