"""Bad files: one line that names what is at fault, and nothing half-written."""

import json
import pathlib
import types

import bpe
import converted
import disks
import numpy as np
import public_models
import pytest
import safetensors.numpy

from hypertuning import files

torch = pytest.importorskip('torch')


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
  """A folder of Hugging Face's, to be copied."""
  folder = tmp_path_factory.mktemp('llama')
  return public_models.save(public_models.llama(), folder)


@pytest.fixture
def source(llama, tmp_path):
  """A copy of the folder, which a test may spoil."""
  folder = tmp_path / 'source'
  folder.mkdir()
  for file in llama.iterdir():
    (folder / file.name).write_bytes(file.read_bytes())
  return folder


@pytest.fixture
def fails(tmp_path, capfd):
  """Converts what must be refused; returns the one line."""

  def run(source, *flags) -> str:
    before = set(tmp_path.iterdir())
    code, err = converted.main(capfd, source, tmp_path / 'out', *flags)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith('error: '), err
    assert set(tmp_path.iterdir()) == before, 'half-written'
    return lines[0]

  return run


def _edit(folder: pathlib.Path, **fields) -> None:
  path = folder / 'config.json'
  config = json.loads(path.read_text()) | fields
  config = {k: v for k, v in config.items() if v is not ...}
  path.write_text(json.dumps(config))


def _edit_arrays(folder: pathlib.Path, change) -> None:
  path = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(path)
  change(arrays)
  safetensors.numpy.save_file(arrays, path)


def _cut(path: pathlib.Path, share: float) -> None:
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * share)])


def test_arrays_that_are_missing_or_not_read_are_named(source, fails):
  def change(arrays):
    arrays['model.layers.0.mlp.gate_proj.bias'] = np.zeros(512, np.float32)
    del arrays['model.layers.1.self_attn.k_proj.weight']

  _edit_arrays(source, change)
  message = fails(source)
  assert 'lacks model.layers.1.self_attn.k_proj.weight' in message
  assert 'has no use for model.layers.0.mlp.gate_proj.bias' in message


def test_head_of_a_tied_model_must_be_the_embedding(source, fails, capfd):
  _edit_arrays(
    source,
    lambda arrays: arrays.update(
      {'lm_head.weight': arrays['model.embed_tokens.weight'] + 1}
    ),
  )
  assert 'has no use for lm_head.weight' in fails(source)
  _edit_arrays(
    source,
    lambda arrays: arrays.update(
      {'lm_head.weight': arrays['model.embed_tokens.weight'].copy()}
    ),
  )
  assert converted.main(capfd, source, source.parent / 'out')[0] == 0


def test_shape_that_the_configuration_does_not_give(source, fails):
  _edit(source, intermediate_size=256)
  message = fails(source)
  assert f'{source}: model.layers.0.mlp.' in message
  assert 'but by the configuration it is (256, 256)' in message


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'model_type': 'gpt2'}, "model_type = 'gpt2': this architecture"),
    ({'model_type': ...}, "has no field 'model_type'"),
    ({'hidden_size': ...}, "has no field 'hidden_size'"),
    ({'hidden_size': 'wide'}, "hidden_size = 'wide'"),
    ({'attention_bias': True}, 'attention_bias = True'),
    (
      {'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}},
      "rope_parameters: rope_type = 'yarn'",
    ),
    ({'eos_token_id': 399999}, '399999, which tokenizer.json does not have'),
    ({'eos_token_id': ...}, "no field 'eos_token_id'"),
  ],
)
def test_configuration_that_is_not_read(source, fails, fields, words):
  _edit(source, **fields)
  message = fails(source)
  assert words in message and str(source) in message


def test_files_that_are_cut_or_of_another_kind(source, fails):
  file = source / 'model.safetensors'
  _cut(file, 0.9)
  assert str(file) in fails(source) and 'not a safetensors file' in fails(file)
  file.write_bytes(b'PK\x03\x04 a zip archive')
  assert f'{file}: not a safetensors file' in fails(source)
  file.unlink()
  assert 'neither model.safetensors nor' in fails(source)
  (source / 'config.json').write_text('{')
  (source / 'pytorch_model.bin').write_bytes(b'')
  assert f'{source / "config.json"}:' in fails(source)


def test_index_names_what_is_not_there(source, fails):
  (source / 'model.safetensors').rename(source / 'model-1.safetensors')
  index = source / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {'a': 'model-2.safetensors'}}))
  assert 'model-2.safetensors: no such file' in fails(source)
  index.write_text(json.dumps({'weight_map': {'a': 'model-1.safetensors'}}))
  assert 'model-1.safetensors: holds no a' in fails(source)
  index.write_text('{}')
  assert f'{index}: has no mapping' in fails(source)


def test_torch_file_with_code(source, fails, tmp_path):
  (source / 'model.safetensors').unlink()
  mark = tmp_path / 'source/executed'

  class Code:
    def __reduce__(self):
      return (pathlib.Path.touch, (mark,))

  torch.save({'a': Code()}, source / 'pytorch_model.bin')
  assert 'pytorch_model.bin: not a file of torch' in fails(source)
  assert not mark.exists()
  torch.save(
    {'a': torch.zeros(2, dtype=torch.int64)}, source / 'pytorch_model.bin'
  )
  assert 'a is int64' in fails(source)


def test_vocabulary_of_another_model(source, fails):
  bpe.write(
    source / 'tokenizer.json', bpe.SPECIAL, [f'<{i}>' for i in range(99)]
  )
  message = fails(source)
  assert 'tokenizer.json has 499 ids' in message and '400 embed' in message
  (source / 'tokenizer.json').write_text('{"model": {}}')
  message = fails(source)
  assert f'{source}: tokenizer.json: not' in message
  (source / 'tokenizer.json').unlink()
  assert 'has no tokenizer.json and no tokenizer.model' in fails(source)
  assert 'there is no such' in fails(source / 'none')
  assert 'there is no such' in fails(
    source.parent / 'none', '--to_hugging_face'
  )


def test_gguf_that_is_cut_or_not_read(fails, tmp_path):
  gguf_files = pytest.importorskip('gguf_files')
  path = tmp_path / 'model.gguf'
  model = public_models.llama()
  tokenizer = bpe.write(tmp_path / 'tokenizer.json')
  gguf_files.write(path, model, 'Q5_0', tokenizer)
  assert 'is Q5_0; only F32, F16, BF16, Q8_0' in fails(path)
  gguf_files.write(path, model, 'Q8_0', tokenizer)
  whole = path.read_bytes()
  for size in (3, 40, 5000, len(whole) // 2, len(whole) - 1000):
    path.write_bytes(whole[:size])
    assert f'{path}: not a GGUF file, or a damaged one' in fails(path)
  path.write_bytes(b'PK\x03\x04 a zip archive')
  assert 'not a GGUF file' in fails(path)
  gguf_files.write(path, model, 'Q8_0', tokenizer, llama__expert_count=8)
  assert 'llama.expert_count = 8' in fails(path)
  gguf_files.write(path, model, 'Q8_0')
  assert 'tokenizer.ggml.model = None' in fails(path)


@pytest.mark.parametrize(
  'flags, words',
  [
    (['--to_hugging_face'], 'has no checkpoint'),
    (['--to_hugging_face', '--trained'], 'not both'),
    (['--like=x'], '--like has no effect'),
    (['--wrong=1'], 'unrecognized arguments: --wrong=1'),
  ],
)
def test_flags(source, fails, flags, words):
  message = fails(source, *flags)
  assert words in message or 'no checkpoint there' in message


def test_output_that_is_there(source, fails, tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out/mine').write_text('x')
  assert 'is there already' in fails(source)


def test_full_disk(source, tmp_path, capfd, monkeypatch):
  """Before the work, and in the middle of it."""
  with disks.small_disk(tmp_path / 'disk', '2m') as disk:
    code, err = converted.main(capfd, source, disk / 'out')
    assert code == 2 and 'the disk has' in err, err
    # Another command may fill it meanwhile.
    room = types.SimpleNamespace(free=2**40)
    monkeypatch.setattr(files.shutil, 'disk_usage', lambda _: room)
    code, err = converted.main(capfd, source, disk / 'out')
    assert code == 2 and 'cannot be written (No space left' in err, err
    assert len(err.splitlines()) == 1
    assert not list(disk.iterdir())
