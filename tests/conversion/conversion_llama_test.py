"""Llamas of every kind of file give the logits that `transformers` gives."""

import bpe
import converted
import numpy as np
import public_models
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

MODEL_FILE = 'gin/models/llama.gin'
LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 500.0,
  'factor': 4.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}


def check(model, folder) -> None:
  """Compares logits on two texts."""
  inputs, targets = public_models.text()
  ids = torch.tensor(np.concatenate([inputs, targets], axis=1)).long()
  with torch.no_grad():
    whole = model(ids).logits.numpy()
  wanted = whole[:, inputs.shape[1] - 1 : -1]
  ours = converted.logits(folder, MODEL_FILE, inputs, targets)
  np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
  'kind, overrides',
  [
    ('safetensors', {'tie_word_embeddings': True}),
    ('sharded', {'tie_word_embeddings': False, 'rope_parameters': LLAMA3}),
    ('torch', {'num_key_value_heads': 4, 'head_dim': 32}),
  ],
)
def test_folders_of_hugging_face(tmp_path, capfd, kind, overrides):
  model = public_models.llama(**overrides)
  source = public_models.save(model, tmp_path / 'source', kind)
  code, err = converted.main(capfd, source, tmp_path / 'out')
  assert code == 0, err
  assert not list(tmp_path.glob('.*'))
  check(model, tmp_path / 'out')


@pytest.mark.parametrize(
  'kind', ['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1', 'Q4_K', 'Q6_K']
)
def test_gguf(tmp_path, capfd, kind):
  import gguf_files

  model = public_models.llama(tie_word_embeddings=kind != 'F16')
  tokenizer = bpe.write(tmp_path / 'tokenizer.json')
  (tmp_path / 'source').mkdir()
  path = gguf_files.write(
    tmp_path / 'source/model.gguf', model, kind, tokenizer
  )
  code, err = converted.main(capfd, path, tmp_path / 'out')
  assert code == 0, err
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'source',
    gguf_file='model.gguf',
    attn_implementation='eager',
    dtype=torch.float32,
  ).eval()
  check(theirs, tmp_path / 'out')
