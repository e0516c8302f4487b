"""An old name in a gin file is one line with the new one."""

import importlib

import pytest

from hypertuning import gin_utils, old_names
from hypertuning.errors import UserError, one_line

_HEADER = 'from __gin__ import dynamic_registration\n'


def _error(tmp_path, text, bindings=()) -> str:
  path = tmp_path / 'own.gin'
  path.write_text(_HEADER + text)
  with pytest.raises(UserError) as error:
    gin_utils.parse([str(path)], bindings)
  message = one_line(error.value)
  assert '\n' not in message
  return message.replace(str(path), 'own.gin')


@pytest.mark.parametrize('old', old_names.MODULES)
def test_old_module(tmp_path, old):
  package, _, name = old.rpartition('.')
  message = _error(tmp_path, f'\nfrom {package} import {name}\n')
  new = old_names.MODULES[old]
  assert message == f'own.gin:3: {old} is called {new} now.'
  assert f'{old} is called' in _error(tmp_path, f'import {old}\n')
  for module in new.split(' and '):
    assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(
  'text, line, new',
  [
    ('train.train.batch_size = 3', 3, 'BATCH_SIZE'),
    ('train.train.num_partitions = 3', 3, 'partitioning.standard'),
    (
      'x/train.train.random_seed = 3\ntrain.train.use_cached = True',
      4,
      'TaskD',
    ),
    ("train.train:\n  initial_checkpoint_path = 'run'", 4, 'WarmStart.path'),
    ("train.train.eval_split = 'test'", 3, 'EVAL_SPLIT'),
  ],
)
def test_old_argument(tmp_path, text, line, new):
  message = _error(tmp_path, f'from hypertuning import train\n{text}\n')
  assert message.startswith(f'own.gin:{line}: train.train.')
  assert new in message and message.endswith(' now.')


def test_old_argument_as_a_flag(tmp_path):
  (tmp_path / 'own.gin').write_text(f'{_HEADER}from hypertuning import train\n')
  with pytest.raises(UserError) as error:
    gin_utils.parse([str(tmp_path / 'own.gin')], ['train.train.batch_size=3'])
  message = str(error.value)
  assert message.startswith('--gin.train.train.batch_size=3: train.train.')
  assert 'the macro BATCH_SIZE' in message


def test_function_of_a_module_that_was_divided(tmp_path):
  text = 'from hypertuning import evaluation\nX = @evaluation.summarize()\n'
  message = _error(tmp_path, text)
  assert message.startswith('own.gin:3: evaluation.summarize is called ')


def test_old_macro_and_file(tmp_path, monkeypatch):
  monkeypatch.setitem(old_names.MACROS, 'OLD_SIZE', 'NEW_SIZE')
  monkeypatch.setitem(old_names.FILES, 'gin/old.gin', 'gin/new.gin')
  message = _error(tmp_path, '\nOLD_SIZE = 3\n')
  assert message == 'own.gin:3: OLD_SIZE is called NEW_SIZE now.'
  message = _error(tmp_path, '', ['OLD_SIZE=3'])
  assert message == '--gin.OLD_SIZE: OLD_SIZE is called NEW_SIZE now.'
  message = _error(tmp_path, "include 'gin/old.gin'\n")
  assert message == 'own.gin:2: gin/old.gin is called gin/new.gin now.'
  with pytest.raises(UserError, match='--gin_file=gin/old.gin: gin/old.gin is'):
    gin_utils.parse(['gin/old.gin'])
