"""Bad input through the real commands: one line, exit code 2, nothing left."""

import json
import sys

import numpy as np
import pytest
import runner

from hypertuning import gin_utils
from hypertuning.engine import checkpoints

EVAL_FILES = (*runner.MODEL_FILES, 'gin/local/eval.gin')
INFER_FILES = (*runner.MODEL_FILES, 'gin/local/infer.gin')


@pytest.fixture
def fails(tmp_path, monkeypatch, capfd):
  """Runs a command that must fail; returns its one line."""

  def run(name='train', files=runner.TRAIN_FILES, **bindings) -> str:
    outputs = {
      'train': {**runner.TRAIN, 'MODEL_DIR': str(tmp_path / 'out')},
      'eval': {**runner.SMALL, 'EVAL_OUTPUT_DIR': str(tmp_path / 'out')},
      'infer': {**runner.SMALL, 'INFER_OUTPUT_DIR': str(tmp_path / 'out')},
    }[name]
    given = {**outputs, **bindings}
    given = {k: v for k, v in given.items() if v is not ...}
    code, err = runner.main(name, files, given, monkeypatch, capfd)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith('error: ') and 'Traceback' not in err
    assert not (tmp_path / 'out').exists(), 'half-written'
    return lines[0]

  return run


def _gin(tmp_path, text: str) -> str:
  path = tmp_path / 'own.gin'
  path.write_text(f'from __gin__ import dynamic_registration\n{text}\n')
  return str(path)


def _text_task(tmp_path, folder) -> tuple[str, ...]:
  """Gin files that hyperpretrain on the texts of a folder."""
  own = _gin(
    tmp_path,
    'from hypertuning.tasks import hyperpretrain\n'
    'MIXTURE_OR_TASK_NAME = @hyperpretrain.text_folder()\n'
    f'hyperpretrain.text_folder.folder = {str(folder)!r}',
  )
  return (*runner.TRAIN_FILES, own)


def test_gin_file_that_does_not_parse(fails, tmp_path):
  file = _gin(tmp_path, 'TRAIN_STEPS = = 3')
  message = fails(files=(*runner.TRAIN_FILES, file))
  assert f'{file}:2: ' in message


def test_unknown_binding(fails):
  message = fails(**{'optim.adamw.learning_rat': 3})
  assert '--gin.optim.adamw.learning_rat=3' in message
  assert 'TRAIN_STEPS?' in fails(TRAIN_STPES=3)


def test_missing_bindings(fails):
  message = fails(MODEL_DIR=..., TRAIN_STEPS=...)
  assert 'MODEL_DIR, TRAIN_STEPS: required' in message


@pytest.mark.parametrize(
  'name, files, binding',
  [
    ('train', runner.TRAIN_FILES, 'INITIAL_CHECKPOINT_PATH'),
    ('eval', EVAL_FILES, 'CHECKPOINT_PATH'),
    ('infer', INFER_FILES, 'CHECKPOINT_PATH'),
  ],
)
def test_missing_checkpoint(fails, tmp_path, name, files, binding):
  path = str(tmp_path / 'nowhere')
  message = fails(name, files, **{binding: path})
  assert f"{binding} = '{path}': no checkpoint" in message


def test_checkpoint_of_another_size(fails, tmp_path):
  folder = tmp_path / 'run'
  checkpointer = checkpoints.Checkpointer(str(folder))
  tree = {'downstream': {'token_embedder': {'embedding': np.ones((384, 24))}}}
  checkpointer.save(1, {'target': tree}, {'batches': np.int64(1)})
  checkpointer.close()
  message = fails('eval', EVAL_FILES, CHECKPOINT_PATH=str(folder))
  assert '(384, 16)' in message and '(384, 24)' in message
  assert 'downstream/token_embedder/embedding' in message


def test_text_folder_without_text(fails, tmp_path):
  folder = tmp_path / 'texts'
  files = _text_task(tmp_path, folder)
  assert str(folder) in fails(files=files, MIXTURE_OR_TASK_NAME=...)
  folder.mkdir()
  (folder / 'empty.txt').write_text(' \n')
  message = fails(files=files, MIXTURE_OR_TASK_NAME=...)
  assert str(folder) in message and 'text' in message


def test_file_that_is_not_utf8(fails, tmp_path):
  folder = tmp_path / 'texts'
  folder.mkdir()
  (folder / 'good.txt').write_text('words and words ' * 50)
  (folder / 'latin.txt').write_bytes(b'caf\xe9 ' * 50)
  files = _text_task(tmp_path, folder)
  message = fails(files=files, MIXTURE_OR_TASK_NAME=...)
  assert str(folder / 'latin.txt') in message and 'UTF-8' in message


def test_task_with_too_few_examples(fails, tmp_path, monkeypatch):
  (tmp_path / 'few_examples_task.py').write_text(
    'import functools, seqio\n'
    'from hypertuning.data import episodes, features, fewshot, vocabularies\n'
    'rows = {"capitals": [("a", "A"), ("b", "B")]}\n'
    'seqio.TaskRegistry.add("few", source=episodes.EpisodeSource(\n'
    '  {"train": lambda: rows, "validation": lambda: rows},\n'
    '  shots=2, queries=1),\n'
    '  preprocessors=[functools.partial(fewshot.episode_features,\n'
    '    text_format=vocabularies.byte_format())],\n'
    '  output_features=features.output_features(\n'
    '    vocabularies.byte_format()))\n'
  )
  monkeypatch.syspath_prepend(tmp_path)
  message = fails(
    MIXTURE_OR_TASK_NAME='few', MIXTURE_OR_TASK_MODULE='few_examples_task'
  )
  assert 'capitals' in message and '2 examples' in message


@pytest.mark.parametrize(
  'lengths, field',
  [
    ({**runner.LENGTHS, 'targets': (2, 0)}, 'targets'),
    ({**runner.LENGTHS, 'targets': (2, 1)}, 'targets'),
    ({**runner.LENGTHS, 'inputs': (2, 1)}, 'inputs'),
    ({**runner.LENGTHS, 'hyper_inputs': 0}, 'hyper_inputs'),
    ({**runner.LENGTHS, 'targets': 4}, 'targets'),
    ({'hyper_inputs': 9}, 'inputs'),
  ],
)
def test_lengths_that_cut_everything_away(fails, lengths, field):
  message = fails(TASK_FEATURE_LENGTHS=lengths)
  assert f'TASK_FEATURE_LENGTHS[{field!r}]' in message


def test_batch_that_the_devices_do_not_divide(fails):
  message = fails(BATCH_SIZE=12)
  assert 'BATCH_SIZE = 12' in message and '8 data-parallel devices' in message
  message = fails(BATCH_SIZE=16, NUM_MICROBATCHES=3)
  assert 'multiple of 24' in message
  message = fails('eval', EVAL_FILES, BATCH_SIZE=12, CHECKPOINT_PATH='x')
  assert 'BATCH_SIZE = 12' in message
  assert 'NUM_PARTITIONS = 3' in fails(NUM_PARTITIONS=3)


def test_vocabulary_smaller_than_the_ids(fails):
  message = fails(VOCAB_SIZE=256)
  assert 'VOCAB_SIZE' in message and '256' in message and '359' in message


def test_unknown_task_and_module(fails):
  message = fails(MIXTURE_OR_TASK_NAME='toy_symbol')
  assert "'toy_symbol'" in message and 'toy_symbols' in message
  message = fails(MIXTURE_OR_TASK_MODULE='nothing.like_this')
  assert "MIXTURE_OR_TASK_MODULE = 'nothing.like_this'" in message


def test_held_out_task_and_split_by_their_own_macros(fails):
  message = fails(EVAL_MIXTURE_OR_TASK_NAME='toyz')
  assert "EVAL_MIXTURE_OR_TASK_NAME = 'toyz' is not registered" in message
  message = fails(EVAL_SPLIT='test')
  assert "EVAL_SPLIT = 'test': toy_symbols has no split 'test'; it" in message
  message = fails('eval', EVAL_FILES, SPLIT='test', CHECKPOINT_PATH='x')
  assert "error: SPLIT = 'test': toy_symbols has no split 'test'" in message


@pytest.mark.parametrize(
  'name, text, error',
  [
    ('raises_tasks', '\n1 / 0\n', '2: ZeroDivisionError'),
    ('broken_tasks', 'def x(:\n', '1: SyntaxError'),
    ('exits_tasks', 'import sys\nsys.exit(3)\n', '2: SystemExit: 3'),
  ],
)
def test_module_that_raises(fails, tmp_path, monkeypatch, name, text, error):
  (tmp_path / f'{name}.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  message = fails(MIXTURE_OR_TASK_MODULE=name)
  start = f"MIXTURE_OR_TASK_MODULE = '{name}': cannot be imported ("
  assert f'{start}{tmp_path / name}.py:{error}' in message


def test_unknown_flag(monkeypatch, capfd):
  monkeypatch.setattr(sys, 'argv', ['train', '--gin_fil=x'])
  with pytest.raises(SystemExit) as stop:
    gin_utils.run('hypertuning.train', 'train')
  (line,) = capfd.readouterr().err.splitlines()
  assert stop.value.code == 2
  assert line.startswith("error: Unknown command line flag 'gin_fil'")


def test_folder_whose_configuration_is_no_text(fails, tmp_path):
  folder = tmp_path / 'other'
  folder.mkdir()
  (folder / 'config.gin').write_bytes(b'\xff\xfe\xff')
  places = {'EVAL_OUTPUT_DIR': str(folder), 'CHECKPOINT_PATH': 'x'}
  message = fails('eval', EVAL_FILES, **places)
  assert f'{folder / "config.gin"}: not UTF-8' in message


def test_gin_file_in_the_home_folder(fails, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  (tmp_path / 'own.gin').write_text('TRAIN_STEPS = 0\n')
  files = (*runner.TRAIN_FILES, '~/own.gin')
  assert 'TRAIN_STEPS = 0: must be' in fails(files=files, TRAIN_STEPS=...)


def test_regex_that_names_nothing(fails):
  message = fails(TRAINABLE_REGEX='hypermodl/.*')
  assert "TRAINABLE_REGEX = 'hypermodl/.*'" in message


def test_warm_up_longer_than_the_run(fails):
  message = fails(WARMUP_STEPS=50)
  assert 'WARMUP_STEPS = 50: must be less than TRAIN_STEPS = 6' in message


def test_questions_to_infer(fails, tmp_path):
  message = fails(
    'infer', INFER_FILES, CHECKPOINT_PATH='x', MIXTURE_OR_TASK_NAME=None
  )
  assert 'INFER_INPUT' in message
  path = tmp_path / 'in.jsonl'
  message = fails(
    'infer', INFER_FILES, CHECKPOINT_PATH='x', INFER_INPUT=str(path)
  )
  assert f'{path}: no such file' in message
  path.write_text(json.dumps({'queries': ['far too long a query']}))
  message = fails(
    'infer', INFER_FILES, CHECKPOINT_PATH='x', INFER_INPUT=str(path)
  )
  assert 'Line 1' in message
  path.write_text('{"queries": []}\n')
  message = fails(
    'infer', INFER_FILES, CHECKPOINT_PATH='x', INFER_INPUT=str(path)
  )
  assert f'{path}:1: "queries" is empty' in message
  path.write_text('{"queries": ["\\ud83d"]}\n')
  message = fails(
    'infer', INFER_FILES, CHECKPOINT_PATH='x', INFER_INPUT=str(path)
  )
  assert f'{path}:1: "queries" holds half a character' in message


@pytest.mark.slow
def test_real_process_writes_one_line(tmp_path):
  """As a user sees it: nothing of TensorFlow's or gin's own on the terminal."""
  bindings = {
    **runner.TRAIN,
    'MODEL_DIR': str(tmp_path / 'out'),
    'INITIAL_CHECKPOINT_PATH': str(tmp_path / 'nowhere'),
  }
  done = runner.run('train', runner.TRAIN_FILES, bindings, cwd=tmp_path)
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1, done.stderr
  assert 'INITIAL_CHECKPOINT_PATH' in done.stderr and not done.stdout
  assert not (tmp_path / 'out').exists()
  done = runner.run('eval', ['gin/nothing.gin'], {}, cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr.startswith('error: gin/nothing.gin: no such gin file')
  done = runner.run('infer', [], {'A': 1}, cwd=tmp_path)
  assert done.returncode == 2 and 'No gin file' in done.stderr
