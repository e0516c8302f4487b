"""The old names of modules, arguments, macros and gin files, and the new ones.

Users have gin files with old names. Each of them gives an error of one line,
which names the file and the line, and says the new name.
"""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypertuning.errors import UserError

_P = ParamSpec('_P')
_R = TypeVar('_R')

# Maps the old name of each module to the new one.
MODULES = {
  'hypertuning.adapted_model': 'hypertuning.networks.adapted',
  'hypertuning.checkpoints': 'hypertuning.engine.checkpoints',
  'hypertuning.data.preprocessors': 'hypertuning.data.caclm',
  'hypertuning.decoding': 'hypertuning.networks.decoding',
  'hypertuning.optim': 'hypertuning.engine.optim',
  'hypertuning.partitioning': 'hypertuning.engine.partitioning',
  'hypertuning.pipelines': (
    'hypertuning.engine.batching and hypertuning.data.lookup'
  ),
  'hypertuning.reporting.cells': 'hypertuning.reporting.sweep_results',
  'hypertuning.scoring': 'hypertuning.evaluation.scoring',
  'hypertuning.show': 'hypertuning.tasks.show',
  'hypertuning.summaries': 'hypertuning.engine.summaries',
  'hypertuning.sweep_table': 'hypertuning.reporting.sweep_table',
  'hypertuning.t5x_format': 'hypertuning.engine.t5x_format',
  'hypertuning.task_files': 'hypertuning.data.request_files',
  'hypertuning.training': (
    'hypertuning.engine.train_state and hypertuning.engine.train_step'
  ),
  'hypertuning.tuning': 'hypertuning.engine.phi_tuning',
}

_DATA = {
  'mixture_or_task_name': 'name',
  'mixture_or_task_module': 'module',
  'task_feature_lengths': 'lengths',
  'batch_size': 'batch_size',
  'split': 'split',
  'use_cached': 'use_cached',
}
_RUNNERS = (
  *('train.train', 'eval.evaluate', 'infer.infer', 'adapt.adapt'),
  *('input_pipeline.measure', 'query_cost.measure'),
)
_DATA_MACROS = {
  'name': 'MIXTURE_OR_TASK_NAME',
  'module': 'MIXTURE_OR_TASK_MODULE',
  'lengths': 'TASK_FEATURE_LENGTHS',
  'batch_size': 'BATCH_SIZE',
  'split': 'SPLIT',
  'use_cached': 'USE_CACHED_TASKS',
}
_WARM_START = {
  'initial_checkpoint_path': 'path (the macro INITIAL_CHECKPOINT_PATH)',
  'teacher_checkpoint_path': 'teacher (the macro TEACHER_CHECKPOINT_PATH)',
  'initial_checkpoint_rules': 'rules (the macro INITIAL_CHECKPOINT_RULES)',
  'fresh_regex': 'fresh (the macro INITIAL_FRESH_REGEX)',
  'unused_regex': 'unused',
}
_T5X_WARM_START = {
  'checkpoint_path': 'initial_checkpoint_path',
  'teacher_checkpoint_path': 'teacher_checkpoint_path',
  'rules': 'initial_checkpoint_rules',
  'fresh_regex': 'fresh_regex',
  'unused_regex': 'unused_regex',
}

# Maps each argument that gin bound, `module.function.argument`, to the new one.
ARGUMENTS = {
  **{
    f'{runner}.{old}': (
      f'task_data.TaskData.{new} (the macro {_DATA_MACROS[new]})'
    )
    for runner in _RUNNERS
    for old, new in _DATA.items()
  },
  **{
    f'{runner}.random_seed': 'task_data.TaskData.seed (the macro RANDOM_SEED)'
    for runner in _RUNNERS[1:4]
  },
  **{
    f'{runner}.num_partitions': (
      'partitioning.standard.num_partitions (the macro NUM_PARTITIONS)'
    )
    for runner in _RUNNERS[:4]
  },
  **{
    f'train.train.{kind}_partitioning_dims': (
      f'partitioning.standard.{kind}_dims (the macro '
      f'{kind.upper()}_PARTITIONING_DIMS)'
    )
    for kind in ('activation', 'parameter', 'frozen')
  },
  **{
    f'train.train.{old}': f'warm_start.WarmStart.{new}'
    for old, new in _WARM_START.items()
  },
  **{
    f't5x_engine.WarmStart.{old}': (
      f'warm_start.WarmStart.{_WARM_START[argument]}'
    )
    for old, argument in _T5X_WARM_START.items()
  },
  'heads.PrefixHead.prefix_length': (
    'adapters.PrefixSpec.length (the macro PREFIX_LENGTH)'
  ),
  'heads.PrefixHead.sites': (
    'adapters.PrefixSpec.sites (the macro PREFIX_SITES)'
  ),
  'heads.LoRAHead.rank': 'adapters.LoRASpec.rank (the macro LORA_RANK)',
  'heads.LoRAHead.alpha': 'adapters.LoRASpec.alpha (the macro LORA_ALPHA)',
  'heads.LoRAHead.sites': 'adapters.LoRASpec.sites (the macro LORA_SITES)',
  'heads.LoRAHead.projections': (
    'adapters.LoRASpec.modules (the macro LORA_PROJECTIONS)'
  ),
  'learned.Learned.head': 'learned.Learned.adapter (the macro ADAPTER)',
  'adapt.adapt.tasks_at_once': (
    'task_data.TaskData.batch_size (the macro TASKS_AT_ONCE)'
  ),
  'train.train.eval_mixture_or_task_name': (
    'held_out/task_data.TaskData.name (the macro EVAL_MIXTURE_OR_TASK_NAME)'
  ),
  'train.train.eval_split': (
    'held_out/task_data.TaskData.split (the macro EVAL_SPLIT)'
  ),
  'query_cost.measure.in_context_name': (
    'in_context/task_data.TaskData.name (the macro '
    'IN_CONTEXT_MIXTURE_OR_TASK_NAME)'
  ),
  'query_cost.measure.in_context_lengths': (
    'in_context/task_data.TaskData.lengths (the macro '
    'IN_CONTEXT_FEATURE_LENGTHS)'
  ),
}

# Arguments that many functions had, and that `text_format` replaces.
_FORMAT = (
  'is `text_format` now: in gin bind %TEXT_FORMAT, in Python give '
  'text_format.t5_format(vocabulary) or text_format.markers_format(vocabulary)'
)
TEXT_FORMAT = {
  'vocabulary': _FORMAT,
  'markers': _FORMAT,
  'input_vocabulary': _FORMAT,
  'output_vocabulary': _FORMAT,
}

# Maps functions that have moved, `module.function`, to their new names. Their
# old modules still exist, as packages.
FUNCTIONS = {
  'evaluation.phi_modes': 'evaluation.phi_modes.default_modes',
  'evaluation.check_modes': 'evaluation.phi_modes.check_modes',
  'evaluation.with_phi': 'evaluation.phi_modes.with_phi',
  'evaluation.others': 'evaluation.phi_modes.neighbors',
  'evaluation.make_step': 'evaluation.eval_step.make_step',
  'evaluation.answer': 'evaluation.eval_step.answer',
  'evaluation.collect': 'evaluation.eval_step.collect',
  'evaluation.summarize': 'evaluation.statistics.summarize',
  'evaluation.ratio': 'evaluation.statistics.ratio',
}

# Maps the old name of each macro to the new one.
MACROS: dict[str, str] = {}

# Maps the start of the old names of gin files to that of the new ones.
FILES = {
  f'gin/{folder}/': f'gin/experiments/{folder}/'
  for folder in ('ablations', 'claims', 'quickstart', 'real', 'recipes')
}


def hint(message: str) -> str | None:
  """The new name for an error of gin's that is due to an old name.

  Args:
    message: gin's error message about a module that cannot be imported, an
      argument that a function does not have, or a function or file that does
      not exist.

  Returns:
    The line 'OLD is called NEW now.'; None if no old name is at fault.
  """
  argument = re.search(r"'([\w.]+)' doesn't have .*named '(\w+)'", message)
  if argument:
    line = _renamed(f'{argument[1]}.{argument[2]}', ARGUMENTS)
    if line is None and argument[2] in TEXT_FORMAT:
      return f'{argument[1]}: `{argument[2]}` {TEXT_FORMAT[argument[2]]}.'
    return line
  function = re.search(r'resolve selector ([\w.]+);', message)
  if function:
    return _renamed(function[1], FUNCTIONS)
  module = re.search(r'(?:module|import)\D*(hypertuning(?:\.\w+)+)', message)
  if module and module[1] in MODULES:
    return _line(module[1], MODULES[module[1]])
  for old, new in FILES.items():
    if old in message:
      return _line(old, new)
  return None


def _renamed(name: str, table: dict[str, str]) -> str | None:
  """The line about a name, which may have any packages before it."""
  for old, new in table.items():
    if f'.{name}'.endswith(f'.{old}'):
      return _line(old, new)
  return None


def _line(old: str, new: str) -> str:
  return f'{old} is called {new} now.'


def takes_text_format(function: Callable[_P, _R]) -> Callable[_P, _R]:
  """Decorator that refuses the arguments that `text_format` has replaced.

  It is for calls in Python. gin refuses such a binding by itself when it parses
  the binding, and `hint` explains its error message.

  Raises:
    UserError: the decorated function was called with an old argument; the
      message names the function, the argument and `text_format`.
  """

  @functools.wraps(function)
  def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
    for name in TEXT_FORMAT.keys() & kwargs.keys():
      place = f'{function.__module__}.{function.__qualname__}'
      raise UserError(f'{place}: `{name}` {TEXT_FORMAT[name]}.')
    return function(*args, **kwargs)

  return wrapper
