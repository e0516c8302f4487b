"""A sweep in two halves: one machine records, another trains in its folder."""

import pytest
import recordings

from hypertuning import sweep


@pytest.mark.slow
def test_recordings_of_a_sweep_are_trained_on(tmp_path, capsys):
  recordings.write(tmp_path)
  common = {
    'command': 'hypertuning.record',
    'gin_files': recordings.gin_files(
      tmp_path, 'gin/local/record.gin', str(tmp_path / 'task.gin')
    ),
  }
  bindings = {**recordings.MODEL, 'TASK_FEATURE_LENGTHS': recordings.LENGTHS}
  first = {
    'recorded': {
      **common,
      'bindings': {**bindings, 'RECORD_STEPS': recordings.STEPS},
    },
    'held_out': {**common, 'bindings': {**bindings, 'SPLIT': 'validation'}},
  }
  trained = {
    'command': 'hypertuning.train',
    'gin_files': recordings.gin_files(
      tmp_path, 'gin/optimizers/adamw.gin', 'gin/local/train_recorded.gin'
    ),
    'bindings': recordings.TRAIN,
    'after': {'RECORDING': 'recorded', 'EVAL_RECORDING': 'held_out'},
  }

  def run(stages):
    return sweep.sweep(output_dir=str(tmp_path / 'sweep'), stages=stages)

  for cell in run(first):
    assert cell.is_done and (cell.folder / 'recording.json').exists()
  cell = run({**first, 'trained': trained})[-1]
  assert '3 cells, 2 done before, 1 to run.' in capsys.readouterr().out
  assert cell.is_done
  assert (cell.folder / f'checkpoint_{recordings.STEPS}').exists()
