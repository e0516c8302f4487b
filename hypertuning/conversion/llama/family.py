"""Llama, as one of the families that are converted."""

from hypertuning.conversion.family import Family
from hypertuning.conversion.llama import (
  config,
  gguf,
  gin_files,
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
  names=names.NAMES,
  vocabulary=vocabulary.read,
  pieces=vocabulary.PIECES,
  gguf=gguf.GGUF,
  gin=gin_files.GIN,
)
