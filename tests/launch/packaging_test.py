"""A wheel carries gin files and tasks, and works from anywhere."""

import pathlib
import shutil
import subprocess
import sys

import pytest
import runner

from hypertuning import paths

ROOT = runner.ROOT
PACKAGE = ROOT / 'hypertuning'
_IGNORED = shutil.ignore_patterns(
  '.git', '__pycache__', '.venv', 'build', '*.egg-info'
)

_HEAVY = ('tensorflow', 'seqio', 'clu', 'orbax', 'tensorflow_datasets')


def _ignored(folder: str, names: list[str]) -> set[str]:
  """What is no part of a checkout: `runs/`, but not `gin/runs/`."""
  here = {'runs'} if pathlib.Path(folder) == ROOT else set()
  return _IGNORED(folder, names) | here


def _modules(*folders: str) -> list[pathlib.Path]:
  return [p for f in folders for p in sorted((ROOT / f).rglob('*.py'))]


def test_gin_folder_does_not_hide_the_library():
  assert not (ROOT / 'gin/__init__.py').exists()
  # These exist in gin-config, and ours would stand before them.
  for name in ('tf', 'torch', 'testdata'):
    assert not (ROOT / 'gin' / name).exists()
  done = subprocess.run(
    [sys.executable, '-c', 'import gin; print(gin.parse_config)'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'function' in done.stdout


def test_data_root_holds_gin_and_tasks():
  assert (paths.data_root() / 'gin/local/train.gin').is_file()
  assert (paths.data_root() / 'tasks/toy.py').is_file()


def test_the_library_does_not_decorate_for_gin():
  for path in _modules('hypertuning', 'tasks'):
    assert 'gin.configurable' not in path.read_text(), path


def test_import_of_the_package_is_light():
  code = (
    'import sys, hypertuning, hypertuning.paths\n'
    f'print([m for m in {_HEAVY + ("jax", "flax")!r} if m in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=runner.environment(),
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == '[]'


def test_no_module_has_the_name_of_a_standard_one():
  """`python hypertuning/train.py` puts the folder first on the path."""
  names = {path.stem for path in PACKAGE.glob('*.py')} - {'__init__'}
  assert not names & sys.stdlib_module_names


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['wheel', 'editable'])
def test_installed_package_finds_gin_and_tasks_from_anywhere(tmp_path, kind):
  """In an environment of its own; dependencies are those of this one."""
  checkout = tmp_path / 'checkout'
  shutil.copytree(ROOT, checkout, ignore=_ignored)
  venv = tmp_path / 'venv'
  subprocess.run(
    [sys.executable, '-m', 'venv', '--without-pip', venv], check=True
  )
  python = venv / 'bin/python'
  site = next((venv / 'lib').glob('python*')) / 'site-packages'
  # The dependencies of the running interpreter, behind what is installed here.
  parents = [p for p in sys.path if p.endswith('site-packages')]
  pip = [sys.executable, '-m', 'pip', '--python', str(python), '-q']
  flags = ['--no-deps', '--no-build-isolation']
  (site / 'parents.pth').write_text('\n'.join(parents))
  what = ['-e', str(checkout)] if kind == 'editable' else [str(checkout)]
  subprocess.run(
    [*pip, 'install', *flags, *what],
    check=True,
    env={**runner.environment(), 'PYTHONPATH': ''},
  )
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  # A user's own module of that name must not be taken for ours.
  (elsewhere / 'tasks.py').write_text('raise ImportError("not mine")')
  (elsewhere / 'gin').mkdir()

  def run(*arguments: str) -> str:
    done = subprocess.run(
      [python, *arguments],
      cwd=elsewhere,
      env={**runner.environment(), 'PYTHONPATH': ''},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  root = pathlib.Path(run('-m', 'hypertuning.paths').strip())
  expected = site / 'hypertuning/_data' if kind == 'wheel' else checkout
  assert root == expected
  files = {
    path.relative_to(root / 'gin').as_posix()
    for path in (root / 'gin').rglob('*.gin')
  }
  assert files == {
    path.relative_to(ROOT / 'gin').as_posix()
    for path in (ROOT / 'gin').rglob('*.gin')
  }
  out = run(
    '-c',
    'import hypertuning.tasks.toy as t, sys; print(t.__file__);'
    'from hypertuning import gin_utils;'
    'gin_utils.parse(["gin/models/hyper_t5_prefix.gin",'
    '"gin/models/sizes/tiny.gin"], ["OPTIMIZER = None"]);'
    'print("parsed");'
    'from hypertuning.reporting import page;'
    'print(page.html("t", "f", [])[:15])',
  )
  assert out.splitlines() == [
    str(root / 'tasks/toy.py'),
    'parsed',
    '<!DOCTYPE html>',
  ]
