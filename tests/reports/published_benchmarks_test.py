"""Published benchmarks: rows with faults are counted, and left out."""

import json

import family_files
import pytest
import seqio

from hypertuning.data import p3_files
from hypertuning.errors import UserError
from hypertuning.tasks import (
  function_vectors,
  metaicl,
  natural_instructions,
  p3,
  symbol_tuning,
)

_TEMPLATE = """  {name}: !Template
    answer_choices: '{choices}'
    id: {name}
    jinja: "{jinja}"
    metadata: !TemplateMetadata {{original_task: true}}
    name: {name}
"""
_GOOD = '{{premise}}? ||| {{ answer_choices[label] }}'


def _episodes(name, split='validation'):
  source = seqio.TaskRegistry.get(name).source
  return list(source.get_dataset(split).as_numpy_iterator())


def _members(mixture):
  return sorted(x.name for x in seqio.MixtureRegistry.get(mixture).tasks)


def _p3_rows(prompt, count, **more):
  rows = [family_files.p3_row(prompt, n) for n in range(count)]
  return [{**row, **more} for row in rows]


def test_p3_prompts_without_options_beside_those_with(tmp_path, capsys):
  """Each kind of fault is counted, with the file and line of the first one."""
  for split, start in (('train', 0), ('validation', 20)):
    good = [
      family_files.p3_row('hellaswag_how_ends', n)
      for n in range(start, start + 8)
    ]
    good += [dict(good[0]), dict(good[1])]  # published twice, asked twice
    free = [{**x, 'task': 'hellaswag_Open_ended'} for x in good]
    for row in free:
      del row['answer_choices']
    alone = [{**x, 'task': f'hellaswag_{split}'} for x in good]
    odd = [dict(good[2]) for _ in range(4)]
    odd[0]['answer_choices'] = ['Yes', 'No', 'Yes']
    odd[1]['targets_pretokenized'] = 'Maybe'
    odd[2]['targets_pretokenized'] = ''
    del odd[3]['answer_choices']
    family_files.write_lines(
      tmp_path / f'p.{split}.jsonl', [*good, *odd, *free, *alone]
    )
  name = p3.held_out(str(tmp_path), 'p3_odd', shots=2)
  assert _members(name) == ['hellaswag_how_ends_score_eval']
  lines = capsys.readouterr().err.splitlines()
  first = "p.{}.jsonl:12: 'targets' 'Maybe'".replace(
    "'targets'", "'targets_pretokenized'"
  )
  assert len(lines) == 3
  for split, line, left in zip(
    ('train', 'validation'), lines, (2, 3), strict=False
  ):
    assert line.startswith(f'{tmp_path}, {split}: rows left out: {left} (first')
    assert first.format(split) in line
    assert f'rows mended: 1 (first: {tmp_path}/p.{split}.jsonl:11: ' in line
  assert lines[2] == (
    f'p3_odd, {tmp_path}: prompts without rows to ask left out: 1 (first: '
    'hellaswag_train); prompts without options, which are not scored: 1 '
    '(first: hellaswag_Open_ended); prompts without training rows left out: 1 '
    '(first: hellaswag_validation)'
  )
  asked = _episodes('hellaswag_how_ends_score_eval')
  assert len(asked) == 10 + 1  # the row without options is not asked
  with pytest.raises(UserError, match='no prompt of hellaswag_Open has both'):
    p3.held_out(str(tmp_path), shots=2, datasets=('hellaswag_Open',))


def test_files_of_wrong_rows_alone_are_refused(tmp_path):
  rows = _p3_rows('a', 3, targets_pretokenized='Maybe')
  family_files.write_lines(tmp_path / 'p.train.jsonl', rows)
  with pytest.raises(UserError, match=r"p.train.jsonl:1: 'targets_preto"):
    p3_files.rows(str(tmp_path), 'train', None)


def test_prompts_that_t0_leaves_out_are_counted(tmp_path, capsys):
  good, few = 'rotten_tomatoes_good', 'trec_what'
  family_files.write_lines(
    tmp_path / 'p.jsonl', [*_p3_rows(good, 9), *_p3_rows(few, 2)]
  )
  table = {'do_train': 'BASE', 'train_size': 9, 'num_prompts': 3}
  family_files.write_lines(
    tmp_path / 't0_mixture_table.jsonl',
    [{**table, 'prompts': [good, few, 'absent']}],
  )
  name = p3.t0_train(str(tmp_path), 'p3_counted', shots=3)
  seqio.TaskRegistry.get(name).source.check('train')
  (line,) = capsys.readouterr().err.splitlines()
  assert 'prompts of 3 in' in line and 'without rows: 1 (first: absent)' in line
  assert f'left out, fewer than 4 inputs: 1 (first: {few})' in line


def _templates(folder, rows=None, **prompts):
  """Registers prompts over the rows of a file."""
  text = 'templates:\n'
  for name, jinja in prompts.items():
    jinja, choices = (
      jinja if isinstance(jinja, tuple) else (jinja, 'yes ||| no')
    )
    text += _TEMPLATE.format(name=name, jinja=jinja, choices=choices)
  path = folder / 'templates.yaml'
  path.write_text(text)
  rows = rows or [{'premise': f'p{n}', 'label': n % 2} for n in range(8)]
  data = folder / 'rows.jsonl'
  data.write_text(
    '\n'.join(x if isinstance(x, str) else json.dumps(x) for x in rows)
  )
  return p3.templates(str(path), str(data), str(data), 'cb', shots=2)


_SLIPS = {
  'syntax': ('{{premise}? ||| {{ answer_choices[label] }}', "unexpected '}'"),
  'filter': (
    '{{premise | nosuch}}? ||| {{ answer_choices[label] }}',
    "No filter named 'nosuch'",
  ),
  'arithmetic': (
    '{{(premise + 1)}}? ||| {{ answer_choices[label] }}',
    'can only concatenate',
  ),
  'zero': (
    '{{(label // 0)}}? ||| {{ answer_choices[label] }}',
    'integer division or modulo by zero',
  ),
  'field': ('{{hypothesis}}? ||| yes', "'hypothesis' is undefined in row 1"),
  'notin': ('{{premise}}? ||| maybe', "target 'maybe' of row 1 is not one of"),
  'empty': ('{{premise}}?', 'no row of .* has an input and a target'),
  'one': (('{{premise}}? ||| yes', 'yes'), "one option of row 1, 'yes'"),
}


@pytest.mark.parametrize('slip', _SLIPS)
def test_a_slip_in_a_prompt_is_one_line(slip, tmp_path, capsys):
  jinja, why = _SLIPS[slip]
  where = rf"templates.yaml: prompt '{slip}': {why}"
  with pytest.raises(UserError, match=where) as error:
    _templates(tmp_path, **{slip: jinja})
  assert '\n' not in str(error.value)
  # It does not refuse the other prompts of the data set.
  assert _members(_templates(tmp_path, **{slip: jinja}, good=_GOOD)) == [
    'cb_good_score_eval'
  ]
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('cb: prompts left out: 1 (first: ')


def test_odd_rows_of_a_data_set_are_counted(tmp_path, capsys):
  rows = [{'premise': f'p{n}', 'label': n % 2} for n in range(8)]
  rows += ['{"premise": ', {'label': 0}, {'premise': 'q', 'label': 7}]
  name = _templates(tmp_path, rows, good=_GOOD)
  (line,) = capsys.readouterr().err.splitlines()
  # Two prompts' worth: the file is shown and asked.
  assert (
    'rows left out: 5 (first: ' in line and 'rows.jsonl:9: not JSON' in line
  )
  (member,) = _members(name)
  assert len(_episodes(member)) == 8


def _metaicl(folder, test, train=None):
  config = {'train': ['a'], 'test': ['c']}
  family_files.write_lines(folder / 'config' / 'class_to_class.json', [config])
  kind = {'task_type': 'classification'}
  family_files.write_lines(folder / 'config' / 'tasks' / 'c.json', [kind])
  good = [
    {
      'task': 't',
      'input': f'q{n}',
      'output': 'yx'[n % 2],
      'options': ['x', 'y'],
    }
    for n in range(8)
  ]
  for part, rows in (('train', train or good), ('test', test(good))):
    family_files.write_lines(folder / f'data/c/c_4_100_{part}.jsonl', rows)
  name = metaicl.test(str(folder), 'class_to_class', k=4, seeds=(100,))
  (member,) = _members(name)
  return _episodes(member)


def test_metaicl_as_published(tmp_path, capsys):
  """Files with the faults of the published benchmark."""

  def published(good):
    twice = {'input': 'q9', 'output': 'x', 'options': [*'xyzwy']}
    return [*good, {**good[0], **twice}, {**good[0], 'options': []}]

  asked = _metaicl(tmp_path / 'dup', published)
  assert len(asked) == 9
  assert asked[-1]['query_options'].tolist() == [[b'x', b'y', b'z', b'w']]
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('MetaICL, c: rows left out: 1 (first: ')
  assert "c_4_100_test.jsonl:10: no 'options'" in line
  assert 'rows mended: 1 (first: ' in line and "jsonl:9: 'options' has" in line
  with pytest.raises(UserError, match=r'c_4_100_test.jsonl: rows of 2 tasks'):
    _metaicl(tmp_path / 'two', lambda x: [*x[:4], {**x[4], 'task': 'u'}])
  with pytest.raises(UserError, match=r'c_4_100_test.jsonl: no row has "opt'):
    _metaicl(tmp_path / 'none', lambda x: [{**r, 'options': []} for r in x])
  family_files.write_lines(tmp_path / 'none/config/class_to_class.json', [[]])
  with pytest.raises(UserError, match='class_to_class.json: not an object'):
    metaicl.train(str(tmp_path / 'none'), 'class_to_class')
  family_files.write_lines(tmp_path / 'none/config/class_to_class.json', [{}])
  with pytest.raises(UserError, match="_class.json: no list of tasks 'test"):
    metaicl.test(str(tmp_path / 'none'), 'class_to_class')


def test_odd_instances_of_natural_instructions(tmp_path, capsys):
  odd = [
    {'input': 'a', 'output': []},
    {'input': 'b', 'output': [None]},
    {'output': ['c']},
    None,
  ]
  good = [{'input': f'{n}', 'output': [f'{n}']} for n in range(100)]
  (tmp_path / 'tasks').mkdir()
  task = {
    'Definition': ['Say it.'],
    'Positive Examples': [{'input': 'one'}, {'input': 'two', 'output': '2'}],
    'Instances': [*odd, *good],
  }
  (tmp_path / 'tasks' / 'task1_a.json').write_text(json.dumps(task))
  for split in ('train', 'test'):
    family_files.write_lines(
      tmp_path / 'splits/default' / f'{split}_tasks.txt', []
    )
    (tmp_path / 'splits/default' / f'{split}_tasks.txt').write_text('task1_a')
  name = natural_instructions.natural_instructions(str(tmp_path), 'ni_odd')
  asked = _episodes(name, 'test')
  # The official ones are the first 100, of which four cannot be asked.
  assert len(asked) == 96 and asked[0]['shot_inputs'].tolist() == [b'two']
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('ni_odd, test: rows left out: 5 (first: ')
  assert "task1_a.json: Positive Examples 1: no 'output'" in line


def test_odd_rows_of_other_benchmarks(tmp_path, capsys):
  rows = [{'input': f'{n}', 'output': 'ab'[n % 2]} for n in range(20)]
  for task in ('one', 'two'):
    lines = [*rows, {'input': 'x'}, {'input': 'y', 'output': ''}]
    family_files.write_lines(tmp_path / f'{task}.jsonl', lines)
  function_vectors.function_vectors(str(tmp_path), 'fv_odd', ['two'], shots=2)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(f'{tmp_path}: rows left out: 4 (first: ')
  assert "one.jsonl:21: no field 'output'" in line
  files = [str(tmp_path / 'one.jsonl')]
  symbol_tuning.train(files, 'st_odd', shots=2, fields=metaicl.FIELDS)
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('symbol tuning: rows left out: 2 (first: ')
