"""A Llama's prefix as the cache that `transformers` takes.

Our keys have no positions yet. `transformers` keeps keys that have been turned
by theirs: at export, those of a prefix of P tokens get the positions 0 to
P - 1, and a text goes on at P. A file that `save` wrote is read without this
library:

    stored = safetensors.torch.load_file('phi_cache.safetensors')
    shape = (-1, len(texts), -1, -1, -1)
    keys = stored['key'][:, None].expand(shape)
    values = stored['value'][:, None].expand(shape)
    cache = transformers.DynamicCache(list(zip(keys, values)))
    batch = tokenizer(texts, return_tensors='pt', padding=True)
    before = torch.ones(len(texts), keys.shape[3], dtype=torch.long)
    mask = torch.cat([before, batch.attention_mask], dim=1)
    settings = {'attention_mask': mask, 'cache': cache, 'max_new_tokens': 8}
    ids = model.generate(batch.input_ids, **settings)

The mask has the columns of the prefix, all ones, before those of the text. A
mask of the text alone gives wrong texts and no error. `generate` counts the
positions from this mask, and needs texts that are padded on the left
(`tokenizer.padding_side`). A call of the model itself counts them from the
cache, which is right for texts that are padded on the right; for others, give
`position_ids = (mask.cumsum(1) - 1)[:, P:]`. A call writes into its cache: make
one per call. `cache` was called `past_key_values` before transformers 5.24.
"""

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from hypertuning import files
from hypertuning.adapters import Adapters, KeyValue, Prefix
from hypertuning.conversion import families
from hypertuning.errors import UserError
from hypertuning.exporting import checks
from hypertuning.networks import llama_config

FORMAT = 'hypertuning.rotated_cache.v1'


class Turned(NamedTuple):
  """Keys that have been turned by the positions 0 to `prefix - 1`, and values.

  Attributes:
    key: keys, float32 `[layers, kv_heads, prefix, head_dim]`.
    value: values, in the same shape.
  """

  key: np.ndarray
  value: np.ndarray


def save(prefix: Adapters, config: Any, path: str | os.PathLike) -> None:
  """Writes a prefix with turned keys as a safetensors file.

  The file has `key` and `value`, see `Turned`. Its header names the format and
  the position of the text.

  Args:
    prefix: prefix of one episode for a Llama.
    config: config of the network.
    path: path of the file, which appears whole or not at all.

  Raises:
    UserError: see `turned`; or the file cannot be written.
  """
  own = turned(prefix, config)
  metadata = {'format': FORMAT, 'text_position': str(own.key.shape[2])}
  try:
    with files.atomic_file(files.folder(path)) as temporary:
      save_file({'key': own.key, 'value': own.value}, temporary, metadata)
  except SafetensorError as error:
    raise UserError(
      f'{path}: cannot be written ({files.reason(error)}).'
    ) from error


def to_transformers(
  prefix: Adapters, config: Any, batch_size: int, like: Any = None
) -> Any:
  """A prefix as a cache for one call of `generate` or of the model.

  See the module's docstring for the mask and the positions that a call needs.

  Args:
    prefix: prefix of one episode for a Llama.
    config: config of the network.
    batch_size: number of texts, all of which get the prefix.
    like: model or tensor of PyTorch, whose device and dtype the cache gets; by
      default float32 on the CPU.

  Returns:
    A `transformers.DynamicCache`.

  Raises:
    UserError: see `turned`; or PyTorch or transformers is not installed.
  """
  try:
    import torch
    import transformers
  except ImportError as error:
    raise UserError(
      'A cache for transformers needs torch and transformers: '
      "pip install '.[hf]'."
    ) from error
  own = turned(prefix, config)
  device, dtype = (like.device, like.dtype) if like is not None else (None,) * 2

  def layer(array: np.ndarray) -> Any:
    tensor = torch.tensor(array, device=device).to(dtype or torch.float32)
    return tensor.expand(batch_size, *tensor.shape)

  return transformers.DynamicCache(
    [(layer(k), layer(v)) for k, v in zip(own.key, own.value, strict=True)]
  )


def turned(prefix: Adapters, config: Any) -> Turned:
  """The keys and values of a prefix, with the keys turned by their positions.

  Args:
    prefix: prefix of one episode.
    config: config of the network.

  Raises:
    UserError: the adapters are no such prefix, do not fit the network, or
      cannot leave; says what is offered instead.
  """
  own = _checked(prefix, config)
  # From `[1, prefix, layers, kv_heads, head_dim]`.
  key, value = (
    np.asarray(jax.device_get(x), np.float32)[0].transpose(1, 2, 0, 3)
    for x in (own.key, own.value)
  )
  positions = jnp.arange(key.shape[2])[None]
  return Turned(
    np.array(config.rotary(key, positions)), np.ascontiguousarray(value)
  )


def _checked(prefix: Adapters, config: Any) -> KeyValue:
  """The prefix of the network's only attention, as it is."""
  if not isinstance(prefix, Prefix):
    raise UserError(
      'phi is LoRA, but a prefix is needed here; LoRA leaves as a PEFT LoRA '
      'folder, or merged into a checkpoint.'
    )
  no_prefix = families.find_by_config(config).no_prefix
  if no_prefix:
    raise UserError(no_prefix)
  if config.prefix_gap:
    raise UserError(
      f'PREFIX_GAP = {config.prefix_gap}: transformers puts a text right '
      'behind its cache, without free positions; export a prefix of '
      'PREFIX_GAP = 0, or LoRA (gin/models/hyper_llama_lora.gin).'
    )
  if prefix.mask is not None:
    raise UserError(
      'phi is a prefix with a mask, which holds examples as they are, and no '
      'file has a place for the mask; put the examples into the prompt, or '
      'export a generated prefix.'
    )
  checks.one_episode(prefix)
  if set(prefix.sites) != {llama_config.SELF}:
    raise UserError(
      f'phi: a Llama has a prefix at {llama_config.SELF!r} alone, but this one '
      f'is at {", ".join(prefix.sites)}.'
    )
  own, site = prefix.sites[llama_config.SELF], config.sites[llama_config.SELF]
  wanted = (1, own.key.shape[1], site.layers, site.kv_heads, site.head_dim)
  for name, array in (('keys', own.key), ('values', own.value)):
    if array.shape != wanted:
      raise UserError(
        f'phi: its {name} are {array.shape}, but in this network they are '
        f'{wanted}.'
      )
  return own
