"""Our vocabularies of bytes and of SentencePiece are those of seqio."""

import shutil
import subprocess
import sys

import hypothesis
import pytest
import runner
import sentencepiece
import seqio
import tensorflow as tf
from hypothesis import strategies as st

from hypertuning.data import (
  recording,
  seqio_vocabularies,
  text_format,
  vocabularies,
)
from hypertuning.engine import restarts
from hypertuning.errors import UserError

KINDS = ('bytes', 'few_bytes', 't5', 'llama')
T5 = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1, 'vocab_size': 60}
LLAMA = {'vocab_size': 300, 'byte_fallback': True, 'model_type': 'bpe'}
TEXTS = st.one_of(
  st.text(),
  st.text('a few words\n<extra_id_0>é東🙂 '),
  st.sampled_from(['<extra_id_0> a few', ' </s>\0', '  more  words']),
)


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
  """Our vocabulary and seqio's, by kind."""
  folder = tmp_path_factory.mktemp('models')
  paths = {}
  for name, arguments in (('t5', T5), ('llama', LLAMA)):
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(
        ['a small model of a few words', 'more words for it, all of them'] * 20
      ),
      model_prefix=str(folder / name),
      hard_vocab_limit=False,
      minloglevel=2,
      **arguments,
    )
    paths[name] = str(folder / f'{name}.model')
  return {
    'bytes': (
      vocabularies.byte_vocabulary(),
      seqio.ByteVocabulary(extra_ids=100),
    ),
    'few_bytes': (
      vocabularies.byte_vocabulary(3),
      seqio.ByteVocabulary(extra_ids=3),
    ),
    't5': (
      vocabularies.sentencepiece(paths['t5']),
      seqio.SentencePieceVocabulary(paths['t5'], extra_ids=100),
    ),
    'llama': (
      vocabularies.sentencepiece(paths['llama'], extra_ids=0),
      seqio.SentencePieceVocabulary(paths['llama'], extra_ids=0),
    ),
  }


@pytest.mark.parametrize('kind', KINDS)
@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(text=TEXTS, data=st.data())
def test_ids_and_texts_are_those_of_seqio(pairs, kind, text, data):
  ours, theirs = pairs[kind]
  ids = ours.encode(text)
  assert ids == list(theirs.encode(text))
  rows = seqio_vocabularies.encode(ours, tf.constant([text, '']))
  assert rows.to_list() == [ids, ours.encode('')]
  any_ids = data.draw(st.lists(st.integers(0, ours.size + 5), max_size=9))
  for each in (ids, any_ids, [*ids, ours.eos_id, *any_ids]):
    assert ours.decode(each) == theirs.decode(each)


@pytest.mark.parametrize('kind', KINDS)
def test_both_are_one_vocabulary(pairs, kind):
  """Also in a recording, and where an earlier version started a run."""
  ours, theirs = pairs[kind]
  wrapped = text_format.as_vocabulary(theirs)
  assert isinstance(wrapped, seqio_vocabularies.SeqioVocabulary)
  for name in ('size', 'extra_ids', 'eos_id', 'pad_id'):
    assert getattr(ours, name) == getattr(wrapped, name)
  assert ours == wrapped and wrapped == ours and hash(ours) == hash(wrapped)
  assert str(ours) == str(wrapped)
  assert seqio_vocabularies.to_seqio(ours) == theirs
  assert type(seqio_vocabularies.to_seqio(ours)) is type(theirs)
  assert not seqio_vocabularies.runs_python(ours)
  form, other = map(text_format.guessed_format, (ours, wrapped))
  assert form == other and hash(form) == hash(other)
  assert recording.fingerprint(form) == recording.fingerprint(other)
  assert restarts.text(ours) == restarts.text(wrapped) == 'SeqioVocabulary'


def test_different_ids_are_different_vocabularies(pairs):
  ours = [one for one, _ in pairs.values()]
  theirs = [text_format.as_vocabulary(other) for _, other in pairs.values()]
  for i, one in enumerate(ours):
    for j, (own, wrapped) in enumerate(zip(ours, theirs, strict=True)):
      assert (one == own) == (one == wrapped) == (i == j)


def test_a_copied_model_is_the_same_vocabulary(pairs, tmp_path):
  ours, _ = pairs['t5']
  shutil.copy(ours.path, tmp_path / 'copy.model')
  copy = vocabularies.sentencepiece(str(tmp_path / 'copy.model'))
  assert copy == ours and hash(copy) == hash(ours)
  assert 'copy.model' in str(copy)
  assert vocabularies.sentencepiece(ours.path, extra_ids=5) != ours


def test_what_is_no_vocabulary_is_refused_without_seqio():
  code = (
    'import sys\n'
    'from hypertuning.data import text_format\n'
    'text_format.t5_format("spiece.model")\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=runner.environment(),
    capture_output=True,
    text=True,
    check=False,
  )
  assert 'UserError: VOCABULARY is a str, but must be' in done.stderr
  with pytest.raises(UserError, match='VOCABULARY is a int'):
    text_format.as_vocabulary(3)
