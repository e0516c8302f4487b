"""Runs in a bucket: no part of a run is written to a local folder `gs:`."""

import json

import bucket
import jax.numpy as jnp
import numpy as np
import pytest
import runner
import tiny

from hypertuning import files, report
from hypertuning.adapters import io
from hypertuning.engine import checkpoint_folders, checkpoints, summaries
from hypertuning.errors import UserError
from hypertuning.reporting import runs
from hypertuning.reporting import sweep_results as reporting
from hypertuning.sweeping import cells, expansion, scheduler

POSITION = {'next_episode': np.int64(8)}


@pytest.fixture
def remote(tmp_path, monkeypatch):
  """The stand-in, and no local file beside its own."""
  monkeypatch.chdir(tmp_path)
  yield bucket.stand_in(tmp_path / 'objects', monkeypatch)
  assert {x.name for x in tmp_path.iterdir()} <= {'objects'}


def test_files_of_a_run(remote):
  files.check_writable('gs://bucket/run', 'MODEL_DIR')
  assert not remote.exists('gs://bucket')
  files.write_text('gs://bucket/run', 'config.gin', 'ü')
  assert remote.file('gs://bucket/run/config.gin').read_text() == 'ü'
  summaries.write_jsonl('gs://bucket/run', 'results', [{'a': 1}])
  names = {'config.gin', 'results.jsonl'}
  assert {*remote.listdir('gs://bucket/run')} == names
  files.remove('gs://bucket/run', 'results.jsonl')
  assert remote.listdir('gs://bucket/run') == ['config.gin']


def test_what_cannot_be_written_is_named(remote, monkeypatch):
  def refuse(path, mode):
    raise RuntimeError('permission denied\nfor this account')

  monkeypatch.setattr(remote, 'open', refuse)
  with pytest.raises(UserError, match="^X = 'gs://b/r': .*denied for this"):
    files.check_writable('gs://b/r', 'X')
  with pytest.raises(UserError, match='^gs://b/r/a: cannot be .*denied'):
    files.write_text('gs://b/r', 'a', '')


def test_metrics_and_events_of_a_run(remote):
  first = summaries.Writer('gs://bucket/run')
  for step in (1, 2, 3):
    first.write(step, {'x': step})
  first.flush()
  names = remote.listdir('gs://bucket/run')
  assert 'metrics.jsonl' in names and len(names) == 2
  again = summaries.Writer('gs://bucket/run', first_step=2)
  again.write(3, {'x': 30})
  again.flush()
  lines = remote.file('gs://bucket/run/metrics.jsonl').read_text().splitlines()
  assert [json.loads(x)['x'] for x in lines] == [1, 2, 30]
  assert len(remote.listdir('gs://bucket/run')) == 3


def test_adapters(remote):
  saved = tiny.prefix(tiny.config(), 2)
  path = 'gs://bucket/a/phi.safetensors'
  io.save(saved, path, model='m', config={'n': 1})
  assert io.read_header(path).config == {'n': 1}
  loaded = io.load(path)
  for site, value in saved.sites.items():
    np.testing.assert_array_equal(loaded.sites[site].key, value.key)
  with pytest.raises(UserError, match='gs://bucket/b: no such file'):
    io.load('gs://bucket/b')


def test_a_sweep_and_its_report(remote, monkeypatch):
  """Cells, their states and logs, and the pages; the command is made up."""
  stages = {
    'eval': {
      'command': 'hypertuning.eval',
      'gin_files': (*runner.MODEL_FILES, 'gin/local/eval.gin'),
    }
  }
  axes = {'seed': {'0': {'RANDOM_SEED': 0}, '1': {'RANDOM_SEED': 1}}}
  work = expansion.expand('gs://bucket/sweep', stages, axes)
  cells.claim('gs://bucket/sweep', work)

  class Process:
    def __init__(self, flags, log):
      binding = next(x for x in flags if 'EVAL_OUTPUT_DIR' in x)
      self._folder = binding.partition('=')[2].strip("'")
      log.write_text('evaluated\n')

    def wait(self):
      row = {'task': 't', 'phi': 'none', 'accuracy': 50.0}
      summaries.write_jsonl(self._folder, 'results', [row])
      return 0

  class Launcher:
    def __init__(self, commands):
      pass

    def __call__(self, command, flags, log, lock, cores=None):
      return Process(flags, log)

    def close(self):
      pass

  monkeypatch.setattr(scheduler.launcher, 'Launcher', Launcher)
  scheduler.run(work, 1)
  assert all(cell.is_done and cell.has_started for cell in work)
  log = remote.file('gs://bucket/sweep/cells/eval/0/log.txt')
  assert log.read_text() == 'evaluated\n'
  found = reporting.read('gs://bucket/sweep')
  assert [x.state for x in found.stages['eval'].cells] == ['done', 'done']
  cells.claim('gs://bucket/sweep', work)  # the same sweep, started again
  report.report(
    sweep_dir='gs://bucket/sweep', sections=[runs.runs], title='Bucket'
  )
  for name in ('runs.md', 'runs.csv', 'report.html'):
    assert remote.file(f'gs://bucket/sweep/{name}').stat().st_size
  remote.file('gs://bucket/sweep/cells/eval/1/results.jsonl').write_text('{')
  found = reporting.read('gs://bucket/sweep')
  assert found.stages['eval'].cells[1].reason == 'results.jsonl:1: not JSON'


def test_checkpoints(remote, monkeypatch):
  """Arrays too, over the API that TensorStore speaks."""
  path = 'gs://bucket/run'
  with bucket.serve(remote.root, monkeypatch):
    checkpointer = checkpoints.Checkpointer(path, keep=2)
    for step in (1, 2, 3):
      state = {
        'target': {'w': jnp.arange(12.0).reshape(3, 4) + step},
        'state': {'step': jnp.int32(step)},
      }
      checkpointer.save(step, state, POSITION)
    checkpointer.close()
    assert checkpoint_folders.latest_step(path) == 3
    assert set(checkpoint_folders.steps(files.folder(path))) == {2, 3}
    found = checkpoints.restore_variables(path)
    np.testing.assert_array_equal(found['w'], np.arange(12.0).reshape(3, 4) + 3)
    # A save that was killed has its final name, but not the last file.
    remote.file(f'{path}/checkpoint_3/commit_success.txt').unlink()
    assert checkpoint_folders.latest_step(path) == 2
    with pytest.raises(UserError, match='was not saved to the end.*point_2'):
      checkpoint_folders.find(f'{path}/checkpoint_3')


def test_a_package_that_saving_needs(monkeypatch):
  monkeypatch.setattr(checkpoint_folders, '_is_installed', lambda name: False)
  place = files.folder('gs://bucket/run')
  with pytest.raises(UserError, match="^MODEL_DIR = 'gs://bucket/run'.*gcs"):
    checkpoint_folders.check_saving(place)
  checkpoint_folders.check_saving(files.folder('run'))
