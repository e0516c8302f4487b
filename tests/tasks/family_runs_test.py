"""Every family: files to episodes, twenty steps, a score table."""

import random

import family_files
import pytest
import runner
import shared

from hypertuning.data import text_format as text_formats
from hypertuning.data import vocabularies
from hypertuning.tasks import (
  metaicl,
  natural_instructions,
  own,
  p3,
  symbol_tuning,
)

LENGTHS = {'hyper_inputs': 128, 'inputs': (2, 48), 'targets': (2, 12)}
RANKED = {'hyper_inputs': 128, 'inputs': (4, 48), 'targets': (4, 12)}


@pytest.fixture(scope='module')
def small(tmp_path_factory):
  root = tmp_path_factory.mktemp('families')
  family_files.write_small(root)
  return root


def format_of(real):
  if real:
    path = shared.DATA / 'tokenizer' / 't5' / 'spiece.model'
    return text_formats.t5_format(vocabularies.sentencepiece(str(path)))
  return vocabularies.byte_format()


def natural_instructions_family(small, real, text_format):
  name = natural_instructions.natural_instructions(
    str(shared.DATA / 'superni' if real else small / 'ni'),
    track='offline' if real else 'default',
    setting='def_shots',
    queries=2,
    text_format=text_format,
  )
  return name, name, 'test', LENGTHS


def p3_family(small, real, text_format):
  folder = str(shared.DATA / 'p3_train' if real else small / 'p3')
  train = p3.t0_train(
    folder, shots=4, queries=2, longest_mean=320, text_format=text_format
  )
  test = p3.held_out(
    str(shared.DATA / 'p3_heldout' if real else small / 'p3_held_out'),
    shots=4,
    datasets=('super_glue_cb', 'anli_GPT_3'),
    text_format=text_format,
  )
  return train, test, 'validation', RANKED


def metaicl_family(small, real, text_format):
  """Real rows in MetaICL's layout: its own scripts need a network."""
  folder = small / 'metaicl'
  if real:
    folder = small / 'metaicl_real'
    tasks = {'train': ['agnews', 'trec', 'sst2'], 'test': ['mnli', 'boolqa']}
    family_files.write_lines(folder / 'config' / 'hr_to_lr.json', [tasks])
    kinds = {name: {'task_type': 'classification'} for name in tasks['test']}
    family_files.write_lines(folder / 'tasks.json', [kinds])
    for name in tasks['train']:
      write_metaicl(folder, name, '16384_100_train', labelled(name, 'train'))
    for name in tasks['test']:
      for seed in (100, 13):
        shots = random.Random(seed).sample(labelled(name, 'train'), 4)
        write_metaicl(folder, name, f'4_{seed}_train', shots)
        write_metaicl(folder, name, f'4_{seed}_test', labelled(name, 'test'))
  train = metaicl.train(str(folder), k=4, text_format=text_format)
  test = metaicl.test(
    str(folder), k=4, seeds=(100, 13), text_format=text_format
  )
  return train, test, 'validation', RANKED


def labelled(name, split):
  """Rows of a set of `icl/classification`, every label in `options`."""
  path = shared.DATA / 'icl' / 'classification' / f'{name}.{split}.jsonl'
  rows = runner.read_lines(path)
  options = sorted({row['output'] for row in rows})
  return [{**row, 'options': options} for row in rows]


def write_metaicl(folder, name, part, rows):
  path = folder / 'data' / name / f'{name}_{part}.jsonl'
  family_files.write_lines(path, [{'task': name, **row} for row in rows])


def symbol_family(small, real, text_format):
  folder = shared.DATA / 'icl' if real else small / 'icl'
  if not real:
    for name in ('agnews', 'sst2', 'trec'):
      rows = [{'input': f'{n}', 'output': 'abc'[n % 3]} for n in range(12)]
      for split in ('train', 'test'):
        family_files.write_lines(
          folder / 'classification' / f'{name}.{split}.jsonl', rows
        )
    (folder / 'symbols').mkdir()
    (folder / 'symbols' / 'words_en_basic.txt').write_text('some plain words')
  shown = {
    'shots': 3,
    'fields': metaicl.FIELDS,
    'words': str(folder / 'symbols' / 'words_en_basic.txt'),
    'text_format': text_format,
  }

  def files(split, *names):
    return [
      str(folder / 'classification' / f'{n}.{split}.jsonl') for n in names
    ]

  train = symbol_tuning.train(files('train', 'agnews', 'sst2'), **shown)
  test = symbol_tuning.test(
    files('test', 'trec'), files('train', 'trec'), **shown
  )
  return (
    train,
    test,
    'validation',
    {**RANKED, 'inputs': (6, 48), 'targets': (6, 12)},
  )


def own_family(small, real, unused_format):
  path = small / 'own' / 'mine.jsonl'
  fields = {'inputs': 'q', 'targets': 'a'}
  if real:
    path = shared.DATA / 'icl' / 'function_vectors' / 'singular_plural.jsonl'
    fields = {'inputs': 'input', 'targets': 'output'}
  else:
    rows = [
      {'q': f'Is {n} even?', 'a': 'ny'[n % 2 == 0], 'options': ['y', 'n']}
      for n in range(12)
    ]
    family_files.write_lines(path, rows)
  name = own.task_file('own', str(path), str(path), shots=3, fields=fields)
  test = name if real else f'{name}_score_eval'
  return name, test, 'validation', RANKED


FAMILIES = {
  'natural_instructions': (natural_instructions_family, None, set()),
  'p3': (p3_family, p3.aggregate, {'anli_r1', 'anli_r2', 'anli', 'average'}),
  'metaicl': (metaicl_family, metaicl.aggregate, {'average', 'worst'}),
  'symbol_tuning': (symbol_family, None, set()),
  'own': (own_family, None, set()),
}


@pytest.mark.slow
@pytest.mark.parametrize(
  'real', [False, pytest.param(True, marks=shared.needed)]
)
@pytest.mark.parametrize('family', FAMILIES)
def test_a_family_trains_and_gives_a_score_table(family, real, small, tmp_path):
  register, aggregate, groups = FAMILIES[family]
  text_format = format_of(real and family != 'own')
  train, test, split, lengths = register(small, real, text_format)
  model = runner.model(
    vocab=32_128 if real else 384,
    text_format=text_format,
    trainable_regex='.*',
  )
  runner.train(
    tmp_path / 'run',
    model,
    mixture_or_task_name=train,
    task_feature_lengths=LENGTHS,
    total_steps=20,
    checkpoint_period=20,
  )
  losses = runner.losses(tmp_path / 'run')
  assert len(losses) == 20 and losses[20] < losses[1]
  rows = runner.evaluate(
    model=model,
    mixture_or_task_name=test,
    task_feature_lengths=lengths,
    batch_size=8,
    checkpoint_path=str(tmp_path / 'run'),
    output_dir=str(tmp_path / 'eval'),
    split=split,
    num_batches=2 if real else None,
    phi_modes=('generated',),
    aggregate=aggregate,
  )
  for row in rows:
    names = {'accuracy', 'score', 'rouge_l', 'exact_match'} & set(row)
    assert names and all(0 <= row[name] <= 100 for name in names)
  assert groups <= {row['task'] for row in rows}
