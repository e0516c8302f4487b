"""P3, Super-NaturalInstructions, MetaICL and one's own files, end to end."""

import gzip
import json

import pytest
import runner
import seqio
import shared

from hypertuning import eval as eval_lib
from hypertuning.data import aggregation, vocabularies
from hypertuning.errors import UserError
from hypertuning.tasks import metaicl, natural_instructions, own, p3

LENGTHS = {'hyper_inputs': 128, 'inputs': (2, 48), 'targets': (2, 12)}
RANKED = {'hyper_inputs': 128, 'inputs': (4, 48), 'targets': (4, 12)}


def write_lines(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  data = '\n'.join(json.dumps(row) for row in rows).encode()
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


def p3_row(task, n):
  options = ['Yes', 'No']
  return {
    'task': task,
    'inputs_pretokenized': f'Is {n} even? ',
    'targets_pretokenized': f' {options[n % 2]}',
    'answer_choices': options,
  }


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  """Files of the three families, a few rows each."""
  root = tmp_path_factory.mktemp('families')
  prompts = ['rotten_tomatoes_good', 'trec_what']
  write_lines(
    root / 'p3' / 'mixed.jsonl.gz',
    [p3_row(prompt, n) for prompt in prompts for n in range(12)],
  )
  table = {'do_train': 'BASE', 'train_size': 600_000, 'num_prompts': 3}
  write_lines(
    root / 'p3' / 't0_mixture_table.jsonl',
    [
      {**table, 'prompts': [prompts[0], 'gigaword_summarize_', 'absent']},
      {**table, 'train_size': 9, 'prompts': [prompts[1]]},
      {**table, 'do_train': None, 'prompts': ['anli_GPT_3_style']},
    ],
  )
  for prompt in (
    'anli_GPT_3_style_r1',
    'anli_GPT_3_style_r2',
    'super_glue_cb_x',
  ):
    for split, start in (('train', 0), ('validation', 20)):
      write_lines(
        root / 'p3_held_out' / f'{prompt}.{split}.jsonl',
        [p3_row(prompt, n) for n in range(start, start + 10)],
      )
  for task in ('task1_a', 'task2_b'):
    path = root / 'ni' / 'tasks' / f'{task}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    example = {'input': 'one', 'output': '1'}
    path.write_text(
      json.dumps(
        {
          'Definition': ['Write the number.'],
          'Positive Examples': [example, {'input': 'two', 'output': '2'}],
          'Instances': [
            {'id': f'{task}-{n}', 'input': f'n{n}', 'output': [f'{n}', f'+{n}']}
            for n in range(120)
          ],
        }
      )
    )
  for split, task in (('train', 'task1_a'), ('test', 'task2_b')):
    path = root / 'ni' / 'splits' / 'default' / f'{split}_tasks.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{task}\n')
  config = {'train': ['sums'], 'test': ['signs', 'free']}
  write_lines(root / 'metaicl' / 'config' / 'hr_to_lr.json', [config])
  write_lines(
    root / 'metaicl' / 'tasks.json',
    [{'signs': {'task_type': 'classification'}}],
  )
  row = {'output': '+', 'options': ['+', '-']}
  for task in ('sums', 'signs', 'free'):
    for part in (
      '16384_100_train',
      '4_100_train',
      '4_100_test',
      '4_13_train',
      '4_13_test',
    ):
      write_lines(
        root / 'metaicl' / 'data' / task / f'{task}_{part}.jsonl',
        [
          {
            **row,
            'task': task,
            'input': f'{part[-5]}{n}',
            'output': '+-'[n % 2],
          }
          for n in range(4 if part == '4_100_train' else 8)
        ],
      )
  return root


def rows_of(name, split):
  source = seqio.TaskRegistry.get(name).source
  return list(source.get_dataset(split).as_numpy_iterator())


def test_t0_rates():
  assert p3.rate(400_000, 10) == 400_000
  assert p3.rate(500_000, 10) == 500_000
  assert p3.rate(500_001, 10) == 50_000


def test_t0_mixture_draws_prompts_by_rate(small):
  folder = str(small / 'p3')
  rates = p3.read_table(f'{folder}/t0_mixture_table.jsonl')
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


@shared.needed
def test_t0_mixture_has_the_published_rates():
  rates = p3.read_table(str(shared.DATA / 'p3_train/t0_mixture_table.jsonl'))
  assert sum(rates.values()) == 17_277_798 and len(rates) == 313
  assert rates['glue_mrpc_want_to_know'] == 3668
  assert {v for k, v in rates.items() if k.startswith('gigaword')} == {55_555}


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
    assert len(natural_instructions._listed(path)) == count
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
  write_lines(tmp_path / 'mine.jsonl', rows)
  path = str(tmp_path / 'mine.jsonl')
  with pytest.raises(UserError, match="'mine' has 5 examples"):
    own.task_file('mine', path, shots=5)
  with pytest.raises(UserError, match='metric = .bleu.: give one of'):
    own.task_file('mine', path, shots=2, metric='bleu')
  own.task_file('mine', path, validation=path, shots=2)
  for episode in rows_of('mine', 'validation'):
    assert episode['query_inputs'][0] not in episode['shot_inputs']


def own_task(small):
  rows = [
    {'q': f'Is {n} even?', 'a': 'ny'[n % 2 == 0], 'options': ['y', 'n']}
    for n in range(12)
  ]
  write_lines(small / 'own' / 'mine.jsonl', rows)
  path = str(small / 'own' / 'mine.jsonl')
  fields = {'inputs': 'q', 'targets': 'a'}
  name = own.task_file('own_even', path, path, shots=3, fields=fields)
  return name, f'{name}_score_eval', 'validation'


def vocabulary_of(real):
  if real:
    path = shared.DATA / 'tokenizer' / 't5' / 'spiece.model'
    return vocabularies.sentencepiece(str(path))
  return vocabularies.byte_vocabulary()


def families(small, real):
  """(training task, evaluation tasks, split) of the families."""
  vocabulary = vocabulary_of(real)
  ni = shared.DATA / 'superni' if real else small / 'ni'
  name = natural_instructions.natural_instructions(
    str(ni),
    track='offline' if real else 'default',
    setting='def_shots',
    queries=2,
    vocabulary=vocabulary,
  )
  yield name, name, 'test'
  if not real:
    folder = str(small / 'metaicl')
    labels = [f's{i}' for i in range(50)]
    train = metaicl.train(folder, k=4, symbol_labels=labels)
    yield train, metaicl.test(folder, k=4, seeds=(100, 13)), 'validation'
    return
  folder = str(shared.DATA / 'p3_train')
  name = p3.t0_train(folder, shots=4, queries=2, vocabulary=vocabulary)
  folder, datasets = (
    str(shared.DATA / 'p3_heldout'),
    ('super_glue_cb', 'anli_GPT_3'),
  )
  held_out = p3.held_out(
    folder, shots=4, datasets=datasets, vocabulary=vocabulary
  )
  yield name, held_out, 'validation'
  yield own_task(small)


@pytest.mark.slow
@pytest.mark.parametrize(
  'real', [False, pytest.param(True, marks=shared.needed)]
)
def test_every_family_trains_and_gives_a_score_table(real, small, tmp_path):
  vocabulary = vocabulary_of(real)
  size = 32_128 if real else 384
  model = runner.model(
    vocab=size,
    input_vocabulary=vocabulary,
    output_vocabulary=vocabulary,
    trainable_regex='.*',
  )
  aggregates = {
    'p3_held_out': p3.aggregate,
    'metaicl_hr_to_lr_test': metaicl.aggregate,
  }
  for number, (train, test, split) in enumerate(families(small, real)):
    folder = tmp_path / str(number)
    runner.train(
      folder / 'run',
      model,
      mixture_or_task_name=train,
      task_feature_lengths=LENGTHS,
      total_steps=20,
      checkpoint_period=20,
    )
    losses = runner.losses(folder / 'run')
    assert len(losses) == 20 and losses[20] < losses[1]
    rows = eval_lib.evaluate(
      model=model,
      mixture_or_task_name=test,
      task_feature_lengths=RANKED
      if 'score' in test or test != train
      else LENGTHS,
      batch_size=8,
      checkpoint_path=str(folder / 'run'),
      output_dir=str(folder / 'eval'),
      split=split,
      num_batches=2 if real else None,
      phi_modes=('generated',),
      aggregate=aggregates.get(test),
    )
    for row in rows:
      names = {'accuracy', 'score', 'rouge_l'} & set(row)
      assert names and all(0 <= row[name] <= 100 for name in names)
    groups = {row['task'] for row in rows}
    if test == 'p3_held_out':
      assert {'anli_r1', 'anli_r2', 'anli_r3', 'anli', 'average'} <= groups
    if test == 'metaicl_hr_to_lr_test':
      assert {'metaicl_signs', 'average', 'worst'} <= groups


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
