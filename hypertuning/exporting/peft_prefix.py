"""A Llama's prefix as a folder of PEFT's prefix tuning.

    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(model, folder)
    logits = model(input_ids, attention_mask=mask).logits

Calling the model equals our network. The mask is that of the text; rows are
padded on the right, or come with `position_ids` that count from 0. PEFT adds
the prefix to both.

Its `generate` does not: with transformers 5.24 and PEFT 0.21 it leaves the
prefix out in silence. The base model generates with the same cache:

    cache = model.get_prompt(len(input_ids))
    ids = model.get_base_model().generate(
        input_ids, attention_mask=prefix_and_text_mask, cache=cache)

`exporting.rotated_cache` makes this cache without PEFT, and says which mask it
needs.
"""

from typing import Any

import numpy as np

from hypertuning.adapters import Adapters
from hypertuning.conversion import families
from hypertuning.exporting import peft_folder, rotated_cache


def write(
  prefix: Adapters,
  config: Any,
  folder: str,
  base: str,
  binding: str = 'folder',
) -> None:
  """Writes a prefix for the model that the base's converted weights give.

  Args:
    prefix: prefix of one episode for a Llama.
    config: config of the network.
    folder: folder that is made; it appears whole or not at all.
    base: name or path of the base in `transformers`; '' for none.
    binding: name of the flag or argument that gives the folder, for error
      messages.

  Raises:
    UserError: see `rotated_cache.turned`; or the folder has files already or
      cannot be written.
  """
  own = rotated_cache.turned(prefix, config)
  layers, heads, length, head_dim = own.key.shape
  # A row has, for each layer, the keys and then the values of all heads.
  pairs = np.stack([own.key, own.value], axis=1).transpose(3, 0, 1, 2, 4)
  fields = {
    'peft_type': 'PREFIX_TUNING',
    'task_type': families.find_by_config(config).task,
    'num_virtual_tokens': length,
    'num_layers': layers,
    'num_attention_heads': heads,  # of keys and values
    'token_dim': heads * head_dim,
    'num_transformer_submodules': 1,
    'encoder_hidden_size': heads * head_dim,
    'prefix_projection': False,
  }
  tensors = {'prompt_embeddings': pairs.reshape(length, -1)}
  peft_folder.write(tensors, fields, folder, base, binding)
