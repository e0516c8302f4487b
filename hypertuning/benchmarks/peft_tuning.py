"""Tunes Hugging Face's PEFT on the examples of a task, in PyTorch.

An answer counts if it is right under greedy decoding: every token of the target
is the most likely one behind those before it. One call of the model tells, also
where `generate` would ignore a prefix, see docs/adapters.md.
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
import transformers
from torch.utils import flop_counter

from hypertuning.api.model import Model
from hypertuning.api.questions import Question
from hypertuning.conversion import families
from hypertuning.data.tuning_files import TuningTask
from hypertuning.padding import PAD_ID

LORA, PREFIX = 'LoRA by PEFT', 'prefix tuning by PEFT'
METHODS = (LORA, PREFIX)
RANK, ALPHA, PREFIX_LENGTH = 8, 16, 16
LEARNING_RATES = {LORA: 1e-3, PREFIX: 1e-2}
_ROWS = 32  # of a batch of tests
_UNASKED = -100  # the label of a token without a loss, by PyTorch's convention
_SEED = 0


class _Batch(NamedTuple):
  """Arguments of a model of `transformers`, `[rows, tokens]` each."""

  input_ids: torch.Tensor
  attention_mask: torch.Tensor
  labels: torch.Tensor


class Tuner:
  """Tunes adapters of one frozen model, a new one per task and method."""

  def __init__(
    self,
    folder: str,
    model: Model,
    swapped: tuple[int, int] | None,
    steps: int,
    eval_period: int,
  ) -> None:
    """Loads the frozen model in float32.

    Args:
      folder: the frozen model as a folder of Hugging Face's.
      model: the same model, for the format of its text.
      swapped: two ids that have changed places between the two.
      steps: most steps of tuning.
      eval_period: number of steps between two tests.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    self._family = families.find_by_config(model.base.config)
    kind = getattr(transformers, self._family.architecture)
    self._base = kind.from_pretrained(
      folder,
      dtype=torch.float32,
      # PyTorch does not count the FLOPs of its own attention on a CPU.
      attn_implementation='eager',
    )
    self._model = model
    self._places = dict([swapped, swapped[::-1]] if swapped else [])
    self._ends = torch.tensor(
      [self._places.get(i, i) for i in model.text_format.end_ids]
    )
    self._steps, self._period = steps, eval_period

  def tune(
    self, method: str, task: TuningTask, target: float
  ) -> dict[str, Any]:
    """Tunes until a test is as good as phi, and else for all steps.

    Args:
      method: one of `METHODS`.
      task: the task. Each step reads all of its examples.
      target: percent of the test rows that phi answers.

    Returns:
      A row like those of `adapting.at_once`, with 'steps', 'reached', 'start'
      (accuracy before the first step), 'start_loss' (loss per target token of
      the examples then) and 'curve' (steps, seconds and accuracy of each test).
      Accuracy, seconds and FLOPs are those of the first test that reaches the
      target; else of the best one, or of the last one if none is better than
      the start. Tests and a first step, which warms up and changes nothing,
      take no part in the seconds.
    """
    with warnings.catch_warnings():
      # PEFT has its own way with the names of transformers' arguments.
      warnings.simplefilter('ignore', FutureWarning)
      return self._tune(method, task, target)

  def _tune(
    self, method: str, task: TuningTask, target: float
  ) -> dict[str, Any]:
    torch.manual_seed(_SEED)
    tuned = peft.get_peft_model(self._base, self._config(method))
    weights = [x for x in tuned.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATES[method])
    examples = self._batch(task.examples)
    tests = [
      self._batch(task.test[i : i + _ROWS])
      for i in range(0, len(task.test), _ROWS)
    ]
    with flop_counter.FlopCounterMode(display=False) as counter:
      first = tuned(**examples._asdict()).loss
      first.backward()
    optimizer.zero_grad()
    start = self._accuracy(tuned, tests)
    curve: list[dict[str, float]] = []
    seconds = 0.0
    for step in range(1, self._steps + 1):
      begin = time.perf_counter()
      optimizer.zero_grad()
      tuned(**examples._asdict()).loss.backward()
      optimizer.step()
      seconds += time.perf_counter() - begin
      if step % self._period and step < self._steps:
        continue
      accuracy = self._accuracy(tuned, tests)
      curve.append({'steps': step, 'seconds': seconds, 'accuracy': accuracy})
      if accuracy >= target:
        break
    if method == LORA:
      tuned.unload()  # takes its layers out of the frozen model
    best = max(curve, key=lambda test: test['accuracy'])
    if best['accuracy'] <= start and best['accuracy'] < target:
      best = curve[-1]  # nothing came of all of its steps
    return {
      **{'task': task.name, 'way': method, **best},
      **{'start': start, 'start_loss': float(first.detach())},
      'reached': best['accuracy'] >= target,
      'flops': int(counter.get_total_flops() * best['steps']),
      'bytes': sum(x.numel() * x.element_size() for x in weights),
      'curve': curve,
    }

  def _config(self, method: str) -> peft.PeftConfig:
    if method == LORA:
      return peft.LoraConfig(
        task_type=self._family.task,
        r=RANK,
        lora_alpha=ALPHA,
        target_modules='all-linear',  # but for the head
      )
    return peft.PrefixTuningConfig(
      task_type=self._family.task, num_virtual_tokens=PREFIX_LENGTH
    )

  def _batch(self, pairs: Sequence[tuple[str, str]]) -> _Batch:
    """Rows in the ids of the folder's model, padded on the right."""
    features, _ = self._model.batch([Question(x, y) for x, y in pairs], 1)
    inputs, targets = (
      features[name][: len(pairs), 0]
      for name in ('input_tokens', 'target_tokens')
    )
    rows = [
      (x[x != PAD_ID], y[y != PAD_ID])
      for x, y in zip(inputs, targets, strict=True)
    ]
    if self._family.is_causal:
      ids = _padded([np.concatenate(row) for row in rows], PAD_ID)
      labels = _padded(
        [np.concatenate([np.full_like(x, _UNASKED), y]) for x, y in rows],
        _UNASKED,
      )
    else:
      ids = _padded([x for x, _ in rows], PAD_ID)
      labels = _padded([y for _, y in rows], _UNASKED)
    return _Batch(
      self._theirs(ids), (ids != PAD_ID).long(), self._theirs(labels)
    )

  def _theirs(self, ids: torch.Tensor) -> torch.Tensor:
    """Our ids as those of the folder's model; padding is masked, and stays."""
    changed = ids.clone()
    for own, other in self._places.items():
      if own != PAD_ID:
        changed[ids == own] = other
    return changed

  def _accuracy(self, tuned: Any, tests: Sequence[_Batch]) -> float:
    """Percent of the rows whose every token is the most likely one."""
    hits: list[bool] = []
    tuned.eval()
    with torch.no_grad():
      for batch in tests:
        found = tuned(**batch._asdict()).logits.argmax(-1)
        labels = batch.labels
        if self._family.is_causal:  # a token is predicted one place before it
          found, labels = found[:, :-1], labels[:, 1:]
        both_end = torch.isin(found, self._ends) & torch.isin(
          labels, self._ends
        )
        is_right = (found == labels) | both_end | (labels == _UNASKED)
        hits += is_right.all(1).tolist()
    tuned.train()
    return 100 * sum(hits) / len(hits)


def _padded(rows: Sequence[np.ndarray], filler: int) -> torch.Tensor:
  length = max(map(len, rows))
  return torch.tensor(
    np.stack(
      [np.pad(x, (0, length - len(x)), constant_values=filler) for x in rows]
    )
  ).long()
