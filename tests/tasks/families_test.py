"""What the families read, and how many of it there is."""

import family_files
import pytest
import seqio
import shared

from hypertuning.data import aggregation, p3_files
from hypertuning.errors import UserError
from hypertuning.tasks import (
  metaicl,
  natural_instructions,
  own,
  p3,
  symbol_tuning,
  word_tables,
)


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  root = tmp_path_factory.mktemp('families')
  family_files.write_small(root)
  return root


def rows_of(name, split):
  source = seqio.TaskRegistry.get(name).source
  return list(source.get_dataset(split).as_numpy_iterator())


def draw_rows(name, count):
  source = seqio.TaskRegistry.get(name).source
  return list(source.get_dataset('train').take(count).as_numpy_iterator())


def test_t0_rates():
  assert p3_files.rate(400_000, 10) == 400_000
  assert p3_files.rate(500_000, 10) == 500_000
  assert p3_files.rate(500_001, 10) == 50_000


def test_t0_mixture_draws_prompts_by_rate(small):
  folder = str(small / 'p3')
  rates = p3_files.read_table(f'{folder}/t0_mixture_table.jsonl')
  assert rates == {
    'rotten_tomatoes_good': 166_666,
    'absent': 166_666,
    'trec_what': 9,
  }
  name = p3.t0_train(folder, 'p3_small', shots=3, longest_mean=None)
  source = seqio.TaskRegistry.get(name).source
  drawn = list(source.get_dataset('train').take(50).as_numpy_iterator())
  assert {e['task'] for e in drawn} == {b'rotten_tomatoes_good'}
  assert drawn[0]['query_targets'][0] in (b'Yes', b'No')  # stripped
  with pytest.raises(UserError, match='no prompts of'):
    p3.t0_train(folder, 'p3_long', shots=3, longest_mean=2)
    rows_of('p3_long', 'train')


def test_t0_mixture_has_the_published_rates(tmp_path):
  rates = p3_files.read_table(str(p3.T0_MIXTURE))
  assert sum(rates.values()) == 17_277_798 and len(rates) == 313
  assert rates['glue_mrpc_want_to_know'] == 3668
  assert {v for k, v in rates.items() if k.startswith('gigaword')} == {55_555}
  # A folder of P3's files has no table of its own.
  rows = [family_files.p3_row('glue_mrpc_want_to_know', n) for n in range(9)]
  family_files.write_lines(tmp_path / 'rows.jsonl', rows)
  name = p3.t0_train(str(tmp_path), 'p3_plain', shots=3)
  source = seqio.TaskRegistry.get(name).source
  (drawn,) = source.get_dataset('train').take(1).as_numpy_iterator()
  assert drawn['task'] == b'glue_mrpc_want_to_know'


@shared.needed
def test_held_out_sets_have_the_published_prompts():
  name = p3.held_out(str(shared.DATA / 'p3_heldout'), 'p3_real')
  names = {task.name for task in seqio.MixtureRegistry.get(name).tasks}
  counts = dict.fromkeys(p3.HELD_OUT, 0)
  for name in names:
    counts[next(x for x in p3.HELD_OUT if name.startswith(x))] += 1
  published = (45, 4, 15, 12, 10, 10, 10, 5)
  assert tuple(counts.values()) == published and len(names) == 111


@shared.needed
def test_natural_instructions_has_the_published_lists_and_instances():
  folder = shared.DATA / 'superni'
  for split, count in (('train', 756), ('test', 119)):
    path = folder / 'splits' / 'default' / f'{split}_tasks.txt'
    assert len(natural_instructions._read_names(path)) == count
  name = natural_instructions.natural_instructions(
    str(folder), 'ni_real', track='offline'
  )
  episodes = rows_of(name, 'test')
  assert len(episodes) == 12 * 100
  assert all(1 <= len(e['shot_inputs']) <= 2 for e in episodes)


def test_natural_instructions_settings(small):
  folder = str(small / 'ni')
  for setting, train_shots, test_shots in (
    ('def', 0, 0),
    ('def_2pos', 2, 2),
    ('def_shots', 5, 2),
  ):
    name = natural_instructions.natural_instructions(
      folder, f'ni_{setting}', setting=setting, shots=5
    )
    source = seqio.TaskRegistry.get(name).source
    (train,) = source.get_dataset('train').take(1).as_numpy_iterator()
    test = rows_of(name, 'test')
    assert train['definition'] == b'Write the number.'
    assert len(train['shot_inputs']) == train_shots
    # The first 100 instances, each once, and never among the shots.
    assert len(test) == 100
    asked = [e['query_inputs'][0].decode() for e in test]
    assert asked == [f'n{n}' for n in range(100)]
    for e in test:
      assert len(e['shot_inputs']) == test_shots
      assert set(e['shot_inputs']) <= {b'one', b'two'}
    assert test[3]['query_references'].tolist() == [[b'+3']]
  outputs = {
    e['query_targets'][0][:1]
    for e in source.get_dataset('train').take(60).as_numpy_iterator()
  }
  assert b'+' in outputs and len(outputs) > 1  # one of the references each
  with pytest.raises(UserError, match='setting = .x.: give one of def, '):
    natural_instructions.natural_instructions(folder, setting='x')
  with pytest.raises(UserError, match='no such list of tasks'):
    natural_instructions.natural_instructions(folder, 'ni_x', track='x')
    rows_of('ni_x', 'test')


def test_natural_instructions_without_definitions(small):
  """Other instances of the task are the shots, in both splits."""
  folder = str(small / 'ni')
  name = natural_instructions.natural_instructions(
    folder, 'ni_own_shots', setting='shots', shots=(2, 5), queries=3
  )
  sizes = set()
  source = seqio.TaskRegistry.get(name).source
  for e in source.get_dataset('train').take(40).as_numpy_iterator():
    sizes.add(len(e['shot_inputs']))
    assert e['definition'] == b''
    assert not {*e['shot_inputs']} & {*e['query_inputs'], b'one', b'two'}
  assert sizes == {2, 3, 4, 5}
  test = rows_of(name, 'test')
  assert sum(len(e['query_inputs']) for e in test) == 100
  assert all(len(e['shot_inputs']) == 5 for e in test)


def test_natural_instructions_leaves_out_what_is_long(small, capfd):
  """Inputs and targets are bytes: n0 to n9 have two, n10 to n99 three."""
  folder = str(small / 'ni')
  for longest, count in (((2, 1), 10), ((3, 2), 100), (None, 100)):
    name = natural_instructions.natural_instructions(
      *(folder, f'ni_{count}_{bool(longest)}'),
      setting='shots',
      shots=4,
      longest=longest,
    )
    assert len(rows_of(name, 'test')) == count
  name = natural_instructions.natural_instructions(
    *(folder, 'ni_short'), setting='shots', shots=10, longest=(2, 1)
  )
  with pytest.raises(UserError, match='without tasks'):
    rows_of(name, 'test')
  assert 'left out, their instances are too long: 1' in capfd.readouterr().err


def test_tasks_of_a_folder_are_a_mixture(tmp_path):
  for task in ('red', 'blue'):
    for part, first in (('train', 0), ('test', 50)):
      family_files.write_lines(
        tmp_path / f'{task}.{part}.jsonl',
        [
          {'input': f'{task} {n}', 'output': str(n % 2)}
          for n in range(first, first + 12)
        ],
      )
  fields = {'inputs': 'input', 'targets': 'output'}
  name = own.task_folder(
    str(tmp_path), ('red', 'blue'), 'colours', shots=4, fields=fields
  )
  members = [task.name for task in seqio.MixtureRegistry.get(name).tasks]
  assert sorted(members) == ['colours_blue', 'colours_red']
  for e in rows_of('colours_red', 'validation'):
    (query,) = e['query_inputs']
    assert query.startswith(b'red 5') or query.startswith(b'red 6')
    # Shots come from the file to train on.
    assert all(int(x.split()[1]) < 12 for x in e['shot_inputs'])
  with pytest.raises(UserError, match='green.train.jsonl: no such file'):
    own.task_folder(str(tmp_path), ('green',), 'more', fields=fields)


def test_a_table_of_words_answers_its_own_rows():
  name = word_tables.word_tables('few_tables', tables=20, words=4, shots=(2, 6))
  train, test = (
    {e['task'] for e in rows}
    for rows in (draw_rows(name, 99), rows_of(name, 'validation'))
  )
  assert len(test) == 2 and not train & test
  for e in draw_rows(name, 30):
    rows = zip(
      [*e['shot_inputs'], *e['query_inputs']],
      [*e['shot_targets'], *e['query_targets']],
      strict=True,
    )
    table = {}
    for one, other in rows:
      for word, meaning in zip(one.split(), other.split(), strict=True):
        assert table.setdefault(word, meaning) == meaning
    assert len(set(table.values())) == len(table) <= 4


def test_metaicl_reads_the_shots_of_a_seed(small):
  name = metaicl.test(str(small / 'metaicl'), k=4, seeds=(100, 13))
  members = {task.name for task in seqio.MixtureRegistry.get(name).tasks}
  assert members == {
    f'metaicl_{task}_{seed}_score_eval'
    for task in ('signs', 'free')
    for seed in (100, 13)
  }
  episodes = rows_of('metaicl_signs_100', 'validation')
  assert len(episodes) == 8
  assert {len(set(e['shot_inputs'])) for e in episodes} == {4}
  with pytest.raises(UserError, match='metaicl.setting'):
    metaicl.train(str(small / 'metaicl'), 'hr')
  with pytest.raises(UserError, match='no such file of MetaICL'):
    metaicl.train(str(small / 'metaicl'), 'qa_to_qa')


@shared.needed
def test_metaicl_has_the_published_settings():
  counts = {
    setting: tuple(
      len(metaicl.setting_tasks(str(shared.DATA / 'metaicl'), setting, split))
      for split in ('train', 'test')
    )
    for setting in metaicl.SETTINGS
  }
  assert tuple(counts.values()) == (
    (61, 26),
    (43, 20),
    (37, 20),
    (37, 22),
    (33, 22),
    (55, 8),
    (59, 4),
  )


def test_own_files_are_checked_before_training(tmp_path):
  rows = [{'inputs': f'{n}', 'targets': 'eo'[n % 2]} for n in range(5)]
  family_files.write_lines(tmp_path / 'mine.jsonl', rows)
  path = str(tmp_path / 'mine.jsonl')
  with pytest.raises(UserError, match="'mine' has 5 examples"):
    own.task_file('mine', path, shots=5)
  with pytest.raises(UserError, match='metric = .bleu.: give one of'):
    own.task_file('mine', path, shots=2, metric='bleu')
  own.task_file('mine', path, validation=path, shots=2)
  for episode in rows_of('mine', 'validation'):
    assert episode['query_inputs'][0] not in episode['shot_inputs']


def test_symbol_tuning_takes_classification_alone(tmp_path):
  files = {}
  for name, labels in (('two', 'ab'), ('many', 'abcdefghijk')):
    files[name] = str(tmp_path / f'{name}.jsonl')
    rows = [{'inputs': f'{n}', 'targets': x} for n, x in enumerate(labels * 4)]
    family_files.write_lines(tmp_path / f'{name}.jsonl', rows)
  (tmp_path / 'words').write_text('\n'.join(f'word{n}' for n in range(400)))
  words = str(tmp_path / 'words')
  with pytest.raises(UserError, match=r"many.jsonl: task 'many' has 11 labels"):
    symbol_tuning.train(list(files.values()))
  with pytest.raises(UserError, match="pools: task 'two' is not one of"):
    symbol_tuning.test([], [files['two']])
  with pytest.raises(UserError, match='no such file of words'):
    symbol_tuning.train([files['two']], words=f'{words}_')
  with pytest.raises(UserError, match='has 8 examples'):
    symbol_tuning.train([files['two']], shots=8)

  def symbols_of(name, split, count):
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split, seed=1)
    found = set()
    for episode in dataset.take(count).as_numpy_iterator():
      said = episode['targets_pretokenized'].tolist()
      assert not {b'a', b'b'} & set(said)
      found |= set(said)
    return found

  train = symbol_tuning.train([files['two']], shots=4, words=words)
  test = symbol_tuning.test([files['two']], shots=4, draws=30, words=words)
  seen = symbols_of(train, 'train', 200)
  held_out = symbols_of(f'{test}_two_score_eval', 'validation', -1)
  assert len(seen) > 50 and len(held_out) > 50 and not seen & held_out
  pair = {'files': [files['two']], 'shots': 4, 'in_context': True}
  assert symbol_tuning.train(name='form_train', **pair) == (
    'form_train_in_context'
  )
  name = symbol_tuning.test(name='form_test', **pair)
  assert name == 'form_test_in_context'
  (task,) = seqio.MixtureRegistry.get(name).tasks
  assert task.name == 'form_test_two_in_context_score_eval'
  for kind in (bytes.isdigit, bytes.isupper, lambda x: x.startswith(b'word')):
    assert any(map(kind, seen)) and any(map(kind, held_out))


def test_in_context_forms_have_names_and_means_of_their_own(small):
  """What the baselines of a benchmark train on, and are asked."""
  folder = str(small / 'p3')
  name = p3.t0_train(folder, 'p3_form', shots=3, in_context=True)
  assert name == 'p3_form_in_context' and name in seqio.TaskRegistry.names()
  name = natural_instructions.natural_instructions(
    str(small / 'ni'), 'ni_form', in_context=True
  )
  assert name == 'ni_form_in_context' and name in seqio.TaskRegistry.names()
  both = [
    metaicl.test(str(small / 'metaicl'), k=4, seeds=(13,), in_context=form)
    for form in (False, True)
  ]
  assert both[1] == f'{both[0]}_in_context'
  members = [
    sorted(task.name for task in seqio.MixtureRegistry.get(name).tasks)
    for name in both
  ]
  tasks = ['metaicl_free_13', 'metaicl_signs_13']
  for form, names in zip(('', '_in_context'), members, strict=True):
    assert names == [f'{task}{form}_score_eval' for task in tasks]
  rows = [
    {'task': task, 'phi': 'none', 'episodes': 1, 'accuracy': 10.0, 'score': 1.0}
    for task in (
      *members[1],
      'anli_a_r1_in_context_score_eval',
      'anli_b_r1_in_context_score_eval',
    )
  ]
  means = {row['task'] for row in metaicl.aggregate(rows[:2])}
  assert means == {'metaicl_free', 'metaicl_signs', 'average', 'worst'}
  assert 'anli_r1' in {row['task'] for row in p3.aggregate(rows[2:])}


def test_anli_counts_as_one_data_set():
  rows = [
    {'task': f'{task}_score_eval', 'phi': 'none', 'episodes': 1, 'accuracy': x}
    for task, x in (
      ('anli_a_r1', 0.0),
      ('anli_b_r1', 20.0),
      ('anli_a_r2', 40.0),
      ('super_glue_cb_a', 100.0),
      ('super_glue_cb_b', 50.0),
    )
  ]
  means = {row['task']: row['accuracy'] for row in p3.aggregate(rows)}
  assert means == {
    'anli_r1': 10.0,
    'anli_r2': 40.0,
    'super_glue_cb': 75.0,
    'anli': 25.0,
    'average': 50.0,
  }


def test_worst_seed():
  rows = [
    {
      'task': f'metaicl_{task}_score_eval',
      'phi': 'none',
      'episodes': 1,
      'score': x,
    }
    for task, x in (
      ('a_100', 10.0),
      ('a_13', 30.0),
      ('b_100', 80.0),
      ('b_13', 60.0),
    )
  ]
  found = {row['task']: row['score'] for row in metaicl.aggregate(rows)}
  assert found == {
    'metaicl_a': 20.0,
    'metaicl_b': 70.0,
    'average': 45.0,
    'worst': 35.0,
  }
  assert aggregation.averages(rows[:1]) == []


def test_no_mean_of_fewer_tasks_stands_beside_one_of_all():
  rows = [
    {'task': task, 'phi': phi, 'episodes': 1, 'score': 1.0}
    for task, phi in (
      ('a_1', 'generated'),
      ('a_1', 'other'),
      ('a_2', 'generated'),
      ('b_1', 'generated'),
      ('b_1', 'other'),
      ('b_2', 'generated'),
      ('b_2', 'other'),
    )
  ]
  found = aggregation.group_means(rows, lambda task: task[0])
  assert [(row['task'], row['phi']) for row in found] == [
    ('a', 'generated'),
    ('b', 'generated'),
    ('b', 'other'),
    ('average', 'generated'),
  ]
  assert {row['phi'] for row in aggregation.averages(rows)} == {'generated'}
  (worst,) = aggregation.worst(rows, lambda task: task[0], 'score')
  assert worst['phi'] == 'generated'
