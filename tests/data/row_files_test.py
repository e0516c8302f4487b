"""Files of rows: what is read, and what is wrong with them, by line."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypertuning.data import row_files
from hypertuning.data.rows import Row
from hypertuning.errors import UserError

GOOD = {'inputs': 'a', 'targets': 'b'}


def write(folder, lines, name='mine.jsonl'):
  path = folder / name
  data = '\n'.join(
    line if isinstance(line, str) else json.dumps(line) for line in lines
  )
  path.write_bytes(
    gzip.compress(data.encode()) if name.endswith('gz') else data.encode()
  )
  return str(path)


_TEXT = st.text(st.characters(exclude_categories=['Cs']), min_size=1).filter(
  str.strip
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(_TEXT, _TEXT), min_size=1, max_size=6))
def test_any_text_is_read_back(tmp_path_factory, pairs):
  rows = [{'inputs': x, 'targets': y} for x, y in pairs]
  folder = tmp_path_factory.mktemp('rows')
  for name in ('mine.jsonl', 'mine.jsonl.gz'):
    (task,) = row_files.read(write(folder, rows, name)).values()
    assert [(row.inputs, row.targets) for row in task.rows] == pairs


def test_every_field_and_other_names(tmp_path):
  rows = [
    {'q': '2+2', 'a': 4, 'options': ['4', '5'], 'task': 'sums', 'id': 1},
    {'q': 'x', 'a': 'y', 'task': 'other', 'definition': 'Say y.', 'id': 1},
    {'q': 'z', 'a': 'y', 'task': 'other', 'definition': 'Say y.'},
  ]
  fields = {'inputs': 'q', 'targets': 'a'}
  tasks = row_files.read(write(tmp_path, rows), fields)
  assert tasks['sums'].rows == [Row('2+2', '4', ('4', '5'))]
  assert len(tasks['other'].rows) == 2
  assert tasks['other'].definition == 'Say y.'
  with pytest.raises(UserError, match="no field 'input'; fields are inputs"):
    row_files.read(write(tmp_path, rows), {'input': 'q'})


def test_json_is_a_list_of_rows_or_lines_of_them(tmp_path):
  rows = [{'inputs': 'a', 'targets': 'b'}, {'inputs': 'c', 'targets': 4}]
  for text in (json.dumps(rows), json.dumps(rows, indent=2)):
    (task,) = row_files.read(write(tmp_path, [text], 'mine.json')).values()
    assert task.rows == [Row('a', 'b'), Row('c', '4')]
  (task,) = row_files.read(write(tmp_path, rows, 'mine.json')).values()
  assert task.rows == [Row('a', 'b'), Row('c', '4')]
  with pytest.raises(UserError, match=r'mine.json: not JSON \(Expecting'):
    row_files.read(write(tmp_path, ['[{"inputs":'], 'mine.json'))
  with pytest.raises(UserError, match='mine.json:2: not an object'):
    row_files.read(write(tmp_path, [json.dumps([GOOD, 3])], 'mine.json'))


def test_tsv(tmp_path):
  lines = ['inputs\ttargets\toptions', 'a "b\tx\t["x", "y"]', 'c\ty\t']
  tasks = row_files.read(write(tmp_path, lines, 'mine.tsv'))
  assert tasks['mine'].rows == [Row('a "b', 'x', ('x', 'y')), Row('c', 'y')]
  path = write(tmp_path, [*lines, 'one cell'], 'mine.tsv')
  with pytest.raises(UserError, match=r'mine.tsv:4: 1 columns, but .* has 3'):
    row_files.read(path)


@pytest.mark.parametrize(
  'bad, why',
  [
    ('{"inputs": ', r'mine.jsonl:2: not JSON'),
    ('[1]', r':2: not an object'),
    ({'inputs': 'a'}, r":2: no field 'targets'; the row has 'inputs'"),
    ({'inputs': None, 'targets': 'b'}, r":2: no field 'inputs'"),
    ({'inputs': ['a'], 'targets': 'b'}, r":2: 'inputs' must be a string"),
    ({'inputs': 'a', 'targets': ' '}, r":2: 'targets' is empty"),
    ({**GOOD, 'options': ['x', 'y']}, r":2: 'targets' 'b' is not one of"),
    ({**GOOD, 'options': ['b']}, r":2: 'options' has one option"),
    ({**GOOD, 'options': ['b', 'b']}, r":2: 'options' has an option twice"),
    ({**GOOD, 'options': ['b', 1]}, r":2: 'options' must be a list of strings"),
    ({**GOOD, 'id': 7}, r':2: id 7 is that of line 1 already'),
    ({**GOOD, 'definition': 'x'}, r":2: 'definition' differs"),
  ],
)
def test_bad_rows_are_named_by_file_line_and_field(tmp_path, bad, why):
  path = write(tmp_path, [{**GOOD, 'id': 7}, bad])
  with pytest.raises(UserError, match=why):
    row_files.read(path)
  tasks, problems = row_files.check(path)
  assert [problem.line for problem in problems] == [2]
  assert len(tasks['mine'].rows) == 1


def test_bad_files(tmp_path):
  path = tmp_path / 'latin.jsonl'
  path.write_bytes(b'{"inputs": "a", "targets": "b"}\n\xff\n')
  with pytest.raises(UserError, match=r'latin.jsonl:2: not UTF-8 at byte 0'):
    row_files.read(str(path))
  with pytest.raises(UserError, match='no such file'):
    row_files.read(str(tmp_path / 'none.jsonl'))
  with pytest.raises(UserError, match='no rows'):
    row_files.read(write(tmp_path, [''], 'empty.jsonl'))
  broken = tmp_path / 'broken.jsonl.gz'
  broken.write_bytes(b'no gzip')
  with pytest.raises(UserError, match='cannot be read'):
    row_files.read(str(broken))


def test_many_problems_are_counted(tmp_path):
  with pytest.raises(UserError, match=r'(?s):1: .*:3: .*and 2 more'):
    row_files.read(write(tmp_path, ['x'] * 5))
