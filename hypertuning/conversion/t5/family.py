"""T5, as one of the families that are converted."""

from hypertuning.conversion.family import Family
from hypertuning.conversion.t5 import config, gguf, gin_files, names, vocabulary
from hypertuning.networks import t5
from hypertuning.networks.t5_config import T5Config

T5 = Family(
  network=t5.T5,
  config_class=T5Config,
  model_types=config.MODEL_TYPES,
  architecture='T5ForConditionalGeneration',
  task='SEQ_2_SEQ_LM',
  config=config.config,
  fields=config.fields,
  names=names.NAMES,
  vocabulary=vocabulary.read,
  pieces=vocabulary.PIECES,
  gguf=gguf.GGUF,
  gin=gin_files.GIN,
  no_prefix=(
    'phi is a prefix of a T5, which cannot leave: transformers adds the '
    'relative bias to the columns of a prefix, where ours is 0, and its '
    'encoder has no cache; make LoRA instead (gin/models/hyper_t5_lora.gin).'
  ),
)
