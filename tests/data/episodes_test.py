"""The episode sampler and few-shot text (docs/pitfalls.md, pitfalls 13, 18)."""

import collections
import shutil

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import (
  episodes,
  fewshot,
  fitting,
  seqio_vocabularies,
  vocabularies,
)
from hypertuning.data.text_format import t5_format
from hypertuning.errors import UserError

FORMAT = vocabularies.byte_format()
SEP_INPUT, SEP_TARGET, EOS = 259, 260, 1
FEATURES = ('hyper_inputs', 'inputs', 'targets')


def make_tasks(sizes, labels=3):
  """Rows are told apart by their input: task, then row."""
  return {
    f't{t}': [(f'{t}:{r}', f'L{r % labels}') for r in range(size)]
    for t, size in enumerate(sizes)
  }


def source(tasks, shots, queries, **kwargs):
  splits = {'train': lambda: tasks, 'validation': lambda: tasks}
  return episodes.EpisodeSource(splits, shots, queries, **kwargs)


def draw(src, count, split='train', seed=0, **kwargs):
  ds = src.get_dataset(split, seed=seed, **kwargs).take(count)
  return list(ds.as_numpy_iterator())


def ids(text):
  return [b + 3 for b in text.encode()]


@pytest.mark.parametrize('balanced', [False, True])
@settings(max_examples=5, deadline=None)
@given(
  st.lists(st.integers(7, 30), min_size=1, max_size=4),
  st.integers(1, 5),
  st.integers(1, 2),
  st.integers(0, 2**31 - 1),
)
def test_no_query_is_among_the_shots(balanced, sizes, shots, queries, seed):
  tasks = make_tasks(sizes)
  src = source(tasks, shots, queries, balanced=balanced)
  for episode in draw(src, 40, seed=seed):
    rows = [*episode['shot_inputs'], *episode['query_inputs']]
    assert len(rows) == shots + queries == len(set(rows))
    answers = [*episode['shot_targets'], *episode['query_targets']]
    known = dict(tasks[episode['task'].decode()])
    for row, answer in zip(rows, answers, strict=True):
      assert known[row.decode()] == answer.decode()


@pytest.mark.parametrize('balanced', [False, True])
def test_smallest_task_uses_every_row(balanced):
  src = source(make_tasks([6]), 4, 2, balanced=balanced)
  for episode in draw(src, 5):
    rows = [*episode['shot_inputs'], *episode['query_inputs']]
    assert len(set(rows)) == 6


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 3), st.integers(3, 6), st.integers(0, 2**31 - 1))
def test_episodes_of_training_draw_their_number_of_shots(least, most, seed):
  src = source(make_tasks([9, 12]), (least, most), 2)
  sizes = [len(e['shot_inputs']) for e in draw(src, 80, seed=seed)]
  # The rarest of seven numbers is missing in 80 draws with a chance of 3e-5.
  assert {*sizes} == {*range(least, most + 1)}
  assert {len(e['shot_inputs']) for e in draw(src, 9, 'validation')} == {most}
  # What is drawn for a number is not drawn again for another number.
  first = draw(source(make_tasks([12]), (4, 4), 2), 5, seed=seed)
  again = draw(source(make_tasks([12]), 4, 2), 5, seed=seed)
  for one, other in zip(first, again, strict=True):
    np.testing.assert_array_equal(one['shot_inputs'], other['shot_inputs'])


def test_too_few_rows_is_an_error_with_name_and_counts():
  with pytest.raises(UserError, match="'t1' has 5 .* 4 shots [+] 2 queries"):
    draw(source(make_tasks([9, 5]), 4, 2), 1)
  with pytest.raises(UserError, match='without tasks'):
    draw(source({}, 4, 2), 1)
  with pytest.raises(UserError, match='queries = 0'):
    source(make_tasks([9]), 4, 0)


def test_deterministic_by_seed():
  src = source(make_tasks([20] * 3), 3, 2)
  first, again, other = draw(src, 30), draw(src, 30), draw(src, 30, seed=1)

  def as_rows(drawn):
    return [(*e['shot_inputs'], *e['query_inputs']) for e in drawn]

  assert as_rows(first) == as_rows(again)
  assert not set(as_rows(first)) & set(as_rows(other))
  assert len(set(as_rows(first))) == 30


@pytest.mark.parametrize('balanced', [False, True])
def test_every_row_is_drawn_equally_often(balanced):
  count, shots, queries = 3000, 2, 1
  src = source(make_tasks([6], labels=2), shots, queries, balanced=balanced)
  drawn = draw(src, count)
  for key, share in (('shot_inputs', shots / 6), ('query_inputs', queries / 6)):
    seen = collections.Counter(x for e in drawn for x in e[key])
    # Five standard deviations of a binomial count.
    slack = 5 * (count * share * (1 - share)) ** 0.5
    assert len(seen) == 6
    for times in seen.values():
      assert abs(times - count * share) < slack
  # The first shot tells nothing about the query.
  same = np.mean([e['shot_targets'][0] == e['query_targets'][0] for e in drawn])
  expected = 0.5 if balanced else 2 / 5
  assert abs(same - expected) < 5 * 0.5 / count**0.5


def test_balanced_shows_targets_equally_often():
  for episode in draw(source(make_tasks([30]), 7, 2, balanced=True), 20):
    counts = collections.Counter(episode['shot_targets']).values()
    assert len(counts) == 3 and max(counts) - min(counts) <= 1
  # One row of 'rare': it is shown once, and the others fill up.
  rows = [('r', 'rare'), *((f'{i}', f'L{i % 2}') for i in range(20))]
  for episode in draw(source({'t': rows}, 7, 2, balanced=True), 20):
    counts = collections.Counter(episode['shot_targets'])
    if b'rare' in episode['query_targets']:
      assert sorted(counts.values()) == [3, 4]
    else:
      assert counts == {b'rare': 1, b'L0': 3, b'L1': 3}


def test_validation_visits_every_task_equally_whatever_the_seed():
  src = source(make_tasks([9] * 5), 3, 1, visits=3)
  assert src.num_input_examples('validation') == 15
  first = draw(src, 100, 'validation', seed=1)
  again = draw(src, 100, 'validation', seed=2)
  seen = collections.Counter(e['task'] for e in first)
  assert len(first) == 15 and set(seen.values()) == {3}
  for one, two in zip(first, again, strict=True):
    np.testing.assert_array_equal(one['shot_inputs'], two['shot_inputs'])


def test_shards_divide_the_episodes():
  src = source(make_tasks([20] * 3), 3, 2)
  whole = [tuple(e['shot_inputs']) for e in draw(src, 12)]
  for index in range(3):
    info = seqio.ShardInfo(index=index, num_shards=3)
    part = [tuple(e['shot_inputs']) for e in draw(src, 4, shard_info=info)]
    assert part == whole[index::3]


def test_iterator_is_saved_and_restored(tmp_path):
  ds = source(make_tasks([20] * 3), 3, 2).get_dataset('train', seed=5)
  iterator = iter(ds)
  for _ in range(7):
    next(iterator)
  saved = tf.train.Checkpoint(it=iterator).write(str(tmp_path / 'position'))
  expected = [next(iterator)['shot_inputs'].numpy().tolist() for _ in range(5)]
  fresh = iter(ds)
  tf.train.Checkpoint(it=fresh).read(saved).assert_consumed()
  got = [next(fresh)['shot_inputs'].numpy().tolist() for _ in range(5)]
  assert got == expected


# Few-shot text.


def one_episode(
  lengths=None, text_format=FORMAT, shown=2, definition='', **kwargs
):
  """Shots `ab>X`, `c>YZ`; queries `d>WV`, `efg>`."""
  pairs = [('ab', 'X'), ('c', 'YZ')][:shown]
  ds = tf.data.Dataset.from_tensors(
    {
      'task': 't',
      'definition': definition,
      'shot_inputs': tf.constant([x for x, _ in pairs], tf.string),
      'shot_targets': tf.constant([y for _, y in pairs], tf.string),
      'query_inputs': ['d', 'efg'],
      'query_targets': ['WV', ''],
    }
  )
  ds = fewshot.episode_features(ds, lengths, text_format, **kwargs)
  (episode,) = ds.as_numpy_iterator()
  return {name: episode[name].tolist() for name in FEATURES}


SHOT_1 = [SEP_INPUT, *ids('ab'), SEP_TARGET, *ids('X')]
SHOT_2 = [SEP_INPUT, *ids('c'), SEP_TARGET, *ids('YZ')]
QUERY_1 = [SEP_INPUT, *ids('d'), SEP_TARGET]
QUERY_2 = [SEP_INPUT, *ids('efg'), SEP_TARGET]


def test_separators_and_features():
  assert (FORMAT.inputs, FORMAT.targets) == ((SEP_INPUT,), (SEP_TARGET,))
  episode = one_episode()
  assert episode['hyper_inputs'] == [*SHOT_1, *SHOT_2, EOS]
  assert episode['inputs'] == [[*QUERY_1, 0, 0], QUERY_2]
  assert episode['targets'] == [[*ids('WV'), EOS], [EOS, 0, 0]]


def test_in_context_reads_the_shots_before_the_same_query():
  episode = one_episode(in_context=True)
  context = [*SHOT_1, *SHOT_2]
  assert episode['inputs'] == [[*context, *QUERY_1, 0, 0], [*context, *QUERY_2]]
  assert episode['hyper_inputs'] == [*context, EOS]


def test_no_shots_leave_eos():
  assert one_episode(shown=0)['hyper_inputs'] == [EOS]
  assert one_episode(shown=0, in_context=True)['inputs'][1] == QUERY_2


@pytest.mark.parametrize(
  'room, shots',
  [
    (1, []),
    (5, []),
    (6, SHOT_1),
    (10, SHOT_1),
    (11, [*SHOT_1, *SHOT_2]),
    (12, [*SHOT_1, *SHOT_2]),
    (10_000, [*SHOT_1, *SHOT_2]),
  ],
)
def test_whole_shots_are_kept_with_eos(room, shots):
  assert one_episode({'hyper_inputs': room})['hyper_inputs'] == [*shots, EOS]


@pytest.mark.parametrize(
  'room, shots',
  [
    (5, []),
    (9, []),
    (10, SHOT_1),
    (14, SHOT_1),
    (15, [*SHOT_1, *SHOT_2]),
    (10_000, [*SHOT_1, *SHOT_2]),
  ],
)
def test_context_gives_way_to_the_query(room, shots):
  episode = one_episode({'inputs': (2, room)}, in_context=True)
  assert episode['inputs'][1] == [*shots, *QUERY_2]


def test_a_shot_too_long_by_itself_does_not_take_the_others_along():
  shots = tf.ragged.constant([[5] * 9, [6, 6], [7, 7]])
  kept = fitting.whole_shots(shots, 4)
  assert kept.to_list() == [[6, 6], [7, 7]]


def test_long_queries_and_targets_keep_separator_and_eos():
  episode = one_episode({'inputs': (2, 3), 'targets': (2, 2)})
  assert episode['inputs'] == [QUERY_1, [SEP_INPUT, *ids('g'), SEP_TARGET]]
  assert episode['targets'] == [[*ids('W'), EOS], [EOS, 0]]
  for lengths in ({'inputs': (2, 2)}, {'targets': (2, 1)}, {'hyper_inputs': 0}):
    with pytest.raises(UserError, match=next(iter(lengths))):
      one_episode(lengths)


def test_vocabulary_without_sentinels_is_refused():
  with pytest.raises(UserError, match='99 extra ids'):
    t5_format(seqio.ByteVocabulary(extra_ids=99))


def test_sentencepiece_gives_the_ids_of_single_texts(tmp_path):
  import sentencepiece

  texts = ['few shot examples', 'a frozen model', 'ab', 'efg d c', 'X Y Z'] * 9
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_prefix=str(tmp_path / 'm'),
    vocab_size=40,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  vocabulary = vocabularies.sentencepiece(str(tmp_path / 'm.model'))
  rows = seqio_vocabularies.encode(
    vocabulary, tf.constant(['a model', '', 'few'])
  )
  assert rows.to_list() == [
    vocabulary.encode(text) for text in ('a model', '', 'few')
  ]
  shutil.copy(tmp_path / 'm.model', tmp_path / 'n.model')
  copy = vocabularies.sentencepiece(str(tmp_path / 'n.model'))
  assert vocabulary == copy
  assert vocabulary != FORMAT.vocabulary
  assert t5_format(vocabulary) == t5_format(copy) != FORMAT
  form = t5_format(vocabulary)
  (sep_input,), (sep_target,) = form.inputs, form.targets
  assert sep_target - sep_input == 1
  assert one_episode(text_format=form)['inputs'][0][0] == sep_input
  with pytest.raises(UserError, match='no such SentencePiece'):
    vocabularies.sentencepiece(str(tmp_path / 'none.model'))
