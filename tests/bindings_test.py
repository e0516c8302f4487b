"""Wrong bindings: one line names the binding, before any work is done.

`WRONG_BINDINGS=10000` in the environment draws as many wrong bindings over all
commands.
"""

import importlib
import os

import gin
import pytest
import runner
import seqio
import wrong_bindings

from hypertuning import bindings, gin_utils
from hypertuning.errors import UserError, one_line
from hypertuning.sweeping import expansion

# The toy tasks are registered again, with other numbers of rows.
pytestmark = pytest.mark.usefixtures('own_registries')
COUNT = int(os.environ.get('WRONG_BINDINGS', 150))
_PREFIX = 'train a prefix'


@pytest.fixture
def own_registries(monkeypatch):
  importlib.import_module('hypertuning.tasks.toy')  # registers once per process
  for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
    for name, task in registry._REGISTRY.items():
      monkeypatch.setitem(registry._REGISTRY, name, task)


def _start(name: str, *lines: str) -> None:
  """Reads the configuration of a command, and makes all of its objects."""
  module, function, files, values = wrong_bindings.COMMANDS[name]
  flags = [f'{k} = {v!r}' for k, v in values.items()]
  gin_utils.parse(files, [*flags, *lines])
  command = getattr(importlib.import_module(f'hypertuning.{module}'), function)
  arguments = gin_utils.arguments(command)
  if module == 'sweep':
    expansion.expand('out', arguments['stages'], arguments['axes'])


def _error(*lines: str, name: str = _PREFIX) -> str:
  with pytest.raises(UserError) as error:
    _start(name, *lines)
  return one_line(error.value)


@pytest.mark.parametrize('name', wrong_bindings.COMMANDS)
def test_commands_start(name):
  _start(name)


def test_wrong_bindings_are_one_line_that_names_the_macro():
  num_errors = 0
  for name, macro, value in wrong_bindings.samples(COUNT):
    try:
      _start(name, f'{macro} = {value}')
    except UserError as error:
      line = one_line(error)
      # A message about a part of a sweep names the whole binding.
      subjects = [macro, 'STAGES', 'AXES'] if 'sweep' in name else [macro]
      # A macro may take the place of another, which is named then.
      is_named = any(x in line for x in [*subjects, 'is not used by'])
      assert is_named, (name, macro, value, line)
      num_errors += 1
    except Exception as error:
      raise AssertionError(f'{name}: {macro} = {value}') from error
  assert num_errors > 0.7 * COUNT


@pytest.mark.parametrize(
  'binding, line',
  [
    ('TRAIN_STEPS = 1e1', 'TRAIN_STEPS = 10.0: must be a whole number.'),
    ("TRAIN_STEPS = '10'", "TRAIN_STEPS = '10': must be a whole number."),
    ('TRAIN_STEPS = 0', 'TRAIN_STEPS = 0: must be 1 or more.'),
    ('BATCH_SIZE = 4.0', 'BATCH_SIZE = 4.0: must be a whole number.'),
    ('BATCH_SIZE = True', 'BATCH_SIZE = True: must be a whole number.'),
    ('RANDOM_SEED = 1.5', 'RANDOM_SEED = 1.5: must be a whole number.'),
    ('MODEL_DIR = None', 'MODEL_DIR = None: must be a text in quotes.'),
    ("MODEL_DIR = ' '", "MODEL_DIR = ' ': must be a path."),
    (
      "ACTIVATION_DTYPE = 'bf16'",
      "ACTIVATION_DTYPE = 'bf16': must be one of 'float32', 'bfloat16'.",
    ),
    (
      "MATMUL_PRECISION = 'tf32'",
      "MATMUL_PRECISION = 'tf32': must be one of 'float32', 'tensorfloat32', "
      "'bfloat16'.",
    ),
    (
      "REMAT_POLICY = 'ful'",
      "REMAT_POLICY = 'ful': must be 'none', 'full', 'minimal' or "
      "'projections'; did you mean 'full'.",
    ),
    (
      "TRAINABLE_REGEX = 'a(.*'",
      "TRAINABLE_REGEX = 'a(.*': is not a regular expression: missing ), "
      'unterminated subpattern at position 1.',
    ),
    (
      'TASK_FEATURE_LENGTHS = 5',
      'TASK_FEATURE_LENGTHS = 5: must be a dict {...: ...}.',
    ),
    (
      "TASK_FEATURE_LENGTHS = {'inputs': (4, -1)}",
      "TASK_FEATURE_LENGTHS['inputs'][1] = -1: must be 1 or more.",
    ),
    (
      "PREFIX_SITES = 'decoder_self'",
      "PREFIX_SITES = 'decoder_self': must be a tuple (..., ...).",
    ),
    ('PREFIX_SITES = ()', 'PREFIX_SITES = (): must not be empty.'),
    ('PREFIX_LENGTH = 0', 'PREFIX_LENGTH = 0: must be 1 or more.'),
    ('NUM_LAYERS = 0', 'NUM_LAYERS = 0: must be 1 or more.'),
    ('LEARNING_RATE = 1e999', 'LEARNING_RATE = inf: must be a finite number.'),
    ('LEARNING_RATE = 0', 'LEARNING_RATE = 0: must be more than 0.'),
    ('DROPOUT_RATE = 1', 'DROPOUT_RATE = 1: must be less than 1.'),
    (
      'TRAIN_STEPS = 1',
      'WARMUP_STEPS = 1: must be less than TRAIN_STEPS = 1.',
    ),
    (
      'train.train.keep_checkpoints = 0',
      'train.train.keep_checkpoints = 0: must be 1 or more.',
    ),
    (
      'MODEL = %PARTITIONER',
      'MODEL = %PARTITIONER = @partitioning.standard(): must be a '
      'HyperTuningModel, @name().',
    ),
    ('EMB_DIM = %EMB_DIM', 'EMB_DIM = %EMB_DIM: it is its own value.'),
  ],
)
def test_line(binding, line):
  assert _error(binding) == line


def test_names_that_the_network_does_not_have():
  message = _error("PREFIX_SITES = ('decoder_slef',)")
  assert message == (
    "PREFIX_SITES = ('decoder_slef',): the network has no 'decoder_slef'; give "
    'some of encoder_self, decoder_self, decoder_cross.'
  )
  message = _error("LORA_SITES = ('decoder_selff',)", name='train LoRA')
  assert "LORA_SITES = ('decoder_selff',): " in message
  message = _error("LORA_PROJECTIONS = ('q', 'v')", name='train LoRA')
  assert (
    "LORA_PROJECTIONS = ('q', 'v'): the network has no 'q'; give some of "
    in (message)
  )
  message = _error(
    "PREFIX_SITES = ('decoder_slef',)", name='train a shared prefix'
  )
  assert "has no 'decoder_slef'" in message
  assert "has 'decoder_self' twice" in _error(
    "PREFIX_SITES = ('decoder_self', 'decoder_self')"
  )


def test_numbers_that_do_not_fit_one_another():
  message = _error('LORA_QUERIES_PER_LAYER = 3', name='train LoRA')
  assert 'LORA_QUERIES_PER_LAYER = 3 does not divide LORA_RANK = 4' in message
  message = _error('QUERY_TOKENS = (100, 384)')
  assert 'QUERY_TOKENS = (100, 384): has 384, but VOCAB_SIZE = 384' in message
  assert 'LORA_RANK = 0: must be 1' in _error(
    'LORA_RANK = 0', name='train LoRA'
  )


def test_a_first_try_with_few_steps_names_the_warm_up():
  """`WARMUP_STEPS` is 50 where nobody binds it."""
  files = (
    *('gin/models/t5.gin', 'gin/models/sizes/tiny.gin'),
    *('gin/optimizers/adamw.gin', 'gin/local/train.gin'),
  )
  with pytest.raises(UserError) as error:
    gin_utils.parse(
      files,
      [
        *("MIXTURE_OR_TASK_NAME = 'toy'", "MODEL_DIR = 'run'"),
        *(f'TASK_FEATURE_LENGTHS = {runner.LENGTHS}', 'TRAIN_STEPS = 10'),
      ],
    )
  assert str(error.value) == (
    'WARMUP_STEPS = 50: must be less than TRAIN_STEPS = 10.'
  )


def test_files_that_include_themselves(tmp_path):
  one, two = tmp_path / 'one.gin', tmp_path / 'two.gin'
  one.write_text(f"A = 1\ninclude '{two}'\n")
  two.write_text(f"include '{one}'\n")
  with pytest.raises(UserError) as error:
    gin_utils.parse([str(one)])
  assert str(error.value) == f'{two}:1: {one} includes itself.'


def test_check_is_a_hook_of_gin():
  """As `t5x_engine` registers it: t5x reads the gin files itself."""
  with pytest.raises(
    UserError, match='optim.adamw.b1 = 2: must be less than 1'
  ):
    gin.clear_config()
    gin.parse_config(
      'from __gin__ import dynamic_registration\n'
      'from hypertuning.engine import optim\noptim.adamw.b1 = 2\n'
    )
    bindings.check(gin.config._CONFIG)
