"""Commands print lines of ours, whatever the libraries that they load print."""

import os
import re
import subprocess
import sys

import pytest
import runner

# Whole lines on stderr; a progress bar is a line per report.
OURS = re.compile(
  r'run: \d+/\d+.*'
  r'|step \d+: held-out loss by phi: .*'
  r'|evaluating \w+: \d+.*'
  r'|\w+: \d+ of \d+ queries are asked: .*'
)
# A package of that name that prints as the real one does: at once, from C.
FAKE = """
import os
os.write(2, b'I0000 00:00:1795 port.cc:153] oneDNN custom operations\\n')
"""


def _environment(**settings) -> dict[str, str]:
  """That of a user, who has set nothing about logs and devices."""
  unset = ('TF_CPP_MIN_LOG_LEVEL', 'JAX_PLATFORMS')
  rest = {k: v for k, v in runner.environment().items() if k not in unset}
  return {**rest, **settings}


def _run(*words, folder, **settings) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *words],
    env=_environment(**settings),
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=300,
  )


def _lines(done: subprocess.CompletedProcess) -> list[str]:
  """The lines of a command's stderr that are not ours."""
  assert done.returncode == 0, done.stderr
  lines = re.split(r'[\r\n]+', done.stderr)
  return [line for line in lines if line and not OURS.fullmatch(line)]


@pytest.fixture
def fake_tensorflow(tmp_path):
  package = tmp_path / 'tensorflow'
  package.mkdir()
  (package / '__init__.py').write_text(FAKE)
  path = os.pathsep.join([str(tmp_path), str(runner.ROOT)])
  return package / '__init__.py', {'folder': tmp_path, 'PYTHONPATH': path}


_IMPORT = 'from hypertuning import quiet; quiet.hush_logs(); import tensorflow'


def test_import_is_quiet(fake_tensorflow):
  _, place = fake_tensorflow
  loud = _run('-c', 'import tensorflow', **place)
  assert 'oneDNN' in loud.stderr  # else the next lines would show nothing
  done = _run('-c', f'{_IMPORT}; print(tensorflow.__file__)', **place)
  assert (done.returncode, done.stderr) == (0, '')
  assert 'tensorflow' in done.stdout


def test_import_that_fails_shows_all_that_it_printed(fake_tensorflow):
  file, place = fake_tensorflow
  file.write_text(FAKE + "raise ImportError('libcudart.so is broken')\n")
  done = _run('-c', _IMPORT, **place)
  assert done.returncode
  assert 'oneDNN' in done.stderr
  assert 'ImportError: libcudart.so is broken' in done.stderr


@pytest.mark.slow
def test_training_and_evaluation_print_lines_of_ours(tmp_path):
  run = tmp_path / 'run'
  train = {**runner.TRAIN, 'MODEL_DIR': str(run)}
  flags = runner.flags(runner.TRAIN_FILES, train)
  done = _run('-m', 'hypertuning.train', *flags, folder=tmp_path)
  assert not _lines(done)
  assert 'step 6: held-out loss' in done.stderr
  places = {'CHECKPOINT_PATH': str(run), 'EVAL_OUTPUT_DIR': str(run) + '_eval'}
  flags = runner.flags(
    [*runner.MODEL_FILES, 'gin/local/eval.gin'], {**runner.SMALL, **places}
  )
  done = _run('-m', 'hypertuning.eval', *flags, folder=tmp_path)
  assert not _lines(done)
  assert 'queries are asked' in done.stderr
  (tmp_path / 'mine.jsonl').write_text('{"inputs": "a", "targets": "xy"}\n')
  flags = (
    '--examples=mine.jsonl',
    f'--model={run}',
    '--output=phi.safetensors',
  )
  done = _run('-m', 'hypertuning.adapt', *flags, folder=tmp_path)
  assert not _lines(done)
  assert 'a prefix of' in done.stdout


@pytest.mark.slow
def test_warnings_of_a_module_of_the_users_are_seen(tmp_path):
  (tmp_path / 'mine.py').write_text(
    "import sys, warnings\nwarnings.warn('few rows')\n"
    "print('reading rows', file=sys.stderr)\n"
  )
  show = ('-m', 'hypertuning.tasks', 'show', 'toy', '--n=1', '--module=mine')
  done = _run(*show, folder=tmp_path, PYTHONPATH=f'{tmp_path}:{runner.ROOT}')
  assert done.stdout
  warned, _, printed = _lines(done)
  assert warned.endswith('UserWarning: few rows')
  assert printed == 'reading rows'
