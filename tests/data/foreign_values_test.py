"""Values that other tools write are read as meant, or named in one line."""

import codecs
import gzip
import json
import math

import gin
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

from hypertuning import gin_utils
from hypertuning.data import (
  p3_files,
  promptsource,
  request_files,
  row_files,
  row_table,
  texts,
  vocabularies,
)
from hypertuning.data.oddities import Oddities
from hypertuning.data.rows import Row
from hypertuning.errors import UserError
from hypertuning.tasks import hyperpretrain, metaicl, natural_instructions
from hypertuning.tasks.__main__ import main as tasks

BOM = codecs.BOM_UTF8
GOOD = '{"inputs": "q0", "targets": "b"}\n'


def write(folder, text, name='mine.jsonl'):
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  return str(path)


def refusal(read, *arguments) -> str:
  with pytest.raises(UserError) as error:
    read(*arguments)
  assert '\n' not in str(error.value)
  return str(error.value)


def rows(path, **kwargs):
  (task,) = row_files.read(path, **kwargs).values()
  return task.rows


@pytest.mark.parametrize(
  ('value', 'words'),
  [
    ('NaN', 'is not a text or a number (NaN stands for what is missing)'),
    ('1e999', 'is not a text or a number, but inf'),
    ('-Infinity', 'is not a text or a number, but -inf'),
    (
      '"so \\ud83d"',
      'holds half a character (a lone surrogate) at character 4',
    ),
    ('["a"]', "must be a string, not ['a']"),
    ('true', 'must be a string, not True'),
    ('{"a": [' + '[' * 900 + ']' * 900 + ']}', 'must be a string, not {'),
  ],
)
def test_validate_names_file_line_and_field(tmp_path, capsys, value, words):
  for field, other in (('inputs', 'targets'), ('targets', 'inputs')):
    bad = f'{{"{field}": {value}, "{other}": "x"}}\n'
    path = write(tmp_path, bad + GOOD * 2)
    assert tasks(['validate', path, '--shots', '0']) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{path}:1: '{field}' {words}")


def test_a_mark_is_no_part_of_a_row(tmp_path, capsys):
  jsonl = write(tmp_path, BOM + GOOD.encode() + GOOD.replace('0', '1').encode())
  tsv = write(tmp_path, '\ufeffinputs\ttargets\nq0\ta\nq1\tb\n', 'b.tsv')
  listed = write(tmp_path, f'[{GOOD}]'.encode('utf-16'), 'b.json')
  for path in (jsonl, tsv):
    assert tasks(['validate', path, '--shots', '1']) == 0
  assert rows(listed) == [Row('q0', 'b')]


def test_what_pandas_writes_for_nothing_is_nothing(tmp_path):
  nothing = '"options": NaN, "id": NaN, "task": NaN, "definition": NaN'
  row = GOOD.replace('}', f', {nothing}, "score": NaN, "e": 1e999}}')
  assert rows(write(tmp_path, row * 2)) == [Row('q0', 'b')] * 2


def test_numbers_and_characters_that_are_meant(tmp_path):
  digits = '9' * 5000
  row = f'{{"inputs": "\\ud83d\\ude00", "targets": {digits}}}'
  assert rows(write(tmp_path, row)) == [Row('\U0001f600', digits)]
  row = {'inputs': 'a\r\nb\0', 'targets': 'x' * 200_000, 'more': [[[]]]}
  (read,) = rows(write(tmp_path, json.dumps(row)))
  assert read == Row('a\r\nb\0', 'x' * 200_000)


def test_cells_of_any_length_and_ends_of_any_kind(tmp_path):
  long = 'x' * 200_000
  text = f'inputs\ttargets\r\na\rb\t{long}\r\n"\ty\r\n'
  path = write(tmp_path, text, 'mine.tsv')
  assert rows(path) == [Row('a\rb', long), Row('"', 'y')]
  path = write(tmp_path, 'inputs\ttargets\ra\tb\rc\td\r', 'mac.tsv')
  assert rows(path) == [Row('a', 'b'), Row('c', 'd')]
  path = write(tmp_path, 'inputs\tinputs\ttargets\na\tb\tc\n', 'twice.tsv')
  assert 'twice.tsv:1: the header has' in refusal(row_files.read, path)
  path = write(tmp_path, f'{long}\ttargets\na\tb\n', 'long.tsv')
  assert len(refusal(row_files.read, path)) < 600
  cell = 'inputs\ttargets\toptions\na\tb\t' + '[' * 5000
  assert "'options' must be" in refusal(
    row_files.read, write(tmp_path, cell, 'deep.tsv')
  )


def test_files_by_what_is_in_them(tmp_path):
  packed = gzip.compress(GOOD.encode())
  assert rows(write(tmp_path, packed)) == [Row('q0', 'b')]
  assert rows(write(tmp_path, f'[{GOOD},\n{GOOD}]')) == [Row('q0', 'b')] * 2
  twice = GOOD.replace('}', ', "targets": "c"}')
  message = refusal(row_files.read, write(tmp_path, twice))
  assert "mine.jsonl:1: not JSON (two values for the key 'targets')" in message
  damaged = bytearray(packed)
  damaged[14] ^= 255
  path = write(tmp_path, bytes(damaged), 'mine.jsonl.gz')
  assert 'mine.jsonl.gz: cannot be read' in refusal(row_files.read, path)


def test_requests(tmp_path):
  path = write(tmp_path, BOM + b'{"queries": ["3c"]}\r\n')
  assert request_files.read(path)[0].queries == ['3c']
  example = {'inputs': 'a', 'targets': '\ud83d'}
  for field, request in (
    ('queries', {'queries': ['\ud83d']}),
    ('examples', {'queries': ['a'], 'examples': [example]}),
    ('definition', {'queries': ['a'], 'definition': '\ud83d'}),
  ):
    path = write(tmp_path, json.dumps(request))
    message = refusal(request_files.read, path)
    assert f'{path}:1: "{field}" holds half a character' in message
  message = refusal(request_files.read, write(tmp_path, '{"queries":[NaN]}'))
  assert 'mine.jsonl:1: "queries" must be a list of strings' in message
  message = refusal(request_files.read, write(tmp_path, '[' * 9999))
  assert 'mine.jsonl:1: nested too deeply' in message


def test_parquet(tmp_path):
  path = tmp_path / 'mine.parquet'
  not_utf8 = pa.array([b'a', b'\xff']).view(pa.string())
  table = {
    'inputs': pa.array([b'q0', b'q1']),
    'targets': not_utf8,
    'options': pa.array([float('nan')] * 2),
    'time': pa.array([2**62] * 2).cast(pa.timestamp('ns')),
  }
  pa.parquet.write_table(pa.table(table), path)
  found, problems = row_files.check(str(path))
  assert found['mine'].rows == [Row('q0', 'a')]
  assert [str(x) for x in problems] == [
    f"{path}:2: 'targets' is not UTF-8 at byte 0."
  ]
  for wrong, words in (
    (pa.array([1.5, float('nan')]), ":2: 'targets' is not a text or a number"),
    (pa.array(['a', None]), ":2: no field 'targets'"),
    (pa.array([['a'], ['b']]), ":1: 'targets' must be a string, not ['a']"),
    (table['time'], ":1: 'targets' must be a string"),
  ):
    pa.parquet.write_table(pa.table(table | {'targets': wrong}), path)
    assert f'{path}{words}' in str(row_files.check(str(path))[1][0])
  path.write_bytes(path.read_bytes()[:-20])
  assert 'mine.parquet: not a parquet file' in refusal(
    row_files.read, str(path)
  )


def test_tfrecord(tmp_path):
  path = tmp_path / 'mine.tfrecord'

  def example(text):
    value = tf.train.BytesList(value=[text])
    features = {
      name: tf.train.Feature(bytes_list=value) for name in ('inputs', 'targets')
    }
    return tf.train.Example(
      features=tf.train.Features(feature=features)
    ).SerializeToString()

  for payload, words in (
    (example(b'\xff'), ":2: 'inputs' is not UTF-8 at byte 0"),
    (b'\x0a\xff', ':2: the record is not a tf.train.Example'),
  ):
    with tf.io.TFRecordWriter(str(path)) as writer:
      writer.write(example(b'a'))
      writer.write(payload)
    assert f'{path}{words}' in refusal(row_files.read, str(path))
  path.write_bytes(path.read_bytes()[:-3])
  assert 'not a TFRecord file' in refusal(row_files.read, str(path))


def test_benchmarks(tmp_path):
  task = {
    'Definition': ['Write.'],
    'Positive Examples': [],
    'Instances': [{'input': 'a', 'output': ['b', 'c']}],
  }
  path = tmp_path / 'task1.json'
  path.write_bytes(BOM + json.dumps(task).encode())
  oddities = Oddities('a task')
  rows = natural_instructions.read_task(path, oddities)[2]
  assert rows == [Row('a', 'b', (), ('c',))]
  for output, words in (
    (['\ud83d'], 'Instances 1: .* half a character'),
    ([['b']], "Instances 1: .*must be a string, not \\['b'\\]"),
    (float('nan'), 'Instances 1: .*NaN stands'),
    ([], 'Instances 1: '),
  ):
    task['Instances'][0]['output'] = output
    path.write_text(json.dumps(task))
    with pytest.raises(UserError, match=f'task1.json: .*{words}'):
      natural_instructions.read_task(path, oddities)
  write(tmp_path, '\ufefftask1\n', 'tasks.txt')
  assert natural_instructions._read_names(tmp_path / 'tasks.txt') == ['task1']
  write(tmp_path, b'\xff', 'tasks.txt')
  refusal(natural_instructions._read_names, tmp_path / 'tasks.txt')

  for text in ('[]', '{"train": 3}', '{"train": ["\\ud83d"]}', 'NaN', '\xff'):
    write(tmp_path, text.encode('latin-1'), 'config/hr_to_lr.json')
    message = refusal(metaicl.setting_tasks, str(tmp_path), 'hr_to_lr', 'train')
    assert 'hr_to_lr.json: ' in message

  table = {'do_train': 'BASE', 'train_size': 9, 'num_prompts': 1}
  for bad in ({'prompts': 'ab'}, {'prompts': ['\ud83d']}, {'prompts': None}):
    path = write(tmp_path, json.dumps(table | bad))
    assert ':1: not a row of the table' in refusal(p3_files.read_table, path)
  path = write(tmp_path, json.dumps(table | {'num_prompts': 0, 'prompts': []}))
  assert ':1: not a row of the table' in refusal(p3_files.read_table, path)

  path = write(tmp_path, '\ufeff{"text": "a", "label": NaN, "c": null}')
  assert list(p3_files.raw_rows(path)) == [{'text': 'a', 'c': None}]
  path = write(tmp_path, '{"text": {"a": ["\\ud83d"]}}')
  message = refusal(lambda: list(p3_files.raw_rows(path)))
  assert f"{path}:1: 'text' holds half a character" in message


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('"\\uD83D"', "'name' holds half a character"),
    ('yes', "'name' must be a string, not True"),
    ('9' * 5000, 'Exceeds the limit'),
    ('2001-99-99', 'month must be'),
    ('"a"\n    name: b', "two values for the key 'name'"),
    ('[' * 600, 'nested too deeply'),
  ],
)
def test_templates(tmp_path, name, words):
  template = '  1: !Template\n    answer_choices: null\n    jinja: a ||| b\n'
  text = f'templates:\n{template}    name: {name}\n'
  path = write(tmp_path, text.encode('utf-16'), 'templates.yaml')
  message = refusal(promptsource.read_templates, path, 'mine')
  assert message.startswith(path) and words in message


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_gin_files(tmp_path, encoding):
  inner = write(tmp_path, 'EMB = 16\r\n'.encode(encoding), 'inner.gin')
  outer = write(tmp_path, f"include '{inner}'\n".encode(encoding), 'outer.gin')
  gin_utils.parse([outer])
  assert 'EMB = 16' in gin.config_str()
  assert list(gin_utils.lines(outer))[-1] == 'EMB = 16'
  write(tmp_path, b'A = 3\nB = "\xff"\n', 'inner.gin')
  message = refusal(gin_utils.parse, [outer])
  assert message.startswith(f'{inner}: not UTF-8 at byte 11 (line 2)')


def test_vocabularies_and_texts(tmp_path):
  for data in (b'', b'no model'):
    path = write(tmp_path, data, 'x.model')
    message = refusal(vocabularies.sentencepiece, path)
    assert message.startswith(f'{path}: not a SentencePiece model')
  assert 'model' in refusal(vocabularies.sentencepiece, str(tmp_path))
  path = write(tmp_path, '\ufeffwords \ufeff'.encode(), 'x.txt')
  read = hyperpretrain._read_file(tf.constant(path)).numpy().decode()
  assert read == 'words \ufeff'


def test_texts_of_values():
  assert texts.text(2.5) == '2.5' and texts.text(b'a') == 'a'
  assert texts.text('\ud83d\ude00\0') == '\U0001f600\0'
  assert texts.plain_value(
    {'a': np.array([b'x'], object), 'b': np.int64(3)}
  ) == {
    'a': ['x'],
    'b': 3,
  }
  deep: list = []
  for _ in range(3000):
    deep = [deep]
  with pytest.raises(ValueError, match='nested too deeply'):
    texts.plain_value(deep)
  assert texts.is_missing(math.nan) and not texts.is_missing(0.0)


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    (('a', '\ud83d'), 'rows[1].targets holds half a character'),
    ((5, 'b'), 'rows[1].inputs must be a string, not 5'),
    ((math.nan, 'b'), 'rows[1].inputs is not a text or a number'),
    (('a', None), 'rows[1].targets must be a string, not None'),
    (('a', 'b', ['b', 7]), 'rows[1].options must be a string, not 7'),
  ],
)
def test_rows_of_ones_own_code(row, words):
  made = {'mine': [('c', 'd'), row]}
  message = refusal(row_table.make_table, made, 0, 1)
  assert message.startswith(f"Task 'mine': {words}")
