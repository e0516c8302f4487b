"""The scripts of launch/ that set everything up say what they take."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parent.parent.parent / 'launch'


def _run(script, *arguments, **settings):
  return subprocess.run(
    [str(LAUNCH / script), *arguments],
    env={**os.environ, **settings},
    capture_output=True,
    text=True,
    timeout=20,  # nothing is installed before the arguments are read
  )


@pytest.mark.parametrize(
  'script',
  [
    *('quickstart.sh', 'claims.sh', 'smollm.sh', 'smollm_train.sh'),
    'gpu_benchmarks.sh',
  ],
)
def test_help_and_what_is_no_argument(script):
  done = _run(script, '--help')
  assert done.returncode == 0 and f'launch/{script}' in done.stdout
  assert not any(line.startswith('#') for line in done.stdout.splitlines())
  done = _run(script, '--no_such_flag')
  assert (
    done.returncode == 2 and f'launch/{script}' in done.stdout + done.stderr
  )


@pytest.mark.parametrize('folder', ['/no/such/folder', None])
def test_data_that_is_not_there(folder):
  done = _run('smollm.sh', '--data', *([folder] if folder else []))
  assert done.returncode == 2
  assert done.stderr == f"error: --data = '{folder or ''}': no such folder.\n"


@pytest.mark.parametrize(
  'setting, words', [('PARTS', 'no part_aa there'), ('RUNS', 'no recordings')]
)
def test_recordings_that_are_not_there(tmp_path, setting, words):
  done = _run('smollm_train.sh', **{setting: str(tmp_path)})
  assert done.returncode == 2 and not done.stdout
  assert done.stderr.startswith(f"error: {setting} = '{tmp_path}': {words}")
  assert done.stderr.count('\n') == 1 and 'smollm.sh --record' in done.stderr
  assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_rows_of_a_gpu_run_on_a_cpu_at_a_tiny_size(tmp_path):
  """Every row, without TensorFlow and seqio; no test of a GPU is run here."""
  done = subprocess.run(
    [
      *(LAUNCH / 'gpu_benchmarks.sh', tmp_path / 'out'),
      *('--size=tiny', '--gin.NUM_LAYERS=1', '--no_compiled_peer'),
      *('--episodes=2', '--queries=1', '--hyper_inputs=6', '--inputs=5'),
      *('--targets=3', '--rounds=1'),
    ],
    env={**os.environ, 'PYTHON': sys.executable, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  results = {
    path.stem: json.loads(path.read_text())
    for path in (tmp_path / 'out').glob('*.json')
  }
  assert set(results) == {
    *('hyper_t5_lora_large', 'mtf_t5_large', 'hyper_llama_smollm2'),
  }, done.stderr
  for found in results.values():
    assert found['rows'][0]['seconds'] > 0
