"""Reading text and JSON as spreadsheets, shells and crashes leave them."""

import codecs
import gzip
import math

import pytest

from hypertuning import text_files
from hypertuning.errors import UserError

TEXT = 'one é\n\ntwo \U0001f600\n'
LINES = [(1, 'one é'), (3, 'two \U0001f600')]


def write(folder, data: bytes, name='x.jsonl'):
  path = folder / name
  path.write_bytes(data)
  return path


@pytest.mark.parametrize(
  'data',
  [
    TEXT.encode(),
    TEXT.encode('utf-8-sig'),
    TEXT.encode('utf-16'),
    codecs.BOM_UTF16_BE + TEXT.encode('utf-16-be'),
    TEXT.encode('utf-32'),
    TEXT.replace('\n', '\r\n').encode(),
    TEXT.replace('\n', '\r').encode(),
    TEXT.replace('two', '\ufefftwo').encode('utf-8-sig'),  # two files joined
    gzip.compress(TEXT.encode('utf-8-sig'), mtime=0),
  ],
)
def test_lines_of_any_encoding(tmp_path, data):
  path = write(tmp_path, data)
  assert list(text_files.lines(path)) == LINES
  if b'\r' not in data and data.count(codecs.BOM_UTF8) < 2:
    assert text_files.read_text(path) == TEXT
    with text_files.open_text(path) as file:
      assert (file.read(), file.name) == (TEXT, str(path))


@pytest.mark.parametrize(
  ('data', 'name', 'words'),
  [
    (b'a\n\xff', 'x.txt', 'x.txt:2: not UTF-8 at byte 0; convert it'),
    (codecs.BOM_UTF16_LE + b'a', 'x.txt', 'nor at byte 2 the UTF-16'),
    (gzip.compress(b'x' * 99, mtime=0)[:-9], 'x.gz', 'cannot be read'),
    (
      gzip.compress(b'xyz' * 99, mtime=0)[:12] + b'\xff' * 40,
      'x',
      'cannot be read',
    ),
    (b'plain', 'x.gz', 'cannot be read'),
    (b'PK\x03\x04 and so on', 'x.tsv', 'a zip archive or a spreadsheet'),
    (b'\x28\xb5\x2f\xfd', 'x.jsonl.zst', 'compressed by zstd'),
  ],
)
def test_files_that_are_no_text(tmp_path, data, name, words):
  with pytest.raises(UserError) as error:
    list(text_files.lines(write(tmp_path, data, name)))
  assert words in str(error.value) and '\n' not in str(error.value)
  assert str(error.value).startswith(f'{tmp_path}/{name}:')


def test_files_that_are_not_there(tmp_path):
  for path in (tmp_path / 'none', tmp_path, tmp_path / 'x.jsonl' / 'y'):
    write(tmp_path, b'')
    with pytest.raises(UserError, match='no such file; give one'):
      text_files.read_text(path, 'no such file; give one')
  with pytest.raises(UserError, match='is a folder, no such file'):
    text_files.read_text(tmp_path)
  with pytest.raises(UserError, match='cannot be read'):
    text_files.read_text('a\0b')
  with pytest.raises(UserError, match='~no_such_user/x: no such file'):
    text_files.read_text('~no_such_user/x')


def test_json_that_python_cannot_count(tmp_path):
  digits = '9' * 5000
  assert text_files.parse_json(f'[{digits}, 7]') == [digits, 7]
  assert math.isnan(text_files.parse_json('NaN'))
  assert text_files.parse_json('{"a": 1, "a": 1}') == {'a': 1}
  deep = '[' * 9 + ']' * 9
  assert text_files.parse_json(f'{{"a": {deep}, "a": {deep}}}')


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('{"a": 1, "a": 2}', "two values for the key 'a'"),
    ('[' * 100_000, 'nested too deeply'),
    ('{"a":' * 5000 + '1' + '}' * 5000, 'nested too deeply'),
    ('{"a": "b\0"}', 'NUL bytes'),
    ('\0' * 9, 'NUL bytes'),
    ('{"a": \n7', 'line 2 column 2'),
    ('{a}', 'column 2'),
    ('', 'Expecting value'),
    (f'[{"9" * 5000}', 'Expecting'),
    (f'{{"a": {"9" * 5000}, "a": 2}}', 'two values'),
  ],
)
def test_json_that_is_none(tmp_path, text, words):
  with pytest.raises(text_files.MalformedError, match=words):
    text_files.parse_json(text)


def test_objects_of_files_name_their_place(tmp_path):
  path = write(tmp_path, b'\xef\xbb\xbf{"a": 1}\n\n[1]\n')
  lines = text_files.json_lines(path)
  assert next(lines) == (1, {'a': 1})
  with pytest.raises(UserError, match='x.jsonl:3: not an object'):
    next(lines)
  with pytest.raises(UserError, match='x.jsonl: not JSON .*line 3'):
    text_files.read_json(path)
