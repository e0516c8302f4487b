"""The configuration of a GGUF file, as Hugging Face's `config.json` has it."""

from collections.abc import Mapping
from typing import Any

from hypertuning.conversion import families
from hypertuning.conversion.fields import Fields
from hypertuning.errors import UserError

# Beginnings of the names of the fields that are read.
KEYS = (
  *('general.architecture', 'split.', 'tokenizer.ggml.'),
  *(f'{family.gguf.architecture}.' for family in families.ALL),
)


def config(
  values: Mapping[str, Any], tensors: Mapping[str, Any], place: str
) -> Fields:
  """The configuration of a model.

  Args:
    values: fields of the file.
    tensors: arrays of the file, as the library `gguf` gives them.
    place: path of the file.

  Raises:
    UserError: the file holds another architecture, is one part of several, or
      lacks a field.
  """
  own = Fields(values, place)
  if own.get('split.count', 1) != 1:
    raise UserError(
      f'{place}: is one of {own.get("split.count")} parts; join them with '
      'llama-gguf-split --merge.'
    )
  by_name = {family.gguf.architecture: family for family in families.ALL}
  architecture = own.get('general.architecture')
  if architecture not in by_name:
    raise own.refuse(
      'general.architecture',
      f'this architecture is not read, {", ".join(by_name)} are',
    )
  if 'token_embd.weight' not in tensors:
    raise UserError(f'{place}: has no array token_embd.weight.')
  family = by_name[architecture]
  made = {
    'architectures': [family.architecture],
    **family.gguf.fields(own, tensors),
    'vocab_size': int(tensors['token_embd.weight'].shape[-1]),
    'tie_word_embeddings': 'output.weight' not in tensors,
    'torch_dtype': 'float32',
  }
  for name, key in (
    ('bos_token_id', 'tokenizer.ggml.bos_token_id'),
    ('eos_token_id', 'tokenizer.ggml.eos_token_id'),
  ):
    if own.get(key) is not None:
      made[name] = own.get(key)
  return Fields(made, place)
