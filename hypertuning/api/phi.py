"""Phi: the parameters that adapt a model to one task."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hypertuning.adapters import Adapters, KeyValue, LoRA, Site, io
from hypertuning.errors import UserError
from hypertuning.exporting import merged, peft_lora, peft_prefix, rotated_cache


@dataclasses.dataclass(frozen=True, eq=False)
class Phi:
  """Generated or tuned parameters for one task, and how they were made.

  Attributes:
    adapters: a `Prefix` or `LoRA` of numpy arrays of one episode, `[1, ...]`.
    base: the frozen model that it adapts, see `Base`.
    made: JSON values that say how it was made: numbers of `examples`, `draws`
      and `chunks`, and of tuning `steps` and `seconds`.
  """

  adapters: Adapters
  base: 'Base'
  made: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def kind(self) -> str:
    """'lora' or 'prefix'."""
    return 'lora' if isinstance(self.adapters, LoRA) else 'prefix'

  @property
  def num_bytes(self) -> int:
    """Size of all arrays, in bytes."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(self.adapters))

  def save(self, path: str | os.PathLike) -> None:
    """Writes a safetensors file, which `Model.load_phi` reads.

    Args:
      path: path of the file.

    Raises:
      UserError: the file cannot be written, or is there already; or phi is a
        prefix with a mask, as examples of different lengths in context are.
    """
    if getattr(self.adapters, 'mask', None) is not None:
      raise UserError(
        'phi: a prefix with a mask has no file; keep the examples instead.'
      )
    if os.path.exists(path):
      raise UserError(f'{path}: is there already; name a new file.')
    config = {**self.made, 'fingerprint': self.base.fingerprint}
    io.save(self.adapters, path, model=self.base.name, config=config)

  def to_peft(self, folder: str | os.PathLike, base: str | None = None) -> None:
    """Writes a folder that Hugging Face's PEFT loads.

    LoRA of any network becomes PEFT's LoRA, a prefix of a Llama PEFT's prefix
    tuning. docs/adapters.md says how each is used.

    Args:
      folder: folder that is made.
      base: name or path of the base for `transformers`, which PEFT keeps; None
        takes the public name of the model, if it has one.

    Raises:
      UserError: PEFT cannot hold this phi, which the message says why; or the
        folder has files already or cannot be written.
    """
    write = peft_lora.write if self.kind == 'lora' else peft_prefix.write
    name = self.base.hugging_face if base is None else base
    write(self.adapters, self.base.config, os.fspath(folder), name)

  def to_cache(self, path: str | os.PathLike) -> None:
    """Writes a prefix of a Llama as keys and values for `transformers`.

    See `exporting.rotated_cache`, whose `load` makes a cache of the file.

    Args:
      path: path of a new safetensors file.

    Raises:
      UserError: this phi is no prefix of a Llama, or the file cannot be
        written.
    """
    if os.path.exists(path):
      raise UserError(f'{path}: is there already; name a new file.')
    rotated_cache.save(self.adapters, self.base.config, path)

  def merge(
    self, folder: str | os.PathLike, checkpoint: str | None = None
  ) -> None:
    """Writes a model that has this LoRA in its weights, and needs no adapter.

    Args:
      folder: folder that is made; `hypertuning.load` reads it.
      checkpoint: folder of `hypertuning.convert`, or of a run, with the base's
        weights; None takes the one that the model was loaded from.

    Raises:
      UserError: this phi is no LoRA, there is no such folder, or it cannot be
        written.
    """
    # It loads models, which make phi.
    from hypertuning.api import frozen_source

    base = frozen_source.read(checkpoint or self.base.folder, 'checkpoint')
    merged.write(self.adapters, self.base.config, base, folder)

  def __repr__(self) -> str:
    made = ', '.join(f'{name}={value}' for name, value in self.made.items())
    return f'<Phi: {self.kind}, {self.num_bytes:,} bytes, {made}>'


@dataclasses.dataclass(frozen=True)
class Base:
  """The frozen model that a phi adapts.

  Attributes:
    name: the name or folder that it was loaded by.
    folder: folder of `hypertuning.convert`, or of a run, with its weights.
    hugging_face: its name for `transformers`; '' for none.
    config: its network's configuration.
    fingerprint: hexadecimal digest of a sample of its weights; '' if they have
      not been read.
  """

  name: str
  folder: str
  hugging_face: str
  config: Any
  fingerprint: str


def read(path: str | os.PathLike, base: Base, row: int = 0) -> Phi:
  """Reads a phi that was made for a model.

  Args:
    path: file that `Phi.save` or `hypertuning.infer` wrote.
    base: the model that it shall adapt.
    row: number of the phi in a file that holds several.

  Raises:
    UserError: the file is missing or damaged, its phi was made for another
      model, or it has no such row.
  """
  header = io.read_header(path)
  mark = header.config.get('fingerprint')
  if mark and base.fingerprint and mark != base.fingerprint:
    raise UserError(
      f'{path}: was made for {header.model}, whose weights are others than '
      f'those of {base.name}.'
    )
  adapters = io.load(path)
  _check_fits(path, adapters, header.model, base)
  rows = len(jax.tree.leaves(adapters)[0])
  if not 0 <= row < rows:
    raise UserError(f'{path}: has {rows} phi; there is no number {row}.')
  one = jax.tree.map(lambda x: np.asarray(x[row : row + 1]), adapters)
  made = {k: v for k, v in header.config.items() if k != 'fingerprint'}
  return Phi(one, base, made)


def _check_fits(
  path: str | os.PathLike, adapters: Adapters, made_for: str, base: Base
) -> None:
  """Refuses a phi whose sites or sizes are not those of a network."""
  problems = [
    problem
    for name, part in adapters.sites.items()
    for problem in _problems(name, part, base.config.sites.get(name))
  ]
  if problems:
    raise UserError(
      f'{path}: was made for {made_for}, and does not fit {base.name}: '
      f'{problems[0]}.'
    )


def _problems(name: str, part: Any, site: Site | None) -> Iterator[str]:
  """What of an adapter at one site does not fit the site of a network."""
  if site is None:
    yield f'there is no site {name}'
  elif isinstance(part, KeyValue):
    theirs = part.key.shape[2:]
    ours = (site.layers, site.kv_heads, site.head_dim)
    if theirs != ours:
      yield f'{name} has layers, heads and head size {theirs}, not {ours}'
  else:
    for module, factors in part.items():
      matrix = site.modules.get(module)
      shapes = factors.a.shape, factors.b.shape
      theirs = (shapes[0][1], shapes[0][2], shapes[1][3])
      if matrix is None:
        yield f'there is no {name}/{module}'
      elif theirs != (site.layers, matrix.inputs, matrix.outputs):
        ours = (site.layers, matrix.inputs, matrix.outputs)
        yield f'{name}/{module} has layers and sizes {theirs}, not {ours}'
