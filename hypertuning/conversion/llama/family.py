"""Llama, as one of the families that are converted."""

from hypertuning.conversion.family import Family, Gguf, Gin
from hypertuning.conversion.llama import (
  config,
  gguf,
  gin_size,
  names,
  vocabulary,
)
from hypertuning.networks.llama import Llama
from hypertuning.networks.llama_config import LlamaConfig

LLAMA = Family(
  network=Llama,
  config_class=LlamaConfig,
  model_types=config.MODEL_TYPES,
  architecture='LlamaForCausalLM',
  task='CAUSAL_LM',
  config=config.config,
  fields=config.fields,
  their_name=names.their_name,
  embedding=names.EMBEDDING,
  head=names.HEAD,
  computed=names.COMPUTED,
  copies=names.COPIES,
  vocabulary=vocabulary.read,
  pieces=vocabulary.PIECES,
  gguf=Gguf('llama', gguf.fields, gguf.READ, gguf.paired_heads),
  gin=Gin(
    'gin/models/llama.gin',
    'hyper_llama.gin',
    'gin/architectures/llama_full_size.gin',
    gin_size.size,
  ),
)
