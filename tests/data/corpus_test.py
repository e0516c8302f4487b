"""Texts for hyperpretraining and the tasks over them."""

import sys

import pytest
import seqio
import tensorflow as tf

from hypertuning.data import corpus, features
from hypertuning.data.caclm import SegmentLengths
from hypertuning.errors import UserError
from hypertuning.tasks import hyperpretrain

LENGTHS = {'hyper_inputs': 82, 'inputs': (4, 72), 'targets': (4, 17)}


@pytest.mark.slow
def test_documentation_is_large_split_by_name_and_not_imported():
  train = corpus.python_documentation('train')
  validation = corpus.python_documentation('validation')
  size = sum(map(len, train)) + sum(map(len, validation))
  assert size >= 500_000
  assert not set(train) & set(validation)
  assert 0.02 < len(validation) / (len(train) + len(validation)) < 0.09
  assert 'antigravity' not in sys.modules  # opens a browser when imported
  assert corpus.python_documentation('train') is train
  corpus.python_documentation.cache_clear()
  corpus._all_documentation.cache_clear()
  assert corpus.python_documentation('train') == train


def write(root, files):
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_text_folder_is_recursive_ordered_and_split(tmp_path):
  write(tmp_path, {f'd{i % 3}/{i}.txt': b'text' for i in range(60)})
  write(tmp_path, {'blank.txt': b' \n', 'code.py': b'pass'})
  train = corpus.text_files(str(tmp_path), 'train')
  validation = corpus.text_files(str(tmp_path), 'validation')
  assert len(train) + len(validation) == 60 and len(validation) >= 1
  assert not set(train) & set(validation)
  assert train == sorted(train)
  for split in corpus.SPLITS:
    # code.py holds a text too, but does not match the default pattern.
    names = [p.name for p in corpus.text_files(str(tmp_path), split, '**/*')]
    assert ('code.py' in names) == (corpus.split_of('code.py') == split)


def test_few_files_give_both_splits(tmp_path):
  write(tmp_path, {'a.txt': b'text a', 'b.txt': b'text b'})
  for split in corpus.SPLITS:
    assert len(corpus.text_files(str(tmp_path), split)) == 1


def test_bad_folders_are_named(tmp_path):
  with pytest.raises(UserError, match='none: no such folder'):
    hyperpretrain.text_folder(str(tmp_path / 'none'))
  with pytest.raises(UserError, match=f'{tmp_path}: no text'):
    hyperpretrain.text_folder(str(tmp_path))
  write(tmp_path, {'a.txt': b'', 'b.txt': b' \n', 'c.md': b'text'})
  with pytest.raises(UserError, match=r'no text there \(2 files match'):
    hyperpretrain.text_folder(str(tmp_path))
  write(tmp_path, {'x/bad.txt': b'good \xff bad', 'd.txt': b'text'})
  with pytest.raises(UserError, match=r'bad\.txt: not UTF-8 at byte 5'):
    hyperpretrain.text_folder(str(tmp_path))


def test_text_folder_task(tmp_path):
  texts = {f'{i}.txt': f'{i} naïve text '.encode() * 9 for i in range(40)}
  write(tmp_path, texts)
  name = hyperpretrain.text_folder(
    str(tmp_path), lengths=SegmentLengths(window=40, b=(4, 8), c=(4, 8))
  )
  # A second registration, as gin makes when it is referenced twice.
  assert hyperpretrain.text_folder(str(tmp_path)) == name
  task = seqio.get_mixture_or_task(name)
  vocabulary = task.output_features['inputs'].vocabulary
  wholes = [text.decode() for text in texts.values()]
  numbers = {}
  for split in corpus.SPLITS:
    read = []
    for example in task.get_dataset(LENGTHS, split, seed=0).as_numpy_iterator():
      b, c = example['inputs'][0].tolist(), example['targets'][0].tolist()
      text = vocabulary.decode(b + c)
      # A cut may fall within a letter of two bytes.
      whole = [w for w in wholes if text.replace('\ufffd', '') in w]
      assert whole or '\ufffd' in text
      read.append(text)
    numbers[split] = len(read)
  assert numbers['train'] > numbers['validation'] > 0


@pytest.mark.parametrize(
  'name',
  [
    *('hyperpretrain_python', 'python_docs_lm'),
    pytest.param('downstream_toy', marks=pytest.mark.slow),
  ],
)
def test_training_resumes_with_the_same_batches(name, tmp_path):
  task = seqio.get_mixture_or_task(name)
  ds = task.get_dataset(LENGTHS, 'train', seed=3, num_epochs=None)
  ds = features.EpisodeFeatureConverter()(ds, LENGTHS).batch(8)
  iterator = iter(ds)
  for _ in range(3):
    next(iterator)
  saved = tf.train.Checkpoint(it=iterator).write(str(tmp_path / 'position'))
  size = sum(path.stat().st_size for path in tmp_path.iterdir())
  assert size < 4_000_000  # positions and a buffer of windows, not the corpus
  fresh = iter(ds)
  tf.train.Checkpoint(it=fresh).read(saved).assert_consumed()
  for _ in range(4):
    expected, got = next(iterator), next(fresh)
    for key in expected:
      assert bool(tf.reduce_all(expected[key] == got[key])), key


def test_held_out_windows_are_the_same_in_every_evaluation():
  task = seqio.get_mixture_or_task('hyperpretrain_python')

  def read():
    ds = task.get_dataset(LENGTHS, 'validation', shuffle=False, seed=0)
    return [e['targets'].tolist() for e in ds.take(50).as_numpy_iterator()]

  assert read() == read()


def test_c4_is_registered_without_the_network():
  assert 'hyperpretrain_c4' in seqio.TaskRegistry.names()
  source = seqio.TaskRegistry.get('hyperpretrain_c4').source
  assert isinstance(source, seqio.TfdsDataSource)


def test_a_rate_that_is_no_share_is_refused():
  for rate in (0, 1, 2.5):
    with pytest.raises(UserError, match='text_rate'):
      hyperpretrain.downstream_mixture('bad', text_rate=rate)
    with pytest.raises(UserError, match='zero_shot_rate'):
      hyperpretrain.downstream_mixture('bad', zero_shot_rate=rate)
