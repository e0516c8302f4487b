"""The peers: transformers and PEFT in PyTorch, with random weights.

They have our sizes, read our batches and do the same work: the loss of the
targets, its gradient, clipping and the optimizer's step in float32 on CPUs; on
a GPU under bfloat16 autocast, with what does not train stored in bfloat16.
"""

import gc
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import peft
import torch
import transformers

from hypertuning.adapters import LoRASpec, PrefixSpec
from hypertuning.conversion import families
from hypertuning.conversion.family import Family
from hypertuning.errors import UserError
from hypertuning.exporting import factors
from hypertuning.models import HyperTuningModel

_OPTIMIZERS = {'adamw': torch.optim.AdamW, 'adafactor': torch.optim.Adafactor}
_LEARNING_RATE = 1e-3
_MOST_NORM = 1.0  # of gradients, as in gin/optimizers


class TorchStep:
  """A training step of transformers, or of PEFT on top of it.

  Attributes:
    trained: number of parameters that are trained.
    rows: number of rows per step: on a GPU, the most that fit of the batch, its
      half, a quarter and so on.
  """

  def __init__(
    self,
    model: HyperTuningModel,
    features: Mapping[str, np.ndarray],
    method: str,
    optimizer: str,
    is_compiled: bool,
  ) -> None:
    """Makes the peer of a model, and takes two steps.

    Args:
      model: our model.
      features: its batch.
      method: what is trained: `full`, `lora` or `prefix`.
      optimizer: `adamw` or `adafactor`.
      is_compiled: whether `torch.compile` compiles it.
    """
    transformers.logging.set_verbosity_error()
    # PEFT has its own way with the names of transformers' arguments.
    warnings.simplefilter('ignore', FutureWarning)
    torch.manual_seed(0)
    self._on_gpu = torch.cuda.is_available() and jax.default_backend() == 'gpu'
    self._device = torch.device('cuda' if self._on_gpu else 'cpu')
    config = model.module.downstream.config
    self._family = families.find_by_config(config)
    net: Any = make(config)
    if method != 'full':
      if self._on_gpu:
        net = net.to(torch.bfloat16)
      source: Any = model.module.hypermodel
      net = peft.get_peft_model(
        net, _adapter(source.adapter, config, self._family)
      )
    net = net.to(self._device).train()
    self._weights = [x for x in net.parameters() if x.requires_grad]
    self.trained = sum(x.numel() for x in self._weights)
    options: dict[str, Any] = {'lr': _LEARNING_RATE, 'weight_decay': 0.0}
    if optimizer == 'adamw':
      options |= {'betas': (0.9, 0.98), 'fused': True}
    self._optimizer = _OPTIMIZERS[optimizer](self._weights, **options)
    self._net = torch.compile(net, dynamic=False) if is_compiled else net
    self._inputs, self._targets = (
      torch.tensor(x.reshape(-1, x.shape[-1]), dtype=torch.long)
      for x in (features['input_tokens'], features['target_tokens'])
    )
    self.rows = len(self._inputs)
    self._warm_up()

  def __call__(self) -> float:
    """Takes a step, waits for it, and returns its loss."""
    self._optimizer.zero_grad(set_to_none=True)
    with torch.autocast(
      self._device.type, torch.bfloat16, enabled=self._on_gpu
    ):
      loss = self._loss()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(self._weights, _MOST_NORM)
    self._optimizer.step()
    return loss.item()

  def row(self) -> dict[str, Any]:
    """What a row of results has about the step."""
    peak = torch.cuda.max_memory_allocated() if self._on_gpu else None
    return {'rows': self.rows, 'trained': self.trained, 'peak_bytes': peak}

  def _loss(self) -> torch.Tensor:
    inputs = self._inputs[: self.rows].to(self._device)
    targets = self._targets[: self.rows].to(self._device)
    if self._family.task == 'SEQ_2_SEQ_LM':
      logits = self._net(input_ids=inputs, labels=targets).logits
    else:
      # As many logits as ours has: a token is predicted one place before it.
      logits = self._net(
        input_ids=torch.cat([inputs, targets], 1),
        logits_to_keep=targets.shape[1] + 1,
        use_cache=False,
      ).logits[:, -targets.shape[1] - 1 : -1]
    return torch.nn.functional.cross_entropy(
      logits.flatten(0, 1).float(), targets.flatten()
    )

  def _warm_up(self) -> None:
    """Two steps; on a GPU, with half of the rows until they fit."""
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      while True:
        try:
          self(), self()
          return
        except torch.cuda.OutOfMemoryError:
          if self.rows == 1:
            raise
        self.rows //= 2
        self._optimizer.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()


def make(config: Any) -> Any:
  """A model of transformers with our sizes and random float32 weights.

  Args:
    config: our config of the network.

  Raises:
    UserError: transformers has no such architecture.
  """
  family = families.find_by_config(config)
  fields = family.fields(config)
  ends = dict.fromkeys(('bos_token_id', 'eos_token_id'))  # no text ends early
  theirs = transformers.AutoConfig.for_model(
    **{**fields, **ends, 'pad_token_id': 0}
  )
  net = getattr(transformers, family.architecture)(theirs)
  # transformers 5 ties the head of every T5 that it makes, whatever its config
  # says: only a file's own head stays apart.
  head = net.get_output_embeddings()
  is_tied = head.weight is net.get_input_embeddings().weight
  if is_tied and not fields['tie_word_embeddings']:
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
  return net


def decoder(config: Any, inputs: np.ndarray, length: int) -> Callable[[], None]:
  """Greedy decoding by `generate`, as a function that waits for its end.

  Args:
    config: our config of the network.
    inputs: ids, int `[rows, tokens]`, none of them padding.
    length: number of tokens that are decoded per row.

  Raises:
    UserError: transformers has no such architecture, or ends a text early.
  """
  transformers.logging.set_verbosity_error()
  on_gpu = torch.cuda.is_available() and jax.default_backend() == 'gpu'
  net = make(config).eval()
  if on_gpu:
    net = net.to('cuda', torch.bfloat16)
  tokens = torch.tensor(inputs, dtype=torch.long, device=net.device)
  mask = torch.ones_like(tokens)
  family = families.find_by_config(config)
  start = tokens.shape[1] if family.is_causal else 1

  def generate() -> None:
    with torch.inference_mode():
      made = net.generate(
        tokens,
        attention_mask=mask,
        num_beams=1,
        do_sample=False,
        max_new_tokens=length,
      ).cpu()
    if made.shape[1] != start + length:
      raise UserError(
        'transformers ended a text early; compare another version.'
      )

  return generate


def _adapter(spec: Any, config: Any, family: Family) -> Any:
  """PEFT's config of the adapters that a spec of ours describes."""
  if isinstance(spec, PrefixSpec):
    return peft.PrefixTuningConfig(
      task_type=family.task, num_virtual_tokens=spec.length
    )
  assert isinstance(spec, LoRASpec)
  modules = [
    family.names.find(path).removesuffix('.weight')
    for site, matrices in spec.matrices(config).items()
    for matrix in matrices.values()
    for path in factors.paths(matrix, config.sites[site].layers)
  ]
  return peft.LoraConfig(
    task_type=family.task,
    r=spec.rank,
    lora_alpha=spec.alpha,  # type: ignore[arg-type]  # any number
    target_modules=modules,
  )
