"""Runs of tiny models that gin has configured, to be loaded from Python."""

import pathlib

import runner

from hypertuning import gin_utils, train

HERE = pathlib.Path(__file__).parent
FAMILIES = {
  'prefix': (*runner.TRAIN_FILES,),
  'lora': (
    'gin/models/hyper_t5_lora.gin',
    *runner.TRAIN_FILES[1:],
  ),
  'hyper_llama_lora': (
    'gin/models/hyper_llama_lora.gin',
    'gin/models/sizes/tiny.gin',
    *runner.TRAIN_FILES[2:],
  ),
  'hyper_llama': (
    str(HERE / 'tiny_hyper_llama.gin'),
    *runner.TRAIN_FILES[2:],
  ),
}
_HYPER_LLAMA = {
  'MIXTURE_OR_TASK_NAME': 'toy_symbols_of_decoder',
  'MIXTURE_OR_TASK_MODULE': 'decoder_tasks',
  **{k: runner.TRAIN[k] for k in ('BATCH_SIZE', 'EVAL_STEPS')},
  **{'TRAIN_STEPS': 6, 'WARMUP_STEPS': 1, 'EVAL_PERIOD': 3},
  **{'CHECKPOINT_PERIOD': 2, 'TASK_FEATURE_LENGTHS': runner.LENGTHS},
}
_WIDTHS = {
  'prefix': runner.TRAIN,
  'lora': {
    **{k: v for k, v in runner.TRAIN.items() if k != 'PREFIX_LENGTH'},
    'LORA_RANK': 4,
  },
  'hyper_llama': _HYPER_LLAMA,
  'hyper_llama_lora': {
    **_HYPER_LLAMA,
    **{'EMB_DIM': 16, 'NUM_LAYERS': 2, 'NUM_HEADS': 4, 'NUM_KV_HEADS': 2},
    **{'HEAD_DIM': 8, 'MLP_DIM': 32, 'GIST_LORA_RANK': 2},
    **{'LORA_RANK': 4, 'HEAD_BOTTLENECK': 8},
  },
}


def make(folder, family: str, **bindings) -> str:
  """Trains a run of a family for a few steps, and returns its folder."""
  values = {**_WIDTHS[family], 'MODEL_DIR': str(folder), **bindings}
  gin_utils.parse(
    FAMILIES[family], [f'{name} = {value!r}' for name, value in values.items()]
  )
  gin_utils.call(train.train)
  return str(folder)
