"""`hypertuning.eval` on a recording, and recordings as a seqio task."""

import dataclasses
import gzip
import json
import shutil

import numpy as np
import pytest
import recorded_mixture
import recordings
import runner
import tensorflow as tf
from recordings import LENGTHS, MODEL, STEPS, TRAIN

from hypertuning import gin_utils, record
from hypertuning.data import (
  features,
  lookup,
  metrics,
  recorded_questions,
  recorded_tasks,
  recording,
)
from hypertuning.data import recorder as recorder_lib
from hypertuning.data import text_format as text_format_lib
from hypertuning.data.questions import Questions
from hypertuning.engine.recorded_data import RecordedData
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.tasks import recorded as recorded_lib

# Their runs are trained first, for half a minute and more.
pytestmark = pytest.mark.slow

MIXTURE = """
from __gin__ import dynamic_registration
import recorded_mixture

MIXTURE_OR_TASK_NAME = @recorded_mixture.mixture()
recorded_mixture.mixture.text_format = %TEXT_FORMAT
"""
# Of twelve episodes in groups of two draws: the first fill up the last batch.
SIZE = 10
MODES = ('generated', 'other', 'none', 'averaged', 'random')
EVAL = {**MODEL, 'BATCH_SIZE': SIZE, 'PHI_MODES': MODES, 'DRAWS': 2}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A trained run, and recordings of training and of a held-out mixture."""
  path = tmp_path_factory.mktemp('record_eval')
  recordings.write(path)
  (path / 'mixture.gin').write_text(MIXTURE)
  with pytest.MonkeyPatch.context() as patch:
    for command, files, bindings in (
      (
        'train',
        ('gin/optimizers/adamw.gin', 'gin/local/train.gin', 'task.gin'),
        {**TRAIN, 'MODEL_DIR': str(path / 'run'), 'EVAL_PERIOD': 0},
      ),
      (
        'record',
        ('gin/local/record.gin', 'task.gin'),
        {**MODEL, 'RECORDING': str(path / 'train'), 'RECORD_STEPS': STEPS},
      ),
      (
        'record',
        ('gin/local/record.gin', 'mixture.gin'),
        {
          **MODEL,
          'RECORDING': str(path / 'both'),
          'SPLIT': 'validation',
          'RANDOM_SEED': 3,
        },
      ),
    ):
      bindings = {**bindings, 'TASK_FEATURE_LENGTHS': LENGTHS}
      _run(command, path, files, bindings, patch)
  return path


def _run(command, path, files, bindings, patch):
  """Runs a command in this process."""
  own = {'task.gin', 'mixture.gin'}
  files = [str(path / name) if name in own else name for name in files]
  argv = runner.flags(recordings.gin_files(path, *files), bindings)
  patch.setattr('sys.argv', [command, *argv])
  with pytest.raises(SystemExit) as stop:
    function = {'eval': 'evaluate'}.get(command, command)
    gin_utils.run(f'hypertuning.{command}', function)
  assert not stop.value.code


@pytest.fixture(scope='module')
def model(folder):
  """The model of the run."""
  files = recordings.gin_files(
    folder, 'gin/local/record.gin', str(folder / 'mixture.gin')
  )
  bindings = {**MODEL, 'RECORDING': 'none', 'TASK_FEATURE_LENGTHS': LENGTHS}
  gin_utils.parse(files, [f'{k} = {v!r}' for k, v in bindings.items()])
  return gin_utils.arguments(record.record)['model']


@pytest.fixture
def copy(folder, tmp_path):
  """A copy of the recording of the mixture."""
  shutil.copytree(folder / 'both', tmp_path / 'copy')
  return tmp_path / 'copy'


def test_numbers_are_those_of_the_task(folder, monkeypatch):
  """With every phi mode; the recording's without TensorFlow."""
  helpers = str(runner.ROOT / 'tests/helpers')
  monkeypatch.setenv('PYTHONPATH', helpers)
  bindings = {**EVAL, 'CHECKPOINT_PATH': str(folder / 'run')}
  done = runner.run(
    'eval',
    recordings.gin_files(
      folder, 'gin/local/eval.gin', str(folder / 'mixture.gin')
    ),
    {
      **bindings,
      'TASK_FEATURE_LENGTHS': LENGTHS,
      'RANDOM_SEED': 3,
      'EVAL_OUTPUT_DIR': str(folder / 'from_task'),
    },
  )
  assert done.returncode == 0, done.stderr
  done = runner.run_without_tensorflow(
    'eval',
    recordings.gin_files(folder, 'gin/local/eval_recorded.gin'),
    {
      **bindings,
      'RECORDING': str(folder / 'both'),
      'EVAL_OUTPUT_DIR': str(folder / 'from_recording'),
    },
  )
  assert done.returncode == 0, done.stderr
  for name in ('results.jsonl', 'predictions.jsonl'):
    theirs, ours = (
      (folder / kind / name).read_text()
      for kind in ('from_task', 'from_recording')
    )
    assert ours == theirs
  rows = runner.read_lines(folder / 'from_recording/results.jsonl')
  assert [(row['task'], row['phi']) for row in rows] == [
    (task, mode)
    for task in ('draws', 'draws_score_eval', 'average')
    for mode in MODES
  ]
  assert {'accuracy', 'macro_f1', 'accuracy_std'} <= rows[0].keys()
  assert 'ties' in rows[len(MODES)]


@pytest.mark.parametrize('num_batches', [None, 1])
def test_batches_and_questions_are_those_of_the_task(
  folder, model, num_batches
):
  recorded_mixture.mixture(model.text_format)
  task = TaskData('both', LENGTHS, SIZE, seed=3)
  ours = RecordedData(str(folder / 'both'), SIZE, LENGTHS)
  ours.check(model)
  assert ours.seed == 3
  pairs = zip(
    task.evaluations(model, num_batches),
    ours.evaluations(model, num_batches),
    strict=True,
  )
  for theirs, mine in pairs:
    assert theirs.name == mine.name
    _assert_equal_questions(theirs.questions, mine.questions)
    assert len(mine.questions.counts) == (SIZE if num_batches else 12)
    assert theirs.questions.notes() == mine.questions.notes()
    assert theirs.predict_metric_fns == mine.predict_metric_fns
    assert theirs.score_metric_fns == mine.score_metric_fns
    assert theirs.postprocess is mine.postprocess
    _assert_equal_batches(theirs.open_batches(), mine.open_batches())
  _assert_equal_batches(task.batches(model), ours.batches(model))


def _assert_equal_questions(theirs: Questions, ours: Questions) -> None:
  for field in dataclasses.fields(Questions):
    values = getattr(theirs, field.name), getattr(ours, field.name)
    if field.name == 'targets' and isinstance(values[0][0], dict):
      values = [
        [{k: np.asarray(x).tolist() for k, x in t.items()} for t in targets]
        for targets in values
      ]
    assert values[0] == values[1], field.name


def _assert_equal_batches(theirs, ours) -> None:
  for one, other in zip(theirs, ours, strict=True):
    assert one.keys() == other.keys()
    for name, x in one.items():
      np.testing.assert_array_equal(np.asarray(x), other[name], strict=True)


def test_recordings_for_another_purpose_are_refused(folder, model):
  with pytest.raises(UserError, match='has episodes of training, and no quest'):
    RecordedData(str(folder / 'train'), 8).evaluations(model)
  with pytest.raises(UserError, match='has each episode of a split once'):
    RecordedData(str(folder / 'both'), 8).check_steps(1)
  longer = {**LENGTHS, 'targets': (2, 9)}
  with pytest.raises(UserError, match=r'but TASK_FEATURE_LENGTHS = .*\(2, 9\)'):
    RecordedData(str(folder / 'both'), 8, longer).check(model)


def test_bad_recordings_are_refused_before_the_work(
  folder, monkeypatch, capfd, tmp_path
):
  """By the command, in one line."""
  code, error = runner.main(
    'eval',
    recordings.gin_files(folder, 'gin/local/eval_recorded.gin'),
    {
      **EVAL,
      'BATCH_SIZE': 16,
      'CHECKPOINT_PATH': str(folder / 'run'),
      'RECORDING': str(folder / 'train'),
      'EVAL_OUTPUT_DIR': str(tmp_path / 'out'),
    },
    monkeypatch,
    capfd,
  )
  assert code == 2 and error.count('\n') == 1
  assert 'record a split for evaluation, without RECORD_STEPS' in error
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'damage, words',
  [
    (
      lambda path: shutil.rmtree(path / 'draws'),
      'no recording there, recording.json is missing',
    ),
    (
      lambda path: (path / 'draws/questions.jsonl.gz').unlink(),
      'questions.jsonl.gz: cannot be read',
    ),
    (
      lambda path: (path / 'draws/questions.jsonl.gz').write_bytes(
        gzip.compress(b'{}')
      ),
      'questions.jsonl.gz: is damaged',
    ),
    (
      lambda path: _change_metrics(path / 'draws', 'os:system'),
      "'os:system' of another module .* METRIC_MODULES = .'os',.",
    ),
    (
      lambda path: _change_metrics(
        path / 'draws', 'hypertuning.data.metrics:no_such_function'
      ),
      "metrics:no_such_function', which cannot be imported",
    ),
  ],
)
def test_damaged_questions_are_named(copy, model, damage, words):
  damage(copy)
  with pytest.raises(UserError, match=words):
    RecordedData(str(copy), SIZE).evaluations(model)


def test_functions_of_a_module_that_the_user_names_are_called(copy, model):
  _change_metrics(copy / 'draws', 'math:fsum')
  data = RecordedData(str(copy), SIZE, metric_modules=('math',))
  assert data.evaluations(model)
  _change_metrics(copy / 'draws', 'no_such_module:score')
  data = RecordedData(str(copy), SIZE, metric_modules=('no_such_module',))
  with pytest.raises(UserError, match='which cannot be imported'):
    data.evaluations(model)


def _change_metrics(path, name) -> None:
  header = json.loads((path / 'recording.json').read_text())
  header['measures']['predict_metrics'] = [name]
  (path / 'recording.json').write_text(json.dumps(header))


def test_what_cannot_be_recorded_is_refused():
  questions = Questions('mine', [[['a']]], [1], [0], ['a'], [1], [0])
  with pytest.raises(UserError, match='mine: its metric .*lambda'):
    recorded_questions.measures(
      questions, metrics.texts, [lambda targets, predictions: {}], []
    )
  strange = dataclasses.replace(questions, targets=[[b'bytes']])
  with pytest.raises(UserError, match='mine: its targets cannot be recorded'):
    recorded_questions.measures(strange, None, [], [])


def test_a_recording_is_a_seqio_task(folder, model):
  """Which TaskData and t5x read as any other."""
  name = recorded_lib.task(
    str(folder / 'train'),
    str(folder / 'both'),
    text_format=model.text_format,
  )
  held_out = TaskData(name, LENGTHS, 8)
  held_out.check(model)
  task = dataclasses.replace(held_out, split='train')
  ours = RecordedData(str(folder / 'train'), 8)
  for first in (0, 5):
    batches = task.batches(model, repeat=True, first=first)
    expected = list(ours.batches(model, repeat=True, first=first))
    _assert_equal_batches(batches.take(len(expected)), expected)
  _assert_equal_batches(
    held_out.batches(model),
    RecordedData(str(folder / 'both'), 8).batches(model),
  )
  shorter = dataclasses.replace(task, lengths={**LENGTHS, 'hyper_inputs': 50})
  with pytest.raises(UserError, match='was recorded with the lengths'):
    next(iter(shorter.batches(model)))
  other = text_format_lib.markers_format(model.text_format.vocabulary)
  with pytest.raises(UserError, match='recorded.task.train = .*its text is in'):
    recorded_lib.task(str(folder / 'train'), text_format=other)


def test_chunks_and_teachers_inputs_come_back(tmp_path, model):
  """And t5x can save the place in them."""
  lengths = {
    **{'hyper_inputs': (2, 5), 'inputs': (2, 4)},
    **{'targets': (2, 3), 'teacher_inputs': (2, 9)},
  }
  rng = np.random.default_rng(0)
  episodes = []
  for _ in range(7):
    episodes.append(
      {
        f'{part}_tokens': np.where(
          np.arange(shape[1]) < rng.integers(1, shape[1] + 1, (shape[0], 1)),
          rng.integers(1, 400, shape),
          0,
        ).astype(np.int32)
        for part, shape in zip(
          ('hyper', 'input', 'target', 'teacher'), lengths.values(), strict=True
        )
      }
    )
  recorder = recorder_lib.Recorder(str(tmp_path), lengths)
  for number, episode in enumerate(episodes):
    recorder.add(episode)
    if number == 3:
      recorder._write_part()
  recorder.close(
    task='any',
    split='train',
    seed=0,
    endless=True,
    vocabulary='',
    fingerprint=recording.fingerprint(model.text_format),
  )
  recorded_tasks.add('chunks', {'train': str(tmp_path)}, model.text_format)
  converted = features.DistillationFeatureConverter()(
    lookup.episodes('chunks', lengths, 'train', repeat=True), lengths
  )
  iterator = iter(converted)
  for expected in episodes[:3]:
    _assert_equal_episodes(next(iterator), expected)
  place = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / 'place'))
  iterator = iter(converted)
  tf.train.Checkpoint(iterator=iterator).restore(place)
  for expected in [*episodes[3:], episodes[0]]:  # a second epoch begins
    _assert_equal_episodes(next(iterator), expected)


def _assert_equal_episodes(converted, expected) -> None:
  assert converted.keys() == {*expected, 'target_weights'}
  for name, x in expected.items():
    np.testing.assert_array_equal(converted[name].numpy(), x, strict=True)
