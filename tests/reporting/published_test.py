"""Published numbers: complete, and consistent with themselves."""

import collections
import csv

import pytest
import runner

FILE = runner.ROOT / 'hypertuning/reporting/published.csv'
COLUMNS = [
  *('benchmark', 'size', 'method', 'task'),
  *('value', 'metric', 'source'),
]
LLAMAS = ('Llama-2 7B', 'Llama-2 13B')
P3 = 'ANLI HellaSwag CB COPA RTE WiC WSC WinoGrande'.split()


@pytest.fixture(scope='module')
def all_rows():
  with FILE.open(encoding='utf-8', newline='') as file:
    reader = csv.DictReader(file)
    assert reader.fieldnames == COLUMNS
    return list(reader)


@pytest.fixture(scope='module')
def rows(all_rows):
  return [row for row in all_rows if row['size'] not in LLAMAS]


def test_every_number_has_a_name_of_its_own_and_a_source(rows):
  names = collections.Counter(tuple(row.values())[:4] for row in rows)
  assert max(names.values()) == 1
  for row in rows:
    assert all(row.values()), row
    assert 0 < float(row['value']) < 100
    metric = {'P3': 'accuracy', 'S-NI': 'rouge_l'}[row['benchmark']]
    assert row['metric'] == metric
  assert collections.Counter((r['benchmark'], r['size']) for r in rows) == {
    ('P3', 'Large'): 14 * 9,
    ('P3', 'XL'): 10 * 9,
    ('S-NI', 'Base'): 6,
    ('S-NI', 'Large'): 6,
    ('S-NI', 'XL'): 18,
    ('S-NI', 'XXL'): 6,
  }


def test_averages_are_those_of_the_tasks(rows):
  """To rounding: of the tasks, and of the average itself."""
  values = collections.defaultdict(dict)
  for row in rows:
    if row['benchmark'] == 'P3':
      key = row['size'], row['method']
      values[key][row['task']] = float(row['value'])
  assert len(values) == 14 + 10
  for key, found in values.items():
    average = found.pop('average')
    assert list(found) == P3, key
    assert sum(found.values()) / len(P3) == pytest.approx(average, abs=0.1), key


def test_numbers_of_hypert5(rows):
  averages = {
    (row['size'], row['method']): row['value']
    for row in rows
    if row['task'] == 'average' and row['method'].startswith('HyperT5')
  }
  assert averages == {
    ('Large', 'HyperT5-Prefix'): '54.6',
    ('Large', 'HyperT5-LoRA'): '53.3',
    ('XL', 'HyperT5-Prefix'): '59.6',
    ('XL', 'HyperT5-LoRA'): '56.4',
  }


def test_numbers_of_hyperllama_were_not_found(all_rows):
  tasks = {'P3': [*P3, 'average'], 'S-NI': ['Def + 2 Pos']}
  assert [
    (row['benchmark'], row['size'], row['task'])
    for row in all_rows
    if not row['value']
  ] == [(b, size, t) for b in tasks for size in LLAMAS for t in tasks[b]]
  assert {r['method'] for r in all_rows if r['size'] in LLAMAS} == {
    'HyperLlama'
  }
