"""`hypertuning.record`, and training on what it wrote, without TensorFlow."""

import shutil

import hypothesis
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import recordings
import runner
from hypothesis import strategies as st
from recordings import LENGTHS, MODEL, STEPS, TRAIN, gin_files

from hypertuning.data import recorder as recorder_lib
from hypertuning.data import recording
from hypertuning.engine import recorded_data, restarts
from hypertuning.errors import UserError

# Their runs are trained first, for half a minute and more.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('record')
  recordings.write(path)
  return path


@pytest.fixture(scope='module')
def recorded(folder):
  """Recordings of training and of held-out episodes."""
  for name, bindings in (
    ('train', {'RECORD_STEPS': STEPS}),
    ('validation', {'SPLIT': 'validation'}),
  ):
    result = runner.run(
      'record',
      gin_files(folder, 'gin/local/record.gin', str(folder / 'task.gin')),
      {
        **MODEL,
        'TASK_FEATURE_LENGTHS': LENGTHS,
        'RECORDING': str(folder / name),
        **bindings,
      },
    )
    assert result.returncode == 0, result.stderr
  return folder


def test_training_on_a_recording_is_training_on_the_task(recorded):
  """Also where it is stopped; and it imports neither library."""
  optimizer = 'gin/optimizers/adamw.gin'
  task_files = gin_files(
    recorded, optimizer, 'gin/local/train.gin', str(recorded / 'task.gin')
  )
  result = runner.run(
    'train',
    task_files,
    {
      **TRAIN,
      'TASK_FEATURE_LENGTHS': LENGTHS,
      'MODEL_DIR': str(recorded / 'from_task'),
    },
  )
  assert result.returncode == 0, result.stderr
  files = gin_files(recorded, optimizer, 'gin/local/train_recorded.gin')
  bindings = {
    **TRAIN,
    'RECORDING': str(recorded / 'train'),
    'EVAL_RECORDING': str(recorded / 'validation'),
    'MODEL_DIR': str(recorded / 'from_recording'),
  }
  for steps in (2, STEPS):
    result = runner.run_without_tensorflow(
      'train', files, {**bindings, 'TRAIN_STEPS': steps}
    )
    assert result.returncode == 0, result.stderr
  assert 'Going on from step 2.' in result.stderr
  ours, theirs = (
    runner.losses(recorded / name) for name in ('from_recording', 'from_task')
  )
  assert ours == theirs and len(ours) == STEPS
  result = runner.run_without_tensorflow(
    'train', files, {**bindings, 'TRAIN_STEPS': STEPS + 1}
  )
  assert result.returncode == 2
  assert result.stderr.count('\n') == 1
  assert 'are more than the 32 episodes that are recorded' in result.stderr


def test_a_restart_with_another_recording_is_refused(recorded, tmp_path):
  train, other = (
    recorded_data.RecordedData(str(recorded / name), 8)
    for name in ('train', 'validation')
  )
  restarts.record(str(tmp_path), train.settings())
  restarts.check(str(tmp_path), train.settings())
  with pytest.raises(UserError, match='The episodes of RECORDING have changed'):
    restarts.check(str(tmp_path), other.settings())


def test_parts_are_ragged_and_in_16_bits(recorded):
  header = recording.Recording(str(recorded / 'train'), 'RECORDING').header
  assert header.episodes == 8 * STEPS
  assert header.lengths == LENGTHS
  with np.load(recorded / 'train' / header.parts[0][0]) as part:
    assert {x.dtype for x in part.values()} == {np.dtype('uint16')}
    assert (part['input_tokens.ids'] > 0).all()


@pytest.mark.parametrize(
  'damage, words',
  [
    (lambda path: (path / 'recording.json').unlink(), 'no recording there'),
    (
      lambda path: (path / 'episodes_00000.npz').write_bytes(b'PK'),
      'episodes_00000.npz: is damaged',
    ),
    (
      lambda path: (path / 'episodes_00000.npz').unlink(),
      'episodes_00000.npz: cannot be read',
    ),
    (
      lambda path: (path / 'recording.json').write_text('{"version": 1}'),
      'recording.json: is damaged',
    ),
    (
      lambda path: (path / 'recording.json').write_text('{"version": 7}'),
      'is of version 7',
    ),
  ],
)
def test_damaged_recordings_are_named(recorded, tmp_path, damage, words):
  path = tmp_path / 'copy'
  shutil.copytree(recorded / 'train', path)
  damage(path)
  with pytest.raises(UserError, match=words):
    list(recording.Recording(str(path), 'RECORDING').batches(0, 8))


def test_another_format_and_a_second_recording_are_refused(
  recorded, monkeypatch, capfd, tmp_path
):
  files = gin_files(
    recorded, 'gin/optimizers/adamw.gin', 'gin/local/train_recorded.gin'
  )
  other = tmp_path / 'other.gin'
  other.write_text(
    'from __gin__ import dynamic_registration\n'
    'from hypertuning.data import text_format\n'
    "text_format.custom_format.inputs = 'Question:'\n"
  )
  code, error = runner.main(
    'train',
    [*files, str(other)],
    {
      **TRAIN,
      'EVAL_PERIOD': 0,
      'EVAL_RECORDING': str(recorded / 'validation'),
      'RECORDING': str(recorded / 'train'),
      'MODEL_DIR': str(tmp_path / 'run'),
    },
    monkeypatch,
    capfd,
  )
  assert code == 2 and error.count('\n') == 1
  assert 'TEXT_FORMAT of the model is' in error
  code, error = runner.main(
    'record',
    gin_files(recorded, 'gin/local/record.gin', str(recorded / 'task.gin')),
    {
      **MODEL,
      'TASK_FEATURE_LENGTHS': LENGTHS,
      'RECORDING': str(recorded / 'train'),
    },
    monkeypatch,
    capfd,
  )
  assert code == 2 and 'has a recording already' in error
  assert not (tmp_path / 'run').exists()


@st.composite
def _episodes(draw):
  """Right-padded features of some episodes."""
  count = draw(st.integers(1, 7))
  shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 9)))
  high = draw(st.sampled_from([2, 300, 2**16 - 1, 2**16, 10**6]))

  def texts():
    ids = draw(
      arrays.arrays(np.int32, (count, *shape), elements=st.integers(1, high))
    )
    sizes = draw(
      arrays.arrays(
        np.int32, (count, shape[0], 1), elements=st.integers(0, shape[1])
      )
    )
    return np.where(np.arange(shape[1]) < sizes, ids, 0)

  return {
    'hyper_tokens': texts(),
    'input_tokens': texts(),
    'target_tokens': texts(),
  }


@hypothesis.settings(deadline=None, max_examples=40)
@hypothesis.given(_episodes(), st.integers(1, 5), st.integers(0, 8), st.data())
def test_any_episode_comes_back(tmp_path_factory, episodes, size, first, data):
  path = tmp_path_factory.mktemp('any')
  recorder = recorder_lib.Recorder(str(path), LENGTHS)
  count = len(episodes['target_tokens'])
  for i in range(count):
    recorder.add({name: x[i] for name, x in episodes.items()})
    if data.draw(st.booleans()):
      recorder._write_part() if recorder._pending else None
  recorder.close(
    task='any',
    split='train',
    seed=0,
    endless=True,
    vocabulary='',
    fingerprint='',
  )
  batches = list(recording.Recording(str(path), 'X').batches(first, size))
  for name, x in episodes.items():
    rows = [batch[name] for batch in batches]
    together = np.concatenate(rows) if rows else x[:0]
    np.testing.assert_array_equal(together, x[first:], strict=bool(rows))
  for batch in batches[:-1]:
    assert len(batch['target_tokens']) == size
