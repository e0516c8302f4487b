"""Vocabularies of GGUF files encode as those that they were made from."""

import bpe
import converted
import gin
import public_models
import pytest
import sentencepiece

from hypertuning.data.tokenizer_json import TokenizerJson

gguf_files = pytest.importorskip('gguf_files')
SAMPLES = ('The 12 words,\n\nand  more <|im_end|>', 'naïve 你好', ' bal dik ')


def _pieces(path):
  return sentencepiece.SentencePieceProcessor(model_file=str(path))


def test_byte_level(tmp_path, capfd):
  tokenizer = bpe.write(tmp_path / 'tokenizer.json')
  path = gguf_files.write(
    tmp_path / 'model.gguf', public_models.llama(), 'Q8_0', tokenizer
  )
  assert converted.main(capfd, path, tmp_path / 'out')[0] == 0
  one = TokenizerJson(tokenizer, '<|im_end|>')
  other = TokenizerJson(str(tmp_path / 'out/tokenizer.json'), '<|im_end|>')
  for sample in SAMPLES:
    assert one.encode(sample) == other.encode(sample)
  converted.network(tmp_path / 'out', 'gin/models/llama.gin')
  form = gin.query_parameter('%TEXT_FORMAT').scoped_configurable_fn()
  wanted = bpe.line_format(form.vocabulary)
  assert form.start == wanted.start and form.between == wanted.between
  assert form.end_ids == wanted.end_ids


def test_words_are_cut_as_llama_3_cuts_them(tmp_path, capfd):
  path = gguf_files.write(
    tmp_path / 'model.gguf',
    public_models.llama(),
    'Q8_0',
    bpe.write(tmp_path / 'tokenizer.json'),
    cutter='llama-bpe',
  )
  assert converted.main(capfd, path, tmp_path / 'out')[0] == 0
  own = TokenizerJson(str(tmp_path / 'out/tokenizer.json'), '<|im_end|>')
  words = own._tokenizer.pre_tokenizer.pre_tokenize_str(
    "We'll pay 12345\n\nnow"
  )
  assert [word for word, _ in words] == [
    *('We', "'ll", 'Ġpay', 'Ġ', '123', '45', 'ĊĊ', 'now')
  ]


def test_pieces_of_a_llama(tmp_path, capfd):
  """As Llama 2's, from a folder and from a GGUF file."""
  model = public_models.llama()
  public_models.pieces(tmp_path / 'tokenizer.model', byte_fallback=True)
  source = public_models.save(model, tmp_path / 'source')
  (source / 'tokenizer.json').unlink()
  data = (tmp_path / 'tokenizer.model').read_bytes()
  (source / 'tokenizer.model').write_bytes(data)
  path = gguf_files.write(
    tmp_path / 'model.gguf',
    model,
    'F32',
    pieces=tmp_path / 'tokenizer.model',
  )
  for name, given in (('one', source), ('other', path)):
    code, err = converted.main(capfd, given, tmp_path / name)
    assert code == 0, err
    own = _pieces(tmp_path / name / 'tokenizer.model')
    for sample in SAMPLES:
      wanted = _pieces(tmp_path / 'tokenizer.model').encode(sample)
      assert own.encode(sample) == wanted
    converted.network(tmp_path / name, 'gin/models/llama.gin')
    form = gin.query_parameter('%TEXT_FORMAT').scoped_configurable_fn()
    assert form.start == (1,) and form.target_end == (2,)
    assert form.between == (own.piece_to_id('<0x0A>'),) * 2


def test_pieces_of_a_t5(tmp_path, capfd):
  public_models.pieces(tmp_path / 'spiece.model')
  path = gguf_files.write(
    tmp_path / 'model.gguf',
    public_models.t5(num_decoder_layers=2),
    'F32',
    pieces=tmp_path / 'spiece.model',
  )
  code, err = converted.main(capfd, path, tmp_path / 'out')
  assert code == 0, err
  own = _pieces(tmp_path / 'out/spiece.model')
  for sample in SAMPLES:
    wanted = _pieces(tmp_path / 'spiece.model').encode(sample)
    assert own.encode(sample) == wanted
  converted.network(tmp_path / 'out', 'gin/models/t5.gin')
  form = gin.query_parameter('%TEXT_FORMAT').scoped_configurable_fn()
  assert form.vocabulary.size == own.get_piece_size() + 100
