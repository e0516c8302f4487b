"""P3 in the layouts that it is found in, and raw rows of TFDS."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from hypertuning.data import p3_files, row_files
from hypertuning.data.rows import Row
from hypertuning.errors import UserError
from hypertuning.tasks import p3

CHOICES = ('Yes', 'No')
TEMPLATES = """
dataset: even
templates:
  1: !Template
    answer_choices: Yes ||| No
    jinja: 'Is {{number}} even? ||| {{answer_choices[label]}}'
    metadata: !TemplateMetadata
      original_task: true
    name: is it
"""


def raw(n):
  return {
    'inputs_pretokenized': f'Is {n} even?',
    'targets_pretokenized': f' {CHOICES[n % 2]}',
    'answer_choices': list(CHOICES),
  }


def expected(numbers):
  return [Row(f'Is {n} even?', CHOICES[n % 2], CHOICES) for n in numbers]


def write_parquet(path, numbers):
  path.parent.mkdir(parents=True, exist_ok=True)
  table = pa.Table.from_pylist([raw(n) for n in numbers])
  pa.parquet.write_table(table, path)


def write_tfrecord(path, numbers):
  """As seqio's cache has them: a feature of bytes for every text."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tf.io.TFRecordWriter(str(path)) as writer:
    for n in numbers:
      values = {k: [v] if isinstance(v, str) else v for k, v in raw(n).items()}
      features = {
        k: tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[x.encode() for x in v])
        )
        for k, v in values.items()
      }
      # Tokens that the cache holds as well, and that we do not read.
      features['inputs'] = tf.train.Feature(
        int64_list=tf.train.Int64List(value=[5, 6])
      )
      example = tf.train.Example(features=tf.train.Features(feature=features))
      writer.write(example.SerializeToString())


def test_all_layouts_give_the_same_rows(tmp_path):
  write_parquet(tmp_path / 'hub' / 'train-00000-of-00002.parquet', range(5))
  write_parquet(tmp_path / 'hub' / 'train-00001-of-00002.parquet', range(5, 9))
  write_parquet(tmp_path / 'hub' / 'validation-00000-of-00001.parquet', [20])
  write_parquet(tmp_path / 'hub_score_eval' / 'train-0.parquet', [30])
  write_tfrecord(tmp_path / 'old' / 'train.tfrecord-00000-of-00001', range(9))
  lines = [{**raw(n), 'task': 'lines'} for n in range(9)]
  text = '\n'.join(json.dumps(line) for line in lines)
  (tmp_path / 'some.train.jsonl').write_text(text)
  found = p3_files.rows(str(tmp_path), 'train', None)
  assert set(found) == {'hub', 'old', 'lines'}
  for prompt, rows in found.items():
    assert rows == expected(range(9)), prompt
  held_out = p3_files.rows(str(tmp_path), 'validation', None)
  assert held_out == {'hub': expected([20])}
  with pytest.raises(UserError, match='no files of P3 for test'):
    p3_files.rows(str(tmp_path), 'test', None)


def test_rows_that_are_left_out_are_spread_over_the_files(tmp_path):
  write_parquet(tmp_path / 'hub' / 'train-0.parquet', range(100))
  write_parquet(tmp_path / 'hub' / 'train-1.parquet', range(100, 200))
  write_tfrecord(tmp_path / 'old' / 'train.tfrecord', range(200))
  found = p3_files.rows(str(tmp_path), 'train', 10)
  for prompt in ('hub', 'old'):
    assert found[prompt] == expected(range(0, 200, 20)), prompt


def test_bad_binary_files_are_named(tmp_path):
  broken = tmp_path / 'broken.parquet'
  broken.write_bytes(b'PAR1 and nothing else')
  with pytest.raises(UserError, match='broken.parquet: not a parquet file'):
    row_files.read(str(broken))
  broken = tmp_path / 'broken.tfrecord'
  broken.write_bytes(b'nothing of the kind, and long enough')
  with pytest.raises(UserError, match='broken.tfrecord: not a TFRecord file'):
    row_files.read(str(broken))
  for name in ('none.parquet', 'none.tfrecord'):
    with pytest.raises(UserError, match=f'{name}: no such file'):
      row_files.read(str(tmp_path / name))
  write_parquet(tmp_path / 'odd.parquet', range(3))
  with pytest.raises(UserError, match=r"odd.parquet:1: no field 'inputs'"):
    row_files.read(str(tmp_path / 'odd.parquet'))


@pytest.fixture
def even(tmp_path):
  """A data set that TFDS has prepared."""
  features = tfds.features.FeaturesDict(
    {
      'number': tfds.features.Text(),
      'label': tfds.features.ClassLabel(num_classes=2),
    }
  )
  splits = {
    'train': [(n, {'number': str(n), 'label': n % 2}) for n in range(8)],
    'validation': [
      (n, {'number': str(n), 'label': n % 2}) for n in range(20, 24)
    ],
  }
  tfds.dataset_builders.store_as_tfds_dataset(
    name='even',
    version='1.0.0',
    data_dir=tmp_path / 'tfds',
    split_datasets=splits,
    features=features,
    disable_shuffling=True,
  )
  before = seqio.utils._TFDS_DATA_DIR_OVERRIDE
  seqio.set_tfds_data_dir_override(str(tmp_path / 'tfds'))
  yield
  seqio.set_tfds_data_dir_override(before)


def test_prompts_over_a_data_set_of_tfds(even, tmp_path):
  (tmp_path / 'templates.yaml').write_text(TEMPLATES)
  assert list(p3_files.raw_rows('tfds:even:1.0.0#validation')) == [
    {'number': str(n), 'label': n % 2} for n in range(20, 24)
  ]
  name = p3.templates(
    str(tmp_path / 'templates.yaml'),
    'tfds:even:1.0.0#train',
    'tfds:even:1.0.0#validation',
    'even',
    shots=4,
  )
  (task,) = seqio.MixtureRegistry.get(name).tasks
  assert task.name == 'even_is_it_score_eval'
  asked = list(task.source.get_dataset('validation').as_numpy_iterator())
  assert [e['query_inputs'][0] for e in asked] == [
    f'Is {n} even?'.encode() for n in range(20, 24)
  ]
  assert {x for e in asked for x in e['shot_targets']} == {b'Yes', b'No'}
  advice = 'write tfds:NAME:VERSION#SPLIT, such as tfds:super_glue/cb:1.0.2#'
  for slip in ('no_such_set:1.0.0#train', 'even#train', 'even:1.0.0'):
    with pytest.raises(
      UserError, match=f'{slip}: tensorflow-datasets .*{advice}'
    ):
      list(p3_files.raw_rows(f'tfds:{slip}'))
