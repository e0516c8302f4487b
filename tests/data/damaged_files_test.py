"""Every kind of file of rows, damaged at random: rows or one line.

By default 500 rows of each kind. For the whole of it, about ten minutes:

    DAMAGED_ROWS=100000 pytest tests/data/damaged_files_test.py
"""

import csv
import decimal
import io
import json
import os
import pathlib
import random
import time

import mutants
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow as tf

from hypertuning import gin_utils
from hypertuning.data import p3_files, promptsource, request_files, row_files
from hypertuning.data.oddities import Oddities
from hypertuning.errors import UserError, one_line
from hypertuning.reporting import published
from hypertuning.tasks import metaicl, natural_instructions

ROWS = int(os.environ.get('DAMAGED_ROWS', 500))
PER_FILE = 20
PER_TFRECORD = 100  # TensorFlow takes long to open a file


def good(n: int) -> dict:
  row = {'inputs': f'question {n}', 'targets': 'ab'[n % 2]}
  return row | {'options': ['a', 'b'], 'id': n, 'task': 'mine', 'score': 0.5}


def json_rows(rng, rows, odd=0.3):
  return [mutants.dumps(mutants.row(rng, row, odd)) for row in rows]


def jsonl(rng, rows=None, odd=0.3):
  lines = json_rows(rng, rows or map(good, range(PER_FILE)), odd)
  return mutants.damaged(rng, '\n'.join(lines).encode())


def json_list(rng):
  lines = json_rows(rng, map(good, range(PER_FILE)))
  if rng.random() < 0.5:  # so that not every file with a bottomless row fails
    lines = [line for line in lines if len(line) < 5_000]
  return mutants.damaged(rng, f'[{",".join(lines)}]'.encode())


def tsv(rng):
  rows = [mutants.row(rng, good(n)) for n in range(PER_FILE)]
  names = list(good(0))
  if rng.random() < 0.1:
    names.append(rng.choice(names))
  lines = ['\t'.join(names)]
  for row in rows:
    cells = [row.get(name, '') for name in names]
    cells = [x if isinstance(x, str) else json.dumps(x) for x in cells]
    lines.append('\t'.join(cells))
  text = '\n'.join(lines)
  return mutants.damaged(rng, text.encode('utf-8', 'surrogatepass'))


def gzipped(rng):
  return mutants.gzipped(rng, jsonl(rng))


def requests(rng):
  rows = []
  for n in range(PER_FILE):
    example = mutants.row(rng, {'inputs': f'{n}c', 'targets': 'c'}, 0.03)
    query = mutants.value(rng) if rng.random() < 0.03 else f'{n}d'
    request = {'examples': [example], 'queries': [query], 'definition': 'Do.'}
    rows.append(mutants.row(rng, request, 0.02))
  lines = [mutants.dumps(row) for row in rows]
  return mutants.damaged(rng, '\n'.join(lines).encode())


def column(rng):
  """A column of a type that may stand for a text, and of some that do not."""
  texts = [f'text {n}' for n in range(PER_FILE)]
  numbers = [*range(PER_FILE)]
  times = pa.array([2**62] * PER_FILE)
  not_utf8 = [rng.choice((b'a', b'\xff', b'\xed\xa0\xbd')) for _ in texts]
  columns = [
    lambda: pa.array(texts),
    lambda: pa.array(texts, pa.large_string()),
    lambda: pa.array(texts).dictionary_encode(),
    lambda: pa.array([x.encode() for x in texts]),
    lambda: pa.array(not_utf8),
    lambda: pa.array(not_utf8).view(pa.string()),
    lambda: pa.array(
      [rng.choice(('a', '', ' ', None, 'a\0', '\ufeff')) for _ in texts]
    ),
    lambda: pa.array([rng.choice((1.5, float('nan'), None)) for _ in texts]),
    lambda: pa.array([float('inf')] * PER_FILE, pa.float32()),
    lambda: pa.array(numbers),
    lambda: pa.array([decimal.Decimal(n) for n in numbers]),
    lambda: pa.array([True] * PER_FILE),
    lambda: pa.nulls(PER_FILE),
    lambda: times.cast(pa.timestamp('ns')),
    lambda: times.cast(pa.timestamp('us')),
    lambda: times.cast(pa.duration('us')),
    lambda: pa.array([['a', 'b']] * PER_FILE),
    lambda: pa.array([['a', None], [], None, ['b']] * (PER_FILE // 4)),
    lambda: pa.ListArray.from_arrays(
      numbers + [PER_FILE], pa.array(not_utf8).view(pa.string())
    ),
    lambda: pa.array([[['a']]] * PER_FILE),
    lambda: pa.array([{'a': 'b', 'c': [1]}] * PER_FILE),
    lambda: pa.array([[('k', 1)]] * PER_FILE, pa.map_(pa.string(), pa.int64())),
  ]
  return rng.choice(columns)()


def parquet(rng):
  names = [*good(0), 'more']
  columns = {
    'inputs': pa.array([f'question {n}' for n in range(PER_FILE)]),
    'targets': pa.array(['ab'[n % 2] for n in range(PER_FILE)]),
    'options': pa.array([['a', 'b']] * PER_FILE),
  }
  while rng.random() < 0.5:
    columns[rng.choice(names)] = column(rng)
  file = io.BytesIO()
  table = pa.table(list(columns.values()), list(columns))
  pa.parquet.write_table(table, file, compression=rng.choice(('none', 'gzip')))
  return mutants.damaged(rng, file.getvalue(), 0.3)


def feature(value):
  values = value if isinstance(value, list) else [value]
  if all(isinstance(x, (float, int)) for x in values):
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))
  values = [
    str(x).encode('utf-8', 'surrogatepass') for x in values if x is not None
  ]
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


_SMALL = tuple(
  x for x in mutants.VALUES if not (isinstance(x, (int, float)) and x > 1e30)
)


def tfrecord(rng, folder):
  path = folder / 'writing'
  with tf.io.TFRecordWriter(str(path)) as writer:
    for n in range(PER_TFRECORD):
      row = mutants.row(rng, good(n), kinds=_SMALL)
      features = {name: feature(value) for name, value in row.items()}
      example = tf.train.Example(features=tf.train.Features(feature=features))
      # With the right checksum, unlike what is damaged below.
      payload = example.SerializeToString()
      writer.write(mutants.damaged(rng, payload, 0.01))
  return mutants.damaged(rng, path.read_bytes(), 0.3)


# YAML takes a second to find that thousands of levels are too many.
_SHALLOW = tuple(x for x in mutants.VALUES if x != mutants.BOTTOMLESS)


def templates(rng):
  lines = ['dataset: mine', 'templates:']
  for n in range(PER_FILE):
    fields = {
      'answer_choices': 'Yes ||| No',
      'jinja': 'Is it {{text}}? ||| {{answer_choices[label]}}',
      'name': f'prompt {n}',
    }
    fields = mutants.row(rng, fields, 0.04, _SHALLOW)
    lines += [f'  {n}: !Template']
    lines += [f'    {k}: {mutants.dumps(v)}' for k, v in fields.items()]
    lines += ['    metadata: !TemplateMetadata', '      original_task: true']
  return mutants.damaged(rng, '\n'.join(lines).encode(), 0.4)


def instructions(rng):
  rows = [
    mutants.row(
      rng, {'id': f'{n}', 'input': f'n{n}', 'output': ['1', '2']}, 0.04
    )
    for n in range(PER_FILE)
  ]
  task = {
    'Definition': ['Write.'],
    'Positive Examples': [{'input': 'one', 'output': '1'}],
    'Instances': rows,
  }
  task = mutants.row(rng, task, 0.1)
  return mutants.damaged(rng, mutants.dumps(task).encode(), 0.3)


def metaicl_rows(rng):
  rows = [
    {'task': 't', 'input': f'{n}', 'output': '+', 'options': ['+', '-']}
    for n in range(PER_FILE)
  ]
  return jsonl(rng, rows, 0.05)


def metaicl_setting(rng):
  names = [f'task-{n}' for n in range(PER_FILE)]
  setting = mutants.row(rng, {'train': names, 'test': names}, 0.5)
  return mutants.damaged(rng, mutants.dumps(setting).encode())


def t0_table(rng):
  row = {'do_train': 'BASE', 'train_size': 600_000, 'num_prompts': 3}
  return jsonl(rng, [row | {'prompts': ['a', 'b']}] * PER_FILE, 0.05)


def raw_rows(rng):
  rows = [
    {'text': f'{n}', 'label': n % 2, 'c': {'d': ['e']}} for n in range(20)
  ]
  return jsonl(rng, rows, 0.05)


def numbers(rng):
  file = io.StringIO()
  table = csv.writer(file)
  table.writerow(published.COLUMNS)
  for n in range(PER_FILE):
    cells = ('b', 's', 'm', 't', n, 'x', 'y')
    row = dict(zip(published.COLUMNS, cells, strict=True))
    table.writerow(mutants.row(rng, row, 0.1).values())
  text = file.getvalue()
  return mutants.damaged(rng, text.encode('utf-8', 'surrogatepass'), 0.4)


def gin_file(rng):
  lines = [
    'from __gin__ import dynamic_registration',
    'from hypertuning.engine import optim',
    'optim.adamw.learning_rate = %RATE',
    'RATE = 0.1',
  ]
  values = ('1', "'a'", '(1, 2)', '{"a": [1]}', '@optim.adamw()', '1e400')
  for n in range(PER_FILE - len(lines)):
    value = rng.choice(values)
    if rng.random() < 0.1:
      value = mutants.dumps(mutants.value(rng))
    lines.append(f'VALUE_{n} = {value}  # words')
  return mutants.damaged(rng, '\n'.join(lines).encode(), 0.6)


def read_rows(path):
  for task in row_files.check(path)[0].values():
    yield task.definition
    for row in task.rows:
      yield from (row.inputs, row.targets, *row.options, *row.references)


def read_requests(path):
  for request in request_files.read(path):
    yield from (request.definition, *request.queries)
    for example in request.examples:
      yield from example


def read_templates(path):
  for template in promptsource.read_templates(path, 'mine'):
    yield from (template.task, template.jinja, template.answer_choices or '')


def read_instructions(path):
  definition, *parts = natural_instructions.read_task(
    pathlib.Path(path), Oddities('a task')
  )
  yield definition
  for row in (row for part in parts for row in part):
    yield from (row.inputs, row.targets, *row.references)


def read_metaicl(path):
  for row in metaicl._read(
    str(pathlib.Path(path).parents[2]), 't', 1, 2, 'x'
  ).rows:
    yield from (row.inputs, row.targets, *row.options)


def read_setting(path):
  folder = str(pathlib.Path(path).parents[1])
  return metaicl.setting_tasks(folder, 'hr_to_lr', 'test')


def read_raw(path):
  for row in p3_files.raw_rows(path):
    yield json.dumps(row, ensure_ascii=False)


def read_numbers(path):
  for row in published._read(pathlib.Path(path)):
    yield from row.values()


def read_gin(path):
  gin_utils.parse([path])
  return ()


KINDS = {
  'mine.jsonl': (jsonl, read_rows),
  'mine.json': (json_list, read_rows),
  'mine.tsv': (tsv, read_rows),
  'mine.jsonl.gz': (gzipped, read_rows),
  'requests.jsonl': (requests, read_requests),
  'mine.parquet': (parquet, read_rows),
  'mine.tfrecord': (tfrecord, read_rows),
  'templates.yaml': (templates, read_templates),
  'task1.json': (instructions, read_instructions),
  'data/t/t_1_2_x.jsonl': (metaicl_rows, read_metaicl),
  'config/hr_to_lr.json': (metaicl_setting, read_setting),
  'table.jsonl': (t0_table, lambda path: p3_files.read_table(path)),
  'raw.jsonl': (raw_rows, read_raw),
  'published.csv': (numbers, read_numbers),
  'mine.gin': (gin_file, read_gin),
}


@pytest.mark.parametrize('name', KINDS)
def test_damaged_files_are_rows_or_one_line(name, tmp_path, capsys):
  make, read = KINDS[name]
  path = tmp_path / name
  path.parent.mkdir(parents=True, exist_ok=True)
  start, refused, texts = time.time(), 0, 0
  per_file = PER_TFRECORD if make is tfrecord else PER_FILE
  files = -(-ROWS // per_file)
  for seed in range(files):
    rng = random.Random(seed)
    extra = (tmp_path,) if make is tfrecord else ()
    path.write_bytes(make(rng, *extra))
    try:
      for text in read(str(path)):
        text.encode()  # no halves of characters
        texts += 1
    except UserError as error:
      refused += 1
      for line in str(error).splitlines():
        # A binding that a macro lacks is named by the macro.
        start_of = (str(path), '... and ') if name != 'mine.gin' else ''
        assert line.startswith(start_of), (seed, line)
      assert name != 'mine.gin' or '\n' not in one_line(error)
    except BaseException as error:
      raise AssertionError(f'{name}, seed {seed}') from error
  assert texts or name == 'mine.gin'
  with capsys.disabled():
    if ROWS > 500:
      print(
        f'{name}: {files * per_file} rows in {files} files, {refused} files '
        f'refused, {texts} texts read, {time.time() - start:.0f} s'
      )
