"""Output folders: where commands write, and folders that cannot be written."""

import disks
import pytest
import runner

from hypertuning import gin_utils, plan
from hypertuning.errors import UserError
from hypertuning.planning import options

MODEL = (*runner.MODEL_FILES, 'gin/optimizers/adamw.gin')
COMMANDS = {
  'train': ('gin/local/train.gin', 'MODEL_DIR', runner.TRAIN),
  'eval': ('gin/local/eval.gin', 'EVAL_OUTPUT_DIR', runner.SMALL),
  'infer': ('gin/local/infer.gin', 'INFER_OUTPUT_DIR', runner.SMALL),
  'adapt': ('gin/local/adapt.gin', 'ADAPT_OUTPUT_DIR', runner.SMALL),
}


def _run(command, path, monkeypatch, capfd):
  """Runs a command that writes to a path: exit code, standard error."""
  file, binding, bindings = COMMANDS[command]
  files = [*runner.MODEL_FILES, file]
  bindings = {**bindings, binding: path}
  if command in ('train', 'adapt'):
    files = [*MODEL, file]
  if command != 'train':
    bindings['CHECKPOINT_PATH'] = 'nowhere'
  if command == 'adapt':
    bindings |= {'TRAIN_STEPS': 2, 'WARMUP_STEPS': 1}
    del bindings['BATCH_SIZE']
  return runner.main(command, files, bindings, monkeypatch, capfd)


@pytest.mark.parametrize('command', COMMANDS)
def test_what_cannot_be_written_is_found_before_the_work(
  command, tmp_path, monkeypatch, capfd
):
  """Before it is seen that there is no checkpoint."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').touch()
  for path, reason in {
    'file': 'file is not a folder',
    'file/x': 'Not a directory',
    '/proc/run': 'No such file or directory',
    'gs:/bucket/run': 'begins with gs://',
  }.items():
    code, err = _run(command, path, monkeypatch, capfd)
    binding = COMMANDS[command][1]
    assert code == 2, err
    assert err.startswith(f'error: {binding} = {path!r}: ') and reason in err
    assert err.count('\n') == 1
    assert [x.name for x in tmp_path.iterdir()] == ['file']


def test_a_run_in_brackets_is_refused(tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  code, err = _run('train', 'run[1]', monkeypatch, capfd)
  assert code == 2
  assert err.startswith("error: MODEL_DIR = 'run[1]': checkpoints cannot be")
  bindings = {'SWEEP_DIR': 'runs[1]', 'STAGES': {'a': {}}}
  files = ['gin/sweeps/sweep.gin']
  code, err = runner.main('sweep', files, bindings, monkeypatch, capfd)
  assert code == 2 and 'SWEEP_DIR' in err and '[ or ]' in err
  assert not list(tmp_path.iterdir())


def test_a_report_without_its_folder(tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').touch()
  (tmp_path / 'r.gin').write_text(
    "include 'gin/sweeps/report.gin'\nreport.report.title = ''\n"
    'report.report.sections = ()\n'
  )
  for path in ('file', 'file/x', 'none', '~/none'):
    bindings = {'SWEEP_DIR': path}
    code, err = runner.main('report', ['r.gin'], bindings, monkeypatch, capfd)
    assert code == 2 and 'no such file; SWEEP_DIR' in err, err


def test_a_plan_whose_file_cannot_be_written(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'file').touch()
  gin_utils.define_flags()
  options.define_flags()
  for flag, path in (('json', '.'), ('json', 'file/x'), ('cache_dir', 'file')):
    flags = plan._FLAGS
    flags(['plan', '--topology=v4-8', f'--{flag}={path}'])
    with pytest.raises(UserError, match=f"--{flag} = '") as error:
      plan.check_outputs()
    assert '\n' not in str(error.value)
    options.define_flags()


@pytest.mark.slow
def test_all_of_a_run_is_in_the_users_home(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  runner.train('~/run', total_steps=1)
  runner.train('~/run', total_steps=2)
  names = {x.name.partition('.')[0] for x in (tmp_path / 'home/run').iterdir()}
  assert names >= {'checkpoint_2', 'metrics', 'config', 'events'}
  runner.evaluate(
    model=runner.model(),
    checkpoint_path='~/run',
    output_dir='~/answers',
    num_batches=1,
  )
  assert (tmp_path / 'home/answers/results.jsonl').exists()
  assert {x.name for x in tmp_path.iterdir()} == {'home'}


@pytest.mark.slow
def test_a_disk_without_room_for_the_checkpoints(tmp_path, monkeypatch, capfd):
  with disks.small_disk(tmp_path / 'disk', '300k') as disk:
    code, err = _run('train', str(disk / 'run'), monkeypatch, capfd)
    assert code == 2, err
    assert 'MODEL_DIR' in err and 'MB left, but the run needs' in err
    assert not list(disk.iterdir())
