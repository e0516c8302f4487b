"""LoRA merged into the weights of a checkpoint."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hypertuning import folders, quantization, saved_config
from hypertuning.adapters import Adapters
from hypertuning.conversion import families, model_folder
from hypertuning.conversion.checkpoint_source import CheckpointSource
from hypertuning.conversion.sources import Rows
from hypertuning.engine import checkpoint_folders, checkpoints, t5x_format
from hypertuning.errors import UserError
from hypertuning.exporting import factors
from hypertuning.exporting.factors import Factors, Updates

_BASE = 'checkpoint'


def write(
  adapters: Adapters,
  config: Any,
  base: CheckpointSource,
  output: str | os.PathLike,
  binding: str = 'output',
) -> None:
  """Writes a model that needs no adapter.

  The folder is like those of `convert`, or, if the base is a run's, like a run
  of the frozen model alone. It is read like any of these, and
  `python -m hypertuning.convert --to_hugging_face` takes it to `transformers`.
  Weights keep their dtype: each sum is computed in float32 and rounded once.

  Args:
    adapters: LoRA of one episode.
    config: config of the network.
    base: the frozen model, see `api.frozen_source`.
    output: folder that is made; it appears whole or not at all.
    binding: name of the flag or argument that gives the output, for error
      messages.

  Raises:
    UserError: the adapters are no LoRA of one episode, or do not fit the
      network; the checkpoint is another model's, or holds kernels in 8 or 4
      bits; or the folder has files already or cannot be written.
  """
  updates = factors.read(adapters, config)
  checkpoint_folders.folder(os.fspath(output), binding)
  folders.new_folder(output, binding)
  _refuse_quantized(str(base.path))
  family = families.find(base.fields)
  if family.config(base.fields).sites != config.sites:
    raise UserError(
      f'{_BASE} = {str(base.path)!r}: phi was made for a model of other sizes.'
    )
  kernels = {
    family.names.find(path): pair for path, pair in updates.kernels.items()
  }
  total = _Sum(base, Updates(kernels, updates.scale))
  if base.origin.model:
    model = saved_config.without_hypermodel(base.origin.model)
    model_folder.write_run(
      *(total, base.origin.vocabulary, model, output, binding)
    )
  else:
    model_folder.write(total, output, binding)


class _Sum:
  """A `sources.Source` whose kernels are those of another one, updated."""

  def __init__(self, base: CheckpointSource, updates: Updates) -> None:
    self.place, self.fields, self.arrays = base.place, base.fields, base.arrays
    self._base, self._updates = base, updates

  @contextlib.contextmanager
  def open(self, name: str) -> Iterator[Rows]:
    """A context in which an array can be read."""
    with self._base.open(name) as rows:
      pair = self._updates.kernels.get(name)
      yield rows if pair is None else _Rows(rows, pair, self._updates.scale)

  def vocabulary_files(self) -> Mapping[str, bytes]:
    """The content of the files of the vocabulary, by name."""
    return self._base.vocabulary_files()


class _Rows:
  """Rows of a kernel of Hugging Face's, which are our columns, updated."""

  def __init__(self, rows: Rows, pair: Factors, scale: float) -> None:
    self._rows, self._pair, self._scale = rows, pair, np.float32(scale)

  def __getitem__(self, rows: slice) -> np.ndarray:
    kernel = self._rows[rows]
    # In numpy: an accelerator would multiply in fewer bits.
    update = self._scale * (self._pair.a @ self._pair.b[:, rows])
    return (kernel.astype(np.float32) + update.T).astype(kernel.dtype)


def _refuse_quantized(checkpoint: str) -> None:
  """Refuses a checkpoint whose kernels are in 8 or 4 bits.

  Raises:
    UserError: there is no checkpoint, or it has such kernels.
  """
  if t5x_format.is_checkpoint(checkpoint_folders.find(checkpoint, _BASE)):
    return
  variables = checkpoints.restore_variables(checkpoint, _BASE)
  nodes = jax.tree.leaves(variables, is_leaf=quantization.is_quantized)
  if any(map(quantization.is_quantized, nodes)):
    raise UserError(
      f'{_BASE} = {checkpoint!r}: its kernels are in 8 or 4 bits, which a sum '
      'does not fit into; merge into the checkpoint that they were rounded '
      'from, or export LoRA as a PEFT folder.'
    )
