"""Held-out tasks of knowledge, with examples and rows to test on."""

import numpy as np

from hypertuning.data.knowledge import collection
from hypertuning.data.rows import as_task
from hypertuning.data.tuning_files import TuningTask

_SEED = 0


def tasks(count: int, shots: int, queries: int) -> list[TuningTask]:
  """Draws tasks of all kinds that no hypermodel of this package has seen.

  Args:
    count: number of tasks.
    shots: number of examples per task.
    queries: number of test rows per task; a small task has fewer.

  Raises:
    UserError: a library of the extra `knowledge` is not installed.
  """
  rng = np.random.default_rng(_SEED)
  pool = {
    name: as_task(task).rows
    for kind in collection.KINDS
    for name, task in collection.split_tasks(kind, 'validation').items()
  }
  drawn = []
  for name in rng.permutation(sorted(pool))[:count].tolist():
    pairs = [(row.inputs, row.targets) for row in pool[name]]
    rows = [pairs[i] for i in rng.permutation(len(pairs)).tolist()]
    drawn.append(TuningTask(name, rows[:shots], rows[shots : shots + queries]))
  return drawn
