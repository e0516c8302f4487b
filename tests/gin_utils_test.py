"""Gin: shipped files parse, and every slip is one line that names it."""

import math
import pathlib
import subprocess
import sys

import gin
import jax
import jax.numpy as jnp
import pytest
import runner

from hypertuning import gin_utils, paths, saved_config, sweep
from hypertuning.errors import UserError, one_line
from hypertuning.sweeping import expansion

_HEADER = 'from __gin__ import dynamic_registration\n'
_OPTIM = f'{_HEADER}from hypertuning.engine import optim\n'
_LOCAL = sorted(
  path.name for path in (paths.data_root() / 'gin/local').glob('*')
)
_MODELS = (
  *('t5', 'hyper_t5_prefix', 'hyper_t5_lora', 'gist_t5'),
  *('llama', 'hyper_llama', 'hyper_llama_lora'),
)
_SIZES = [
  path.stem for path in (paths.data_root() / 'gin/models/sizes').glob('*.gin')
]
# Parameters of the public models.
_LLAMAS = {
  'smollm2_135m': 134_515_008,
  '1b': 1_235_814_400,
  'llama2_7b': 6_738_415_616,
  'llama2_13b': 13_015_864_320,
  'llama2_70b': 68_976_648_192,
}
_NEEDED = {
  'MIXTURE_OR_TASK_NAME': 'toy',
  'TASK_FEATURE_LENGTHS': runner.LENGTHS,
  'TRAIN_STEPS': 100,
  'MODEL_DIR': 'run',
  'CHECKPOINT_PATH': 'run',
  'EVAL_OUTPUT_DIR': 'out',
  'INFER_OUTPUT_DIR': 'out',
}


def _bindings(names) -> list[str]:
  return [f'{name} = {_NEEDED[name]!r}' for name in names]


def _write(folder: pathlib.Path, text: str, name: str = 'x.gin') -> str:
  path = folder / name
  path.write_text(text)
  return str(path)


def _error(*args) -> str:
  with pytest.raises(UserError) as error:
    gin_utils.parse(*args)
  assert '\n' not in one_line(error.value)
  return one_line(error.value)


def _needs(file: str) -> list[str]:
  # The last binding wins, that of an included file or of the file itself.
  lines = [line.partition(' = ') for line in gin_utils.lines(file)]
  values = {name: value for name, _, value in lines}
  return [n for n in _NEEDED if values.get(n) == '%gin.REQUIRED']


@pytest.mark.parametrize('model', _MODELS)
@pytest.mark.parametrize('optimizer', ['adamw', 'adafactor'])
def test_training_files_parse(model, optimizer):
  gin_utils.parse(
    [
      f'gin/models/{model}.gin',
      'gin/models/sizes/tiny.gin',
      f'gin/optimizers/{optimizer}.gin',
      'gin/local/train.gin',
    ],
    _bindings(_needs('gin/local/train.gin')),
  )


@pytest.mark.parametrize('model', _MODELS)
@pytest.mark.parametrize('command', ['eval', 'infer'])
def test_other_files_parse(model, command):
  file = f'gin/local/{command}.gin'
  gin_utils.parse(
    [f'gin/models/{model}.gin', 'gin/models/sizes/tiny.gin', file],
    _bindings(_needs(file)),
  )


@pytest.mark.parametrize(
  'files',
  [
    ('experiments/quickstart/downstream',),
    *(
      (f'models/hyper_t5_{kind}', f'experiments/quickstart/{stage}')
      for kind in ('prefix', 'lora')
      for stage in ('hyperpretrain', 'multitask', 'eval_tasks', 'eval_text')
    ),
    ('models/t5', 'experiments/quickstart/eval_in_context'),
    *(
      (f'experiments/quickstart/llama_{stage}',)
      for stage in (
        *('copying', 'downstream', 'multitask', 'eval_in_context'),
        'eval_tasks',
      )
    ),
    ('experiments/quickstart/report',),
    ('experiments/quickstart/sweep',),
    ('experiments/claims/sweep',),
    ('experiments/claims/report',),
    ('experiments/smollm/report',),
    ('experiments/smollm/report_data',),
    ('experiments/smollm/report_recorded',),
    ('experiments/smollm/report_recorded_data',),
    ('experiments/ablations/report',),
    ('experiments/ablations/report_distillation',),
  ],
  ids='+'.join,
)
def test_quickstart_files_parse(files):
  # launch/quickstart.sh binds folders; all else stands in the files.
  name = files[-1].rpartition('/')[2]
  kind = name.removeprefix('llama_').partition('_')[0]
  names = {'eval': ('CHECKPOINT_PATH', 'EVAL_OUTPUT_DIR')}
  names |= {'report': ('SWEEP_DIR',), 'sweep': ('SWEEP_DIR',)}
  if files == ('experiments/ablations/report',):
    names['report'] += ('AXIS',)
  gin_utils.parse(
    [f'gin/{file}.gin' for file in files],
    [f"{name} = 'folder'" for name in names.get(kind, ('MODEL_DIR',))],
  )


_SMOLLM = ('models/hyper_llama', 'models/sizes/smollm2_135m')
_PLACES = {
  'record': ('RECORDING',),
  'train': (
    *('RECORDING', 'EVAL_RECORDING', 'INITIAL_CHECKPOINT_PATH', 'MODEL_DIR'),
  ),
}
_DATA = ('FUNCTION_VECTORS_DIR', 'NI_DIR', 'P3_DIR', 'CLASSIFICATION_DIR')


@pytest.mark.parametrize(
  'files, names',
  [
    (('record', 'tasks'), _PLACES['record']),
    (('record', 'tasks_data'), (*_PLACES['record'], *_DATA)),
    (('train',), _PLACES['train']),
  ],
)
def test_smollm_files_parse(files, names):
  """launch/smollm.sh binds folders and numbers; all else is in the files."""
  more = {
    'train': ['TRAIN_STEPS = 100'],
    'tasks_data': ["SYMBOL_FILES = ('some.jsonl',)"],
  }
  gin_utils.parse(
    [
      f'gin/{x}.gin'
      for x in (*_SMOLLM, *(f'experiments/smollm/{y}' for y in files))
    ],
    [f"{name} = 'somewhere'" for name in names] + more.get(files[-1], []),
  )
  assert gin.query_parameter('gist/adapters.LoRASpec.rank') is not None


def _model():
  with gin.unlock_config():
    return gin.query_parameter('MODEL/macro.value').scoped_configurable_fn()


@pytest.mark.parametrize('size', sorted({*_SIZES} - {*_LLAMAS}))
def test_sizes_give_a_model(size):
  own = '' if size == 'tiny' else 'VOCABULARY = None'
  gin_utils.parse(
    ['gin/models/hyper_t5_lora.gin', f'gin/models/sizes/{size}.gin'],
    ['OPTIMIZER = None', *([own] if own else [])],
  )
  model = _model()
  assert model.has_hypermodel
  assert model.module.downstream.config.emb_dim >= 64


@pytest.mark.parametrize('size', _LLAMAS)
def test_sizes_of_llama_are_those_of_the_public_models(size):
  """In `hypertuning.plan` and elsewhere, a size needs no vocabulary's file."""
  gin_utils.parse(
    ['gin/models/hyper_llama.gin', f'gin/models/sizes/{size}.gin'],
    ['OPTIMIZER = None', 'VOCABULARY = None'],
  )
  module = _model().module
  network, tokens = module.downstream, jnp.ones((1, 1), jnp.int32)
  shapes = jax.eval_shape(network.init, jax.random.key(0), tokens, tokens)
  leaves = jax.tree.leaves(shapes['params'])
  assert sum(math.prod(leaf.shape) for leaf in leaves) == _LLAMAS[size]
  assert module.hypermodel.downstream == network.config
  assert network.config.scan_layers and network.config.dtype == 'bfloat16'
  gin_utils.parse(
    ['gin/models/llama.gin', f'gin/models/sizes/{size}.gin'],
    ['OPTIMIZER = None', "VOCABULARY_FILE = 'none'"],
  )
  with pytest.raises(UserError, match='none: no such'):
    _model()


def test_required_macros_are_named():
  message = _error(
    [
      'gin/models/t5.gin',
      'gin/models/sizes/tiny.gin',
      'gin/optimizers/adamw.gin',
      'gin/local/train.gin',
    ],
    ["MIXTURE_OR_TASK_NAME='toy'"],
  )
  assert 'MODEL_DIR, TASK_FEATURE_LENGTHS, TRAIN_STEPS' in message
  assert '--gin.MODEL_DIR=' in message


def test_macro_without_any_value_is_named(tmp_path):
  file = _write(tmp_path, f'{_OPTIM}optim.adamw.learning_rate = %RATE\n')
  assert 'RATE: required, but not set' in _error([file])


@pytest.mark.parametrize(
  'body, line, words',
  [
    ('optim.adamw.learning_rate = ', 3, ['Unable to parse']),
    ('optim.adamw.learning_rate 3', 3, ["expected ':' or '='"]),
    ('optim.adamw.learning_rate = hello', 3, ['hello', 'needs quotes']),
    ('optim.adamx.learning_rate = 3', 3, ['adamx', 'optim']),
    ('optim.adamw.learning_rat = 3', 3, ["'learning_rat'", 'optim.adamw']),
    ('OPTIMIZER = @optim.nothing()', 3, ['nothing']),
    ("include 'nowhere.gin'", 3, ['nowhere.gin', 'include']),
    ('from hypertuning import nothing', 3, ['hypertuning.nothing']),
    ('import nothing_like_this.at_all', 3, ['nothing_like_this']),
    ('\noptim.adamw.weight_decay = (1, \nX = 2\n', 5, ['X']),
  ],
)
def test_errors_in_files_name_file_and_line(tmp_path, body, line, words):
  file = _write(tmp_path, f'{_OPTIM}{body}\n')
  message = _error([file])
  assert message.startswith(f'{file}:{line}: ')
  for word in words:
    assert word in message
  assert 'malformed' not in message and 'object at 0x' not in message


def test_error_in_an_included_file_names_that_file(tmp_path):
  inner = _write(tmp_path, f'{_OPTIM}optim.adamx.b1 = 3\n', 'inner.gin')
  outer = _write(tmp_path, f"{_HEADER}include '{inner}'\n", 'outer.gin')
  assert _error([outer]).startswith(f'{inner}:3: ')


def test_file_that_is_not_text(tmp_path):
  path = tmp_path / 'x.gin'
  path.write_bytes(b'\xff\xfe\x00')
  assert f'{path}: not UTF-8 at byte 0' in _error([str(path)])


def test_missing_file_names_where_it_was_looked_for(tmp_path):
  message = _error(['gin/nothing.gin'], [], [str(tmp_path)])
  assert message.startswith('gin/nothing.gin: no such gin file')
  assert str(tmp_path) in message and str(paths.data_root()) in message
  assert '--gin_file=' in _error([])


@pytest.mark.parametrize(
  'binding, words',
  [
    ('NAME=toy', ['--gin.NAME=toy: this value', '--gin.NAME="\'...\'"']),
    ('NAME=', ['--gin.NAME=: this value']),
    ('NAME', ['--gin.NAME', 'NAME=value']),
    ('optim.adamx.b1=1', ['--gin.optim.adamx.b1=1: ', 'adamx']),
    ('optim.adamw.b9=1', ['--gin.optim.adamw.b9=1: ', "'b9'"]),
    ('NAME=@nothing()', ['--gin.NAME=@nothing(): ', 'nothing']),
  ],
)
def test_errors_in_bindings_name_the_binding(tmp_path, binding, words):
  file = _write(
    tmp_path, f'{_OPTIM}NAME = 1\noptim.adamw.learning_rate = %NAME\n'
  )
  message = _error([file], [binding])
  for word in words:
    assert word in message


def test_misspelt_macro_is_not_taken_in_silence(tmp_path):
  file = _write(
    tmp_path, f'{_OPTIM}TRAIN_STEPS = 0.5\noptim.adamw.b1 = %TRAIN_STEPS\n'
  )
  message = _error([file], ['TRAIN_STPES=9'])
  assert 'TRAIN_STPES is not used' in message
  assert 'did you mean TRAIN_STEPS?' in message
  other = _write(tmp_path, f'{_HEADER}TRAIN_STEP = 9\n', 'other.gin')
  assert 'did you mean TRAIN_STEPS?' in _error([file, other])
  assert 'NOTHING_LIKE_IT is not used' in _error([file], ['NOTHING_LIKE_IT=9'])
  # A file may set what only another configuration reads.
  _write(tmp_path, f'{_HEADER}NOTHING_LIKE_IT = 9\n', 'other.gin')
  gin_utils.parse([file, other])


def test_later_files_and_flags_win(tmp_path):
  first = _write(tmp_path, f'{_OPTIM}B1 = 0.1\noptim.adamw.b1 = %B1\n', 'a.gin')
  second = _write(tmp_path, f'{_HEADER}B1 = 0.2\n', 'b.gin')
  gin_utils.parse([first, second])
  assert gin.query_parameter('B1/macro.value') == 0.2
  gin_utils.parse([first, second], ['B1 = 0.3'])
  assert gin.query_parameter('B1/macro.value') == 0.3


def test_working_directory_comes_before_search_paths(tmp_path, monkeypatch):
  for place, rate in (('here', 0.1), ('there', 0.2)):
    (tmp_path / place).mkdir()
    _write(
      tmp_path / place, f'{_OPTIM}P = {rate}\noptim.adamw.b1 = %P\n', 'p.gin'
    )
  monkeypatch.chdir(tmp_path / 'here')
  gin_utils.parse(['p.gin'], [], [str(tmp_path / 'there')])
  assert gin.query_parameter('P/macro.value') == 0.1
  monkeypatch.chdir(tmp_path)
  gin_utils.parse(['p.gin'], [], [str(tmp_path / 'there')])
  assert gin.query_parameter('P/macro.value') == 0.2


def test_saved_configuration_parses_again(tmp_path):
  files = [
    'gin/models/hyper_t5_prefix.gin',
    'gin/models/sizes/tiny.gin',
    'gin/optimizers/adamw.gin',
    'gin/local/train.gin',
  ]
  gin_utils.parse(
    files, [*_bindings(_needs('gin/local/train.gin')), 'PREFIX_LENGTH = 5']
  )
  saved_config.save(str(tmp_path / 'run'), 'train')
  saved = (tmp_path / 'run/config.gin').read_text()
  assert saved_config.command_of(saved) == 'train'
  gin_utils.parse([str(tmp_path / 'run/config.gin')])
  assert saved_config.text('train') == saved
  assert gin.query_parameter('PREFIX_LENGTH/macro.value') == 5


def test_missing_argument_is_named(tmp_path):
  gin_utils.parse([_write(tmp_path, f'{_OPTIM}optim.adamw.b1 = 0.5\n')])
  from hypertuning.engine import optim

  with pytest.raises(UserError, match="adamw has no value for 'learning_rate'"):
    gin_utils.call(optim.adamw)


def test_arguments_that_are_refused_name_what_refused_them(tmp_path):
  file = _write(
    tmp_path,
    f'{_HEADER}import optax\nfrom hypertuning.engine import optim\n'
    'optim.adamw.learning_rate = @optax.piecewise_interpolate_schedule()\n'
    'optax.piecewise_interpolate_schedule.init_value = 1.0\n'
    "optax.piecewise_interpolate_schedule.interpolate_type = 'cubic'\n",
  )
  gin_utils.parse([file])
  from hypertuning.engine import optim

  with pytest.raises(UserError, match='interpolate_schedule: .*linear'):
    gin_utils.call(optim.adamw)


@pytest.mark.parametrize('command', ['train', 'eval', 'infer', 'report'])
def test_help_lists_the_flags_at_once(command, tmp_path):
  done = subprocess.run(
    [sys.executable, '-m', f'hypertuning.{command}', '--help'],
    env=runner.environment(),
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=10,  # without importing TensorFlow, which takes as long
  )
  assert done.returncode == 0
  for flag in (
    '--gin_file',
    '--gin_bindings',
    '--gin_search_paths',
    '--tfds_data_dir',
    '--seqio_additional_cache_dirs',
  ):
    assert flag in done.stdout
  assert f'python -m hypertuning.{command}' in done.stdout


def test_local_files_have_the_header_of_required_macros():
  for name in _LOCAL:
    text = (paths.data_root() / 'gin/local' / name).read_text()
    for macro in _needs(f'gin/local/{name}'):
      assert macro in text.partition('\n\n')[0], (name, macro)


_BASE = {'BASE': 'somewhere', 'BASE_GIN': 'gin/models/sizes/smollm2_135m.gin'}
_FOLDERS = dict.fromkeys(
  ('FUNCTION_VECTORS_DIR', 'NI_DIR', 'CLASSIFICATION_DIR'), 'somewhere'
)
_TRAINING_FOLDERS = {
  **{**_FOLDERS, 'P3_DIR': 'somewhere'},
  'SYMBOL_FILES': ('some.jsonl',),
}
_RECORDING = {'VOCABULARY_FILE': 'tokenizer.json', 'RECORD_STEPS': 4}
_RECORDED = {
  **{**_RECORDING, 'BASE': 'somewhere'},
  **{'TRAIN_STEPS': 4, 'WARMUP_STEPS': 1},
}
_ABLATIONS = (
  *('hyperpretraining', 'shots', 'prefix_length', 'rank'),
  'distillation',
)


@pytest.mark.parametrize(
  'file, bindings',
  [
    ('quickstart/sweep', {}),
    ('claims/sweep', {}),
    *((f'ablations/{x}', {}) for x in _ABLATIONS),
    ('smollm/sweep', _BASE),
    ('smollm/sweep_data', {**_BASE, **_FOLDERS}),
    (
      ('smollm/sweep', 'smollm/with_hypermodel'),
      {**_BASE, 'HYPERMODEL': 'some.safetensors'},
    ),
    ('smollm/recordings', _RECORDING),
    (
      ('smollm/recordings', 'smollm/recordings_data'),
      {**_RECORDING, **_TRAINING_FOLDERS},
    ),
    (('smollm/recordings', 'smollm/recorded'), _RECORDED),
    (
      ('smollm/recordings', 'smollm/recorded', 'smollm/variants'),
      {**_RECORDED, 'TRAINED': ('gists_4', 'gists_32', 'rank_8', 'lora')},
    ),
    (
      ('smollm/recordings', 'smollm/recordings_data', 'smollm/recorded'),
      {**_RECORDED, **_TRAINING_FOLDERS},
    ),
  ],
)
def test_every_cell_of_a_sweep_parses(file, bindings, tmp_path):
  """A sweep's own files say nothing of what its commands will read."""
  bindings = {**bindings, 'SWEEP_DIR': str(tmp_path)}
  gin_utils.parse(
    [
      f'gin/experiments/{x}.gin'
      for x in ([file] if isinstance(file, str) else file)
    ],
    [f'{k} = {v!r}' for k, v in bindings.items()],
  )
  arguments = gin_utils.arguments(sweep.sweep)
  work = expansion.expand(str(tmp_path), arguments['stages'], arguments['axes'])
  # Cells that differ in the values of their bindings alone parse alike.
  kinds = {
    (cell.stage, *cell.gin_files, *cell.bindings, *cell.after): cell
    for cell in work
  }
  for cell in kinds.values():
    flags = cell.flags()
    gin_utils.parse(
      [x.partition('=')[2] for x in flags if x.startswith('--gin_file=')],
      [x.removeprefix('--gin.') for x in flags if x.startswith('--gin.')],
    )
    assert gin.config_str()
