"""LoRA as a folder that `peft.PeftModel.from_pretrained` reads."""

from collections.abc import Collection
from typing import Any

from hypertuning.adapters import Adapters
from hypertuning.conversion import families
from hypertuning.conversion.family import Family
from hypertuning.errors import UserError
from hypertuning.exporting import factors, peft_folder


def write(
  adapters: Adapters,
  config: Any,
  folder: str,
  base: str,
  binding: str = 'folder',
) -> None:
  """Writes LoRA for the model that the base's converted weights give.

      model = transformers.AutoModelForCausalLM.from_pretrained(base)
      model = peft.PeftModel.from_pretrained(model, folder)

  The base is a folder of `hypertuning.convert --to_hugging_face`, or the public
  model that our checkpoint was converted from. A T5 is an
  `AutoModelForSeq2SeqLM`.

  Args:
    adapters: LoRA of one episode.
    config: config of the network, a `LlamaConfig` or `T5Config`.
    folder: folder that is made; it appears whole or not at all.
    base: name or path of the base in `transformers`, which PEFT keeps as
      `base_model_name_or_path`; '' for none.
    binding: name of the flag or argument that gives the folder, for error
      messages.

  Raises:
    UserError: the adapters are no LoRA of one episode, do not fit the network,
      or have several ranks; `transformers` has no such network; or the folder
      has files already or cannot be written.
  """
  family = families.find_by_config(config)
  updates = factors.read(adapters, config)
  kernels = {
    _module(path, family): pair for path, pair in updates.kernels.items()
  }
  ranks = sorted({pair.a.shape[1] for pair in kernels.values()})
  if len(ranks) != 1:
    raise UserError(
      f'phi: LoRA of one rank is needed here, but it has {ranks}.'
    )
  alpha = updates.scale * ranks[0]
  tensors = {}
  for name, pair in kernels.items():
    # PyTorch's matrices have outputs before inputs.
    tensors[f'base_model.model.{name}.lora_A.weight'] = pair.a.T
    tensors[f'base_model.model.{name}.lora_B.weight'] = pair.b.T
  fields = {
    'peft_type': 'LORA',
    'task_type': family.task,
    'r': ranks[0],
    # PEFT divides any number; other readers take whole ones alone.
    'lora_alpha': int(alpha) if alpha == int(alpha) else alpha,
    'lora_dropout': 0.0,
    'bias': 'none',
    'fan_in_fan_out': False,
    'use_rslora': False,
    'target_modules': _targets(kernels, _all_modules(config, family)),
  }
  peft_folder.write(tensors, fields, folder, base, binding)


def _module(path: str, family: Family) -> str:
  """Hugging Face's name of the module that has a kernel of ours."""
  return family.names.find(path).removesuffix('.weight')


def _all_modules(config: Any, family: Family) -> list[str]:
  """Hugging Face's names of all projections that LoRA can update."""
  return [
    _module(path, family)
    for site in config.sites.values()
    for matrix in site.modules.values()
    for path in factors.paths(matrix, site.layers)
  ]


def _targets(updated: Collection[str], modules: Collection[str]) -> list[str]:
  """Names for `target_modules`: PEFT updates what ends in one of them.

  Args:
    updated: names of the modules that are updated.
    modules: names of all modules.

  Returns:
    The shortest endings that no other module has, such as `q_proj`.
  """
  targets = set()
  for name in updated:
    parts = name.split('.')
    endings = ('.'.join(parts[-n:]) for n in range(1, len(parts) + 1))
    targets.add(
      next(
        ending
        for ending in endings
        if all(
          other in updated
          for other in modules
          if f'.{other}'.endswith(f'.{ending}')
        )
      )
    )
  return sorted(targets)
