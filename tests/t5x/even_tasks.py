"""Questions with options, for the runs of engine_test.py."""

from hypertuning.data import registry
from hypertuning.data.rows import Row


def rows(split):
  start = 0 if split == 'train' else 50
  return {
    'even': [
      Row(str(n), ('yes', 'no')[n % 2], ('yes', 'no'))
      for n in range(start, start + 14)
    ]
  }


registry.add_episodes(
  'even',
  {split: lambda split=split: rows(split) for split in ('train', 'validation')},
  shots=3,
  queries=2,
  options=True,
)
