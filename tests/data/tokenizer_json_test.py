"""A `tokenizer.json` gives the ids of Hugging Face's library."""

import copy
import json

import bpe
import pytest
import sentencepiece
import tensorflow as tf
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hypertuning.data import (
  seqio_vocabularies,
  text_format,
  tokenizer_json,
  vocabularies,
)
from hypertuning.data.tokenizer_json import TokenizerJson
from hypertuning.errors import UserError

SMOLLM = {'special': bpe.SPECIAL}
LLAMA3 = {'special': (), 'reserved': bpe.RESERVED}
GPT2 = {'special': (), 'reserved': ('<|endoftext|>',)}
KINDS = {
  'special id 0': (SMOLLM, '<|im_end|>', None),
  'ordinary id 0, a reserved token': (LLAMA3, '<|end_of_text|>', (0, 402)),
  'ordinary id 0, nothing reserved': (GPT2, '<|endoftext|>', (0, 401)),
  'id 0 is the end': (SMOLLM, '<|endoftext|>', (0, 400)),
}
EVERY_KIND = pytest.mark.parametrize('kind', KINDS)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('tokenizers')


def read(folder, kind):
  files, eos, _ = KINDS[kind]
  return TokenizerJson(bpe.write(folder / f'{kind}.json', **files), eos)


def hugging_face(folder, kind):
  transformers = pytest.importorskip('transformers')
  files, _, _ = KINDS[kind]
  return transformers.PreTrainedTokenizerFast(
    tokenizer_file=bpe.write(folder / f'{kind}_theirs.json', **files)
  )


@EVERY_KIND
def test_ids_are_those_of_transformers(folder, kind):
  ours, theirs = read(folder, kind), hugging_face(folder, kind)
  swapped = KINDS[kind][2]
  places = dict([swapped, swapped[::-1]]) if swapped else {}

  @settings(max_examples=50, deadline=None)
  @given(
    st.lists(
      st.text() | st.sampled_from(bpe.SPECIAL + bpe.RESERVED + ('!', '\n\n'))
    ).map(''.join)
  )
  @example('The <|im_end|> of 2024!\n\n<|endoftext|>')
  def check(text):
    wanted = theirs.encode(
      text, add_special_tokens=False, split_special_tokens=True
    )
    ids = ours.encode(text)
    assert ids == [places.get(i, i) for i in wanted]
    assert ours.decode(ids) == text
    assert 0 not in ids and ours.eos_id not in ids

  check()


@EVERY_KIND
def test_id_0_is_padding_and_in_no_text(folder, kind):
  vocabulary = read(folder, kind)
  _, eos, swapped = KINDS[kind]
  assert isinstance(vocabulary, text_format.Vocabulary)
  assert vocabulary.swapped_ids == swapped
  inside = json.load(open(folder / f'{kind}.json'))
  known = {**inside['model']['vocab']}
  known |= {token['content']: token['id'] for token in inside['added_tokens']}
  assert vocabulary.size == max([*known.values(), *(swapped or ())]) + 1
  wanted = known[eos] or swapped[1]
  assert vocabulary.eos_id == wanted and vocabulary.pad_id == 0
  if swapped:
    zero = next(token for token, i in known.items() if i == 0)
    if not zero.startswith('<|'):
      assert vocabulary.encode(zero) == [swapped[1]]
  assert vocabulary.decode([*vocabulary.encode('a b'), 0, 0]) == 'a b'
  rows = seqio_vocabularies.encode(
    vocabulary, tf.constant(['a b', '', '<|im_end|>'])
  )
  assert rows.to_list() == [
    vocabulary.encode(text) for text in ('a b', '', '<|im_end|>')
  ]


def test_two_of_the_same_content_are_equal(folder):
  one = read(folder, 'special id 0')
  path = bpe.write(folder / 'copy.json')
  other = TokenizerJson(path, '<|im_end|>')
  assert one == other == copy.deepcopy(one)
  assert hash(one) == hash(other) and len({one, other}) == 1
  assert one != TokenizerJson(path, '<|im_start|>')
  assert one != read(folder, 'ordinary id 0, a reserved token')
  assert str(other) == f'a tokenizer.json of 400 ids ({path})'


def refusal(path, eos='<|im_end|>'):
  with pytest.raises(UserError) as error:
    TokenizerJson(str(path), eos)
  message = str(error.value)
  assert message.startswith(f'{path}: ') and '\n' not in message
  return message


def test_what_is_not_read_is_named(folder):
  assert 'no such file; bind VOCABULARY_FILE' in refusal(folder / 'none.json')
  good = bpe.write(folder / 'good.json')
  message = refusal(good, '</s>')
  assert "no token '</s>'" in message and '<|im_start|>' in message
  text = open(good).read()
  damaged = folder / 'damaged.json'
  merged = json.loads(text)
  merged['model']['merges'].append(['none', 'such'])
  for content in (
    *(text[: len(text) * n // 9] for n in range(9)),
    '[]',
    '{"model": {"type": "BPE"}}',
    json.dumps(merged),
  ):
    damaged.write_text(content)
    refusal(damaged)
  for model in ('WordPiece', 'WordLevel', 'Unigram'):
    other = tokenizers.Tokenizer(getattr(tokenizers.models, model)())
    other.save(str(folder / 'other.json'))
    assert f'a tokenizer.json of {model}' in refusal(folder / 'other.json')
  characters = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
  characters.save(str(folder / 'characters.json'))
  assert '@vocabularies.sentencepiece()' in refusal(folder / 'characters.json')
  assert tokenizer_json.__doc__


def _train(folder, **arguments):
  texts = ['a small model of a few words', 'more words for it'] * 20
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_prefix=str(folder / 'm'),
    hard_vocab_limit=False,
    minloglevel=2,
    # Llama 2's text is as it was written.
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    **arguments,
  )
  return str(folder / 'm.model')


def test_sentencepiece_of_llama_2(tmp_path):
  """unk 0, BOS 1, EOS 2 and no padding, with every byte."""
  path = _train(tmp_path, vocab_size=300, byte_fallback=True, model_type='bpe')
  vocabulary = text_format.as_vocabulary(
    vocabularies.sentencepiece(path, extra_ids=0)
  )
  size = sentencepiece.SentencePieceProcessor(path).GetPieceSize()
  assert (vocabulary.size, vocabulary.extra_ids) == (size, 0)
  assert vocabulary.eos_id == 2
  ids = vocabulary.encode('a few\n\U0001f600 </s>')
  assert 0 not in ids and 2 not in ids
  assert vocabulary.decode(ids) == 'a few\n\U0001f600 </s>'
  # T5's way stays.
  assert vocabularies.sentencepiece(path).size == size + 100


def test_characters_that_would_become_padding_are_refused(tmp_path):
  path = _train(tmp_path, vocab_size=40)
  with pytest.raises(UserError, match='m.model: its unknown piece has id 0'):
    vocabularies.sentencepiece(path, extra_ids=0)
