"""Questions with options, for the runs of engine_test.py."""

from collections.abc import Iterator

import seqio
import tensorflow as tf

from hypertuning.data import features, registry, text_format, vocabularies
from hypertuning.data.rows import Row


def rows(split):
  start = 0 if split == 'train' else 50
  return {
    'even': [
      Row(str(n), ('yes', 'no')[n % 2], ('yes', 'no'))
      for n in range(start, start + 14)
    ]
  }


SPLITS = {
  split: lambda split=split: rows(split) for split in ('train', 'validation')
}

registry.add_episodes(
  'even',
  SPLITS,
  shots=3,
  queries=2,
  options=True,
)


registry.add_episodes(
  'more_sentinels',
  SPLITS,
  shots=3,
  queries=2,
  text_format=text_format.t5_format(seqio.ByteVocabulary(extra_ids=110)),
)


def from_python(
  split: str, shuffle_files: bool, seed: int | None = None
) -> tf.data.Dataset:
  """Tokens that a generator gives: where it is cannot be saved."""
  del split, shuffle_files, seed

  def episodes() -> Iterator[dict]:
    while True:
      yield {
        'hyper_inputs': [5, 6, 1],
        'inputs': [[5, 6], [7, 8]],
        'targets': [[5, 1], [6, 1]],
      }

  text = tf.TensorSpec([None], tf.int32)
  texts = tf.TensorSpec([None, None], tf.int32)
  return tf.data.Dataset.from_generator(
    episodes,
    output_signature={'hyper_inputs': text, 'inputs': texts, 'targets': texts},
  )


registry.add_task(
  'from_python',
  source=seqio.FunctionDataSource(from_python, splits=('train', 'validation')),
  preprocessors=[],
  output_features=features.output_features(vocabularies.byte_format()),
  metric_fns=[],
)
