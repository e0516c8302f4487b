"""A tiny run of the embedded runner, as the tests of its parts share it."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import optax

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
LENGTHS = {'hyper_inputs': 48, 'inputs': (2, 6), 'targets': (2, 4)}
TASK = 'toy_symbols'
# What gin/models/hyper_t5.gin binds for warm starts.
_TOWER = 'hypermodel/((?:token_embedder|encoder|decoder)/.*)'
WARM_START_RULES = (
  ('(.*)', r'\1'),
  (_TOWER, r'downstream/\1'),
  ('downstream/(.*)', r'\1'),
  (_TOWER, r'\1'),
)
FRESH = r'hypermodel/(queries|head/.*|phi_.*)'
# Gin files and bindings of a run that compiles in seconds.
MODEL_FILES = ('gin/models/hyper_t5_prefix.gin', 'gin/experiments/toy.gin')
TRAIN_FILES = (
  *MODEL_FILES,
  'gin/optimizers/adamw.gin',
  'gin/local/train.gin',
)
PLAN_FILES = (
  *MODEL_FILES,
  'gin/optimizers/adafactor.gin',
  'gin/local/plan.gin',
)
SMALL = {
  'MIXTURE_OR_TASK_NAME': TASK,
  'MIXTURE_OR_TASK_MODULE': 'hypertuning.tasks.toy',
  'TASK_FEATURE_LENGTHS': LENGTHS,
  'NUM_LAYERS': 1,
  'EMB_DIM': 16,
  'NUM_HEADS': 2,
  'HEAD_DIM': 8,
  'MLP_DIM': 16,
  'HEAD_BOTTLENECK': 8,
  'PREFIX_LENGTH': 2,
  'BATCH_SIZE': 8,
}
TRAIN = {
  **SMALL,
  'TRAIN_STEPS': 6,
  'WARMUP_STEPS': 1,
  'EVAL_PERIOD': 3,
  'EVAL_STEPS': 1,
  'CHECKPOINT_PERIOD': 2,
}
# The first line of a program that can import neither library.
BLOCKED = (
  'import sys\n'
  'sys.modules.update(tensorflow=None, seqio=None, tensorflow_datasets=None)\n'
)
_COMMAND = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__')
"""


def model(hyper: bool = True, width: int = 16, vocab: int = 384, **overrides):
  """A `HyperTuningModel` with a prefix head over bytes."""
  from hypertuning import models
  from hypertuning.adapters import PrefixSpec
  from hypertuning.data import vocabularies
  from hypertuning.engine import optim
  from hypertuning.hypermodels import heads, hyper_t5
  from hypertuning.networks import t5

  config = t5.T5Config(
    vocab_size=vocab,
    emb_dim=width,
    num_heads=2,
    head_dim=8,
    mlp_dim=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=overrides.pop('dropout_rate', 0.1),
  )
  head = heads.PrefixHead(config, PrefixSpec(2), 8)
  fields = {
    'downstream': t5.T5(config),
    'hypermodel': hyper_t5.HyperT5(config, head) if hyper else None,
    'text_format': vocabularies.byte_format(),
    'optimizer_def': optim.adamw(optax.linear_schedule(1e-2, 0.0, 10)),
    'trainable_regex': 'hypermodel/.*' if hyper else 'downstream/.*',
  }
  return models.HyperTuningModel(**{**fields, **overrides})


def train(model_dir, model_=None, **overrides):
  """`train.train` on the toy task, in this process."""
  from hypertuning import train as train_lib

  arguments = {
    'model': model_ or model(),
    'total_steps': 6,
    'model_dir': str(model_dir),
    'eval_period': 0,
    'checkpoint_period': 2,
    'log_period': 1,
    **overrides,
  }
  arguments.setdefault('warm_start', warm_start(arguments))
  arguments = {'split': 'train', **arguments}
  return train_lib.train(**as_objects(arguments))


def warm_start(arguments):
  """A `WarmStart` of HyperT5 from flat arguments, which are taken out."""
  from hypertuning.engine import warm_start as warm_start_lib

  return warm_start_lib.WarmStart(
    arguments.pop('initial_checkpoint_path', None),
    arguments.pop('teacher_checkpoint_path', None),
    WARM_START_RULES,
    FRESH,
  )


def as_objects(arguments) -> dict:
  """Flat arguments of a command as its `TaskData` and partitioner."""
  from hypertuning.engine import partitioning, task_data

  rest = dict(arguments)
  data = task_data.TaskData(
    rest.pop('mixture_or_task_name', TASK),
    rest.pop('task_feature_lengths', LENGTHS),
    rest.pop('batch_size', 8),
    rest.pop('mixture_or_task_module', 'hypertuning.tasks.toy'),
    rest.pop('split', 'validation'),
    rest.get('random_seed', 0),
  )
  dims = {
    name: rest.pop(f'{name}_partitioning_dims')
    for name in ('activation', 'parameter', 'frozen')
    if f'{name}_partitioning_dims' in rest
  }
  partitions = rest.pop('num_partitions', 1)
  # Programs for one device compile in half of the time of those for eight.
  devices = jax.devices() if dims or partitions > 1 else jax.devices()[:1]
  partitioner = partitioning.standard(
    partitions,
    **{f'{k}_dims': v for k, v in dims.items()},
    devices=tuple(devices),
  )
  return {'data': data, 'partitioner': partitioner, **rest}


def evaluate(**arguments):
  """`eval.evaluate` from flat arguments, in this process."""
  from hypertuning import eval as eval_lib

  rest = as_objects(arguments)
  rest.pop('random_seed', None)
  return eval_lib.evaluate(**rest)


def read_lines(path: pathlib.Path) -> list[dict]:
  """The rows of a JSONL file."""
  return [json.loads(line) for line in path.read_text().splitlines()]


def losses(model_dir) -> dict[int, float]:
  """Training losses by step."""
  rows = read_lines(pathlib.Path(model_dir, 'metrics.jsonl'))
  return {r['step']: r['train/loss'] for r in rows if 'train/loss' in r}


def flags(files, bindings) -> list[str]:
  """Command-line flags as a user gives them."""
  return [
    *(f'--gin_file={file}' for file in files),
    *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
  ]


def command(name: str, files, bindings) -> list[str]:
  """A command line of an entry point."""
  return [sys.executable, '-m', f'hypertuning.{name}', *flags(files, bindings)]


def environment(devices: int = 1) -> dict[str, str]:
  """The environment of a command on `devices` CPU devices."""
  count = f'--xla_force_host_platform_device_count={devices}'
  path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
  return {**os.environ, 'XLA_FLAGS': count, 'PYTHONPATH': path}


def plain_environment() -> dict[str, str]:
  """That of a command without these tests' settings of jax."""
  return {k: v for k, v in environment().items() if not k.startswith('JAX_')}


def main(name: str, files, bindings, monkeypatch, capfd) -> tuple[int, str]:
  """Runs an entry point in this process: exit code, standard error."""
  from hypertuning import gin_utils

  function = {'eval': 'evaluate'}.get(name, name)
  monkeypatch.setattr(sys, 'argv', [name, *flags(files, bindings)])
  capfd.readouterr()
  code = 0
  try:
    gin_utils.run(f'hypertuning.{name}', function)
  except SystemExit as stop:
    code = stop.code or 0
  return code, capfd.readouterr().err


def run(name: str, files, bindings, **kwargs) -> subprocess.CompletedProcess:
  """Runs an entry point in a process of its own, away from the checkout."""
  return subprocess.run(
    command(name, files, bindings),
    env=environment(),
    capture_output=True,
    text=True,
    timeout=300,
    **kwargs,
  )


def run_without_tensorflow(
  name: str, files, bindings, **kwargs
) -> subprocess.CompletedProcess:
  """`run` in a process that can import neither TensorFlow nor seqio."""
  arguments = [f'hypertuning.{name}', *flags(files, bindings)]
  return subprocess.run(
    [sys.executable, '-c', BLOCKED + _COMMAND, *arguments],
    env=environment(),
    capture_output=True,
    text=True,
    timeout=300,
    **kwargs,
  )
