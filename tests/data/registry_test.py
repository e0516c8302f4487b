"""One call makes rows a family of seqio tasks, in every form."""

import collections
import re
import subprocess
import sys

import numpy as np
import pytest
import runner
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import (
  features,
  fewshot,
  registry,
  symbols,
  text_format,
  vocabularies,
)
from hypertuning.data.rows import Row, RowTask
from hypertuning.errors import UserError

VOCABULARY = vocabularies.byte_vocabulary()
FORMAT = vocabularies.byte_format()
LENGTHS = {'hyper_inputs': 80, 'inputs': (4, 20), 'targets': (4, 8)}


def rows(start, count):
  """Even numbers are `even`; the pool and the rows share no input."""
  return [
    Row(str(n), ('even', 'odd')[n % 2], ('even', 'odd', 'zero')[: 2 + (n == 0)])
    for n in range(start, start + count)
  ]


def parity(split):
  if split == 'train':
    return {'parity': RowTask(rows(100, 20), definition='Even or odd?')}
  return {'parity': RowTask(rows(0, 7), pool=rows(100, 20), definition='?')}


SPLITS = {
  split: (lambda split=split: parity(split))
  for split in ('train', 'validation')
}


@pytest.fixture(scope='module', autouse=True)
def parity_tasks():
  registry.add_episodes(
    'parity', SPLITS, shots=4, queries=2, draws=3, options=True
  )


def examples(name, split='validation', lengths=LENGTHS, count=-1, **kwargs):
  ds = seqio.get_mixture_or_task(name).get_dataset(
    lengths, split, shuffle=False, num_epochs=1, **kwargs
  )
  return list(ds.take(count).as_numpy_iterator())


def texts(values):
  return [value.decode() for value in values]


def test_every_row_is_asked_once_a_draw_with_shots_of_the_pool():
  episodes = examples('parity')
  assert len(episodes) == 3 * 4  # draws, and two rows an episode
  asked = collections.Counter(
    x for e in episodes for x in texts(e['inputs_pretokenized'])
  )
  assert asked == {str(n): 3 for n in range(7)}
  shots = collections.defaultdict(set)
  for episode in episodes:
    said = FORMAT.readable(episode['hyper_inputs'])
    assert said.startswith('?') and said.count('<input>') == 4
    shots[int(episode['draw'])].add(said)
  # A draw has the same shots whatever is asked; another draw has others.
  assert [len(x) for x in shots.values()] == [1, 1, 1]
  assert len(set.union(*shots.values())) == 3


def test_one_draw_is_that_of_many():
  registry.add_episodes('third', SPLITS, shots=4, queries=2, draws=(2,))
  third, all_three = examples('third'), examples('parity')
  assert [e['draw'] for e in third] == [2] * 4
  for one, other in zip(third, all_three[2::3], strict=True):
    for name, value in one.items():
      np.testing.assert_array_equal(value, other[name])


def test_shots_do_not_depend_on_other_tasks():
  def more(split):
    return {'aaa': RowTask(rows(40, 30)), **parity(split)}

  splits = {'validation': lambda: more('validation')}
  registry.add_episodes('more', splits, shots=4, queries=2, draws=3)
  expected = [e['hyper_inputs'].tolist() for e in examples('parity')]
  found = [
    e['hyper_inputs'].tolist()
    for e in examples('more')
    if e['task'] == b'parity'
  ]
  assert found == expected


def test_options_of_a_question_share_an_episode():
  episodes = examples('parity_score_eval')
  assert len(episodes) == 3 * 7
  for number, episode in enumerate(episodes):
    n = number // 3
    options = ['even', 'odd', 'zero'][: 2 + (n == 0)]
    assert texts(episode['targets_pretokenized']) == options
    assert set(texts(episode['inputs_pretokenized'])) == {str(n)}
    assert episode['question'].tolist() == [0] * len(options)
    gold = ('even', 'odd')[n % 2]
    assert episode['is_correct'].tolist() == [int(x == gold) for x in options]
  in_context = examples('parity_in_context_score_eval', lengths=None)
  assert len(in_context) == 21
  first = FORMAT.readable(in_context[0]['inputs'][1])
  assert first.startswith('?') and first.count('<input>') == 5
  too_few = {**LENGTHS, 'inputs': (2, 20), 'targets': (2, 8)}
  with pytest.raises(UserError, match=r'up to 3 options: give \(3, 20\)'):
    examples('parity_score_eval', lengths=too_few)
  splits = {'validation': lambda: {'t': [('a', 'b'), ('c', 'd')]}}
  registry.add_episodes('no_options', splits, shots=1, options=True)
  with pytest.raises(UserError, match='needs tasks with options'):
    examples('no_options_score_eval')


@settings(max_examples=8, deadline=None)
@given(
  st.lists(st.integers(1, 9), min_size=1, max_size=3),
  st.integers(0, 5),
  st.integers(1, 4),
  st.booleans(),
)
def test_rows_with_the_input_of_a_query_are_not_shown(
  sizes, shots, queries, balanced
):
  """Inputs come again within a task, with another target."""
  tasks = {
    f't{t}': RowTask(
      [Row(f'{i}', f'{i}{j}') for i in range(size + shots) for j in range(2)]
    )
    for t, size in enumerate(sizes)
    if size >= queries
  }
  if not tasks:
    return
  splits = {split: (lambda: tasks) for split in ('train', 'validation')}
  registry.add_episodes('again', splits, shots, queries, balanced=balanced)
  source = seqio.TaskRegistry.get('again').source
  count = {'train': 20, 'validation': -1}
  for split in splits:
    asked = collections.Counter()
    ds = source.get_dataset(split, seed=1).take(count[split])
    for episode in ds.as_numpy_iterator():
      assert not set(episode['shot_inputs']) & set(episode['query_inputs'])
      assert len(episode['shot_inputs']) == shots
      said = zip(episode['query_inputs'], episode['query_targets'], strict=True)
      asked.update((episode['task'].decode(), *pair) for pair in said)
    if split == 'validation':  # nothing is lost, nothing asked twice
      assert set(asked.values()) == {1}
      assert len(asked) == sum(len(task.rows) for task in tasks.values())


def test_rates_say_how_often_a_task_is_drawn():
  tasks = {
    name: RowTask(rows(0, 9), rate=rate)
    for name, rate in (('a', 1.0), ('b', 3.0), ('never', 0.0))
  }
  registry.add_episodes('rated', {'train': lambda: tasks}, shots=1)
  drawn = examples('rated', 'train', count=400, seed=3)
  counts = collections.Counter(episode['task'] for episode in drawn)
  assert set(counts) == {b'a', b'b'}
  # Five standard deviations of a binomial count.
  assert abs(counts[b'b'] - 300) < 5 * (400 * 0.75 * 0.25) ** 0.5


def test_pool_too_small_and_shots_at_most():
  tasks = {'t': RowTask(rows(0, 5), pool=rows(0, 3))}
  registry.add_episodes('small', {'validation': lambda: tasks}, shots=3)
  with pytest.raises(UserError, match="'t' has 3 examples to show, .* = 4"):
    examples('small')
  registry.add_episodes(
    'small', {'validation': lambda: tasks}, shots=9, at_most=True
  )
  shown = [
    FORMAT.readable(e['hyper_inputs']).count('<input>')
    for e in examples('small')
  ]
  assert shown == [2, 2, 2, 3, 3]


def test_rows_can_be_their_own_pool():
  both = rows(0, 6)
  tasks = {name: RowTask(both, pool=both) for name in 'ab'}
  registry.add_episodes('own_pool', {'validation': lambda: tasks}, shots=5)
  episodes = examples('own_pool')
  assert [e['task'] for e in episodes] == [b'a'] * 6 + [b'b'] * 6
  for episode in episodes:
    said = FORMAT.readable(episode['hyper_inputs'])
    shown = set(re.findall(r'<input> (\d)', said))
    assert shown == set('012345') - {episode['inputs_pretokenized'][0].decode()}


def test_markers_and_definitions_in_a_short_room():
  registry.add_episodes(
    'marked',
    SPLITS,
    shots=4,
    queries=2,
    text_format=text_format.markers_format(VOCABULARY, 'Do: ', ' Q: ', ' A: '),
  )
  (episode,) = examples('marked', count=1)
  text = VOCABULARY.decode(episode['hyper_inputs'].tolist())
  assert text.startswith('Do: ? Q: 1') and text.count(' A: ') == 4
  assert VOCABULARY.decode(episode['inputs'][0].tolist()) == ' Q: 0 A: '
  for room in (1, 3, 8, 30):
    lengths = {**LENGTHS, 'hyper_inputs': room}
    (episode,) = examples('marked', lengths=lengths, count=1)
    tokens = episode['hyper_inputs'].tolist()
    assert len(tokens) <= room and tokens[-1] == 1
    kept = VOCABULARY.decode(tokens[:-1])
    assert kept.startswith('Do: ?'[: room - 1])
    assert kept == 'Do: ?'[: room - 1] or kept.endswith(('even', 'odd'))
  with pytest.raises(UserError, match="'inputs'.* give a length of 9"):
    examples('marked', lengths={**LENGTHS, 'inputs': (4, 8)})


def test_symbols_replace_labels_alike_in_shots_queries_and_options():
  names = symbols.symbol_labels(40)
  registry.add_episodes(
    'tuned', SPLITS, shots=6, queries=2, options=True, symbol_labels=names
  )
  seen = set()
  for episode in examples('tuned_score_eval', lengths=None, seed=1):
    text = FORMAT.readable(episode['hyper_inputs'])
    shots = [x.split(' <target> ') for x in text[:-5].split('<input> ')[1:]]
    table = {('even', 'odd')[int(x) % 2]: y.strip() for x, y in shots}
    said = texts(episode['targets_pretokenized'])
    assert set(said) <= set(names) and len(set(said)) == len(said)
    assert 'Even' not in text  # the definition would name the labels
    gold = [
      option
      for option, right in zip(said, episode['is_correct'], strict=True)
      if right
    ]
    asked = int(episode['inputs_pretokenized'][0])
    expected = table.get(('even', 'odd')[asked % 2])
    assert len(gold) == 1 and (expected is None or gold == [expected])
    seen |= set(said)
  assert len(seen) > 10  # drawn anew for every episode


def test_training_and_evaluation_symbols_are_disjoint():
  train, held_out = (symbols.symbol_labels(held_out=x) for x in (False, True))
  assert len(set(train)) == len(train) == 3000
  assert not set(train) & set(held_out)
  assert symbols._letters(26) == 'Z' and symbols._letters(27) == 'AA'


def test_shards_divide_a_task():
  whole = [e['inputs'].tolist() for e in examples('parity')]
  for index in range(2):
    info = seqio.ShardInfo(index=index, num_shards=2)
    part = examples('parity', shard_info=info)
    assert [e['inputs'].tolist() for e in part] == whole[index::2]


CACHING = """
import sys
from seqio.scripts import cache_tasks_main
sys.path.insert(0, {folder!r})
sys.argv = ['cache', '--tasks=cached_rows', '--output_cache_dir={folder}/cache',
            '--module_import=cached_rows',
            '--pipeline_options=--runner=DirectRunner']
cache_tasks_main.console_entry_point()
"""
CACHED_TASK = """
from hypertuning.data import registry
from hypertuning.data.rows import Row, RowTask
ROWS = [Row(str(n), 'eo'[n % 2], ('e', 'o')) for n in range(20)]
registry.add_episodes('cached_rows', {'train': lambda: {'t': RowTask(ROWS)}},
                      shots=3, queries=2, options=True, train_episodes=30)
"""


def test_episodes_are_cached(tmp_path, monkeypatch):
  pytest.importorskip('apache_beam', reason='seqio caches with Apache Beam')
  (tmp_path / 'cached_rows.py').write_text(CACHED_TASK)
  subprocess.run(
    [sys.executable, '-c', CACHING.format(folder=str(tmp_path))],
    env=runner.environment(),
    check=True,
    timeout=300,
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  __import__('cached_rows')
  seqio.add_global_cache_dirs([str(tmp_path / 'cache')])
  # seqio gives the source a seed of its own: other draws, of the same form.
  first, again = (
    examples('cached_rows', 'train', use_cached=True) for _ in range(2)
  )
  assert len(first) == 30
  for episode, other in zip(first, again, strict=True):
    np.testing.assert_array_equal(episode['inputs'], other['inputs'])
    said = FORMAT.readable(episode['hyper_inputs'])
    shots = re.findall(r'<input> (\d+) <target> ([eo])', said)
    asked = [int(x) for x in episode['inputs_pretokenized']]
    assert len(shots) == 3 and len(asked) == 2
    assert not {int(x) for x, _ in shots} & set(asked)
    assert all('eo'[int(x) % 2] == y for x, y in shots)
    targets = texts(episode['targets_pretokenized'])
    assert targets == ['eo'[x % 2] for x in asked]


def test_bad_names_are_refused():
  with pytest.raises(UserError, match="'my task' cannot name a task"):
    registry.add_episodes('my task', SPLITS, shots=1)


def test_converted_batches_have_the_lengths():
  ds = seqio.get_mixture_or_task('parity_score_eval').get_dataset(
    LENGTHS, 'validation', shuffle=False, num_epochs=1
  )
  batch = next(iter(features.EpisodeFeatureConverter()(ds, LENGTHS).batch(5)))
  asked = (batch['target_weights'].numpy().sum(-1) > 0).sum(-1)
  assert asked.tolist() == [3, 3, 3, 2, 2]
  assert np.all(batch['input_tokens'].shape == (5, 4, 20))
  assert fewshot.SCORE_EVAL == '_score_eval'
