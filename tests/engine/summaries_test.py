"""What a run writes and shows."""

import math

import pytest
import runner
from tensorboard.backend.event_processing import event_accumulator

from hypertuning.engine import summaries


def test_scalars_go_to_json_and_tensorboard(tmp_path):
  writer = summaries.Writer(str(tmp_path / 'run'))
  writer.write(3, {'train/loss': 1.5})
  writer.flush()
  assert runner.read_lines(tmp_path / 'run/metrics.jsonl') == [
    {'step': 3, 'train/loss': 1.5}
  ]
  read = event_accumulator.EventAccumulator(str(tmp_path / 'run')).Reload()
  (event,) = read.Scalars('train/loss')
  assert (event.step, event.value) == (3, 1.5)


def test_lines_of_a_lost_run_are_dropped(tmp_path):
  """Steps after the checkpoint come again; a torn last line is no JSON."""
  first = summaries.Writer(str(tmp_path))
  for step in (1, 2, 3):
    first.write(step, {'x': step})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 4, "x"')
  again = summaries.Writer(str(tmp_path), first_step=2)
  again.write(3, {'x': 30})
  assert [
    (r['step'], r['x']) for r in runner.read_lines(tmp_path / 'metrics.jsonl')
  ] == [
    (1, 1),
    (2, 2),
    (3, 30),
  ]


def test_tables_are_written_whole(tmp_path):
  summaries.write_jsonl(str(tmp_path / 'a'), 'rows', [{'text': 'é', 'n': 1}])
  with pytest.raises(ZeroDivisionError):
    summaries.write_jsonl(str(tmp_path / 'a'), 'rows', (1 / 0 for _ in 'x'))
  assert runner.read_lines(tmp_path / 'a/rows.jsonl') == [{'text': 'é', 'n': 1}]
  assert [p.name for p in (tmp_path / 'a').iterdir()] == ['rows.jsonl']


def test_progress_without_a_terminal_is_lines(capsys):
  progress = summaries.Progress(5, start=2, label='run', seconds=0.0)
  progress.update(loss='2.50')
  progress.update()
  progress.say('between')
  progress.update(loss='1.25')
  progress.close()
  lines = capsys.readouterr().err.splitlines()
  assert lines[0].startswith('run: 3/5 loss=2.50, -/s')
  assert lines[1].startswith('run: 4/5 loss=2.50, ')
  assert lines[2] == 'between'
  assert lines[3].startswith('run: 5/5 loss=1.25, ')
  assert lines[3].endswith('/s, 00:00 left')


def test_progress_is_quiet_between_lines(capsys):
  progress = summaries.Progress(100, seconds=math.inf)
  for _ in range(99):
    progress.update()
  assert not capsys.readouterr().err
  progress.update()
  assert '100/100' in capsys.readouterr().err
