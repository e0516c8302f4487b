"""T5s of every kind of file give the logits that `transformers` gives."""

import json

import converted
import hf_reference
import numpy as np
import public_models
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

MODEL_FILE = 'gin/models/t5.gin'


def check(model, folder) -> None:
  """Compares logits on two texts."""
  inputs, targets = public_models.text()
  np.testing.assert_allclose(
    converted.logits(folder, MODEL_FILE, inputs, targets),
    hf_reference.logits(model, inputs, targets),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize('kind', ['safetensors', 'sharded', 'torch'])
def test_folders_of_hugging_face(tmp_path, capfd, kind):
  model = public_models.t5()
  source = public_models.save(model, tmp_path / 'source', kind)
  code, err = converted.main(capfd, source, tmp_path / 'out')
  assert code == 0, err
  check(model, tmp_path / 'out')


def test_byt5_needs_no_file_of_its_vocabulary(tmp_path, capfd):
  source = public_models.save(public_models.t5(), tmp_path / 'source')
  (source / 'spiece.model').unlink()
  (source / 'tokenizer_config.json').write_text(
    json.dumps({'tokenizer_class': 'ByT5Tokenizer'})
  )
  code, err = converted.main(capfd, source, tmp_path / 'out')
  assert code == 0, err
  check(public_models.t5(), tmp_path / 'out')


def test_tied_head_is_scaled(tmp_path, capfd):
  model = public_models.t5(tie_word_embeddings=True)
  source = public_models.save(model, tmp_path / 'source')
  code, err = converted.main(capfd, source, tmp_path / 'out')
  assert code == 0, err
  check(model, tmp_path / 'out')


@pytest.mark.parametrize('kind', ['F32', 'Q8_0', 'Q6_K'])
def test_gguf(tmp_path, capfd, kind):
  import gguf_files

  model = public_models.t5(num_decoder_layers=2)
  (tmp_path / 'source').mkdir()
  public_models.pieces(tmp_path / 'spiece.model')
  path = gguf_files.write(
    tmp_path / 'source/model.gguf',
    model,
    kind,
    pieces=tmp_path / 'spiece.model',
  )
  code, err = converted.main(capfd, path, tmp_path / 'out')
  assert code == 0, err
  theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    tmp_path / 'source',
    gguf_file='model.gguf',
    # Which transformers 5 takes from such a file as one without gates.
    config=model.config,
  ).eval()
  check(theirs, tmp_path / 'out')
