"""Wrong values for the macros of every command, drawn from a seed."""

import ast
import random
from collections.abc import Iterator
from typing import Any

import gin
import runner
from gin import config as gin_config

from hypertuning import gin_utils

_LORA = ('gin/models/hyper_t5_lora.gin', 'gin/experiments/toy.gin')
_TRAIN_REST = ('gin/optimizers/adamw.gin', 'gin/local/train.gin')
_TRAIN = {**runner.TRAIN, 'MODEL_DIR': 'run'}
_READ = {**runner.SMALL, 'CHECKPOINT_PATH': 'run', 'DROPOUT_RATE': 0.1}
_IN_CONTEXT = {
  'IN_CONTEXT_MIXTURE_OR_TASK_NAME': 'toy_in_context',
  'IN_CONTEXT_FEATURE_LENGTHS': runner.LENGTHS,
}
_NO_PREFIX = {k: v for k, v in _TRAIN.items() if k not in ('PREFIX_LENGTH',)}
# Name: module and function, gin files, and the bindings that it needs.
COMMANDS: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any]]] = {
  'train a prefix': ('train', 'train', runner.TRAIN_FILES, _TRAIN),
  'train LoRA': (
    'train',
    'train',
    (*_LORA, *_TRAIN_REST),
    {**_NO_PREFIX, 'LORA_RANK': 4},
  ),
  'train a shared prefix': (
    'train',
    'train',
    (*runner.MODEL_FILES, 'gin/models/learned.gin', *_TRAIN_REST),
    {k: v for k, v in _TRAIN.items() if k != 'HEAD_BOTTLENECK'},
  ),
  'distill': (
    'train',
    'train',
    (
      *runner.MODEL_FILES,
      'gin/models/distillation_teacher.gin',
      'gin/optimizers/adafactor.gin',
      'gin/local/train.gin',
    ),
    {
      **{k: v for k, v in _TRAIN.items() if k != 'WARMUP_STEPS'},
      'TEACHER_CHECKPOINT_PATH': 'teacher',
    },
  ),
  'eval': (
    'eval',
    'evaluate',
    (*runner.MODEL_FILES, 'gin/local/eval.gin'),
    {**_READ, 'EVAL_OUTPUT_DIR': 'out'},
  ),
  'eval drawn tasks': (
    'eval',
    'evaluate',
    (*runner.MODEL_FILES, 'gin/experiments/claims/eval_shots.gin'),
    {'SHOTS': 2, 'CHECKPOINT_PATH': 'run', 'EVAL_OUTPUT_DIR': 'out'},
  ),
  'infer': (
    'infer',
    'infer',
    (*runner.MODEL_FILES, 'gin/local/infer.gin'),
    {**_READ, 'INFER_OUTPUT_DIR': 'out', 'INFER_INPUT': 'in.jsonl'},
  ),
  'adapt': (
    'adapt',
    'adapt',
    ('gin/models/hyper_t5_prefix.gin', 'gin/experiments/claims/adapt.gin'),
    {'CHECKPOINT_PATH': 'run', 'ADAPT_OUTPUT_DIR': 'out'},
  ),
  'sweep': (
    'sweep',
    'sweep',
    ('gin/experiments/claims/sweep.gin',),
    {'SWEEP_DIR': 'out'},
  ),
  'sweep of shots': (
    'sweep',
    'sweep',
    ('gin/experiments/ablations/shots.gin',),
    {'SWEEP_DIR': 'out'},
  ),
  'report': (
    'report',
    'report',
    ('gin/experiments/claims/report.gin',),
    {'SWEEP_DIR': 'out'},
  ),
  'report along an axis': (
    'report',
    'report',
    ('gin/experiments/ablations/report.gin',),
    {'SWEEP_DIR': 'out', 'AXIS': 'shots'},
  ),
  'plan': (
    'train',
    'train',
    (
      'gin/models/hyper_t5_lora.gin',
      'gin/models/sizes/large.gin',
      'gin/optimizers/adamw.gin',
      'gin/local/plan.gin',
    ),
    {'TASK_FEATURE_LENGTHS': runner.LENGTHS},
  ),
  'time queries': (
    'benchmarks.query_cost',
    'measure',
    (*runner.MODEL_FILES, 'gin/benchmarks/query_cost.gin'),
    {**runner.SMALL, **_IN_CONTEXT},
  ),
  'time the pipeline': (
    'benchmarks.input_pipeline',
    'measure',
    (
      *runner.MODEL_FILES,
      'gin/optimizers/adamw.gin',
      'gin/benchmarks/input_pipeline.gin',
    ),
    runner.SMALL,
  ),
}
_WRONG = (
  *(None, True, False, 0, -1, 1, 3, 1.0, 1.5, 0.0, -0.5, 10.0, 1e-9),
  *(10**6, 2**31, 10**30, -(10**30), 1e300, float('inf'), float('-inf')),
  *('', ' ', 'x', '(', '*', '10', 'none', '\0', 'decoder_slef', 'é', 'a\nb'),
  *((), (0,), ('x',), [], [1], {}, {'x': 1}, {1: {}}, (None,), ((),), ((1,),)),
)


def macros(name: str) -> dict[str, Any]:
  """The macros of a command that hold a value, and their values.

  The configuration is parsed as the command does it.
  """
  _, _, files, values = COMMANDS[name]
  gin_utils.parse(files, [f'{k} = {v!r}' for k, v in values.items()])
  macro = gin.get_configurable(gin_config.macro)
  names = {
    reference.scoped_selector.rpartition('/')[0]
    for reference in gin_config.iterate_references(gin_config._CONFIG, to=macro)
  }
  return {
    scope: _literal(arguments['value'])
    for (scope, selector), arguments in gin_config._CONFIG.items()
    if selector == 'gin.macro' and scope in names
  }


def _literal(value: Any) -> Any:
  """A value as Python reads it, or None if it has references."""
  text = gin_config._format_value(value)
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return None


def draw(rng: random.Random, value: Any, macros: list[str]) -> str:
  """A value as gin writes it, which is most often a wrong one.

  Args:
    rng: source of random numbers.
    value: the right value.
    macros: names of macros that the value may refer to.
  """
  kind = rng.randrange(10)
  if kind == 0:
    return f'%{rng.choice(macros)}'
  if kind < 4:
    return _text(_mutate(rng, value))
  if kind == 4:
    pair = (value, rng.choice(_WRONG))
    return _text(rng.choice([(value,), [value], {'a': value}, pair]))
  return _text(rng.choice(_WRONG))


def _mutate(rng: random.Random, value: Any) -> Any:
  """A value with one part that is changed, missing or misspelt."""
  if isinstance(value, dict) and value:
    key = rng.choice(list(value))
    remainder = {k: v for k, v in value.items() if k != key}
    candidates = [
      remainder,
      {**value, key: _mutate(rng, value[key])},
      {**value, key: rng.choice(_WRONG)},
      {**remainder, _mutate(rng, key): value[key]},
    ]
    return rng.choice(candidates)
  if isinstance(value, (tuple, list)) and value:
    n = rng.randrange(len(value))
    items = list(value)
    items[n] = rng.choice([_mutate(rng, items[n]), rng.choice(_WRONG)])
    return rng.choice([tuple(items), items, tuple(items[:n] + items[n + 1 :])])
  if isinstance(value, str) and value:
    n = rng.randrange(len(value))
    return value[:n] + rng.choice(['', 'z', ')']) + value[n + 1 :]
  if isinstance(value, (int, float)):
    return rng.choice([-value, value * 10**9, float(value), str(value)])
  return rng.choice(_WRONG)


def _text(value: Any) -> str:
  return repr(value).replace('inf', '1e999')


def samples(count: int, seed: int = 0) -> Iterator[tuple[str, str, str]]:
  """Yields commands, macros and values; all macros about equally often."""
  rng = random.Random(seed)
  values_of = {name: macros(name) for name in COMMANDS}
  pairs = [(name, macro) for name in COMMANDS for macro in values_of[name]]
  order: list[tuple[str, str]] = []
  for _ in range(count):
    if not order:
      order = rng.sample(pairs, len(pairs))
    name, macro = order.pop()
    names = [x for x in values_of[name] if x != macro]
    yield name, macro, draw(rng, values_of[name][macro], [*names, macro])
