"""The evaluation of seqio tasks: their episodes, questions and metrics."""

import functools
from collections.abc import Mapping
from typing import Any

from hypertuning.data import lookup, task_questions
from hypertuning.engine import task_batches
from hypertuning.evaluation.evaluations import Evaluation
from hypertuning.models import HyperTuningModel


def of_mixture(
  model: HyperTuningModel,
  name: str,
  lengths: Mapping[str, Any],
  split: str,
  seed: int,
  use_cached: bool,
  batch_size: int,
  num_batches: int | None,
) -> list[Evaluation]:
  """The evaluation of each task of a mixture, sorted by name.

  Args:
    model: the model that is evaluated.
    name: name of a registered task or mixture.
    lengths: value of TASK_FEATURE_LENGTHS.
    split: name of the split.
    seed: seed for drawing.
    use_cached: whether to read the cache that `seqio_cache_tasks` wrote.
    batch_size: number of episodes per batch.
    num_batches: number of batches per task whose questions are read; None reads
      all.

  Raises:
    UserError: there is no such task or split, or a query has no target tokens.
  """
  limit = -1 if num_batches is None else num_batches * batch_size
  tasks = lookup.members(name)
  # All are opened before the first is read: a missing split is reported soon.
  datasets = [
    lookup.episodes(task.name, lengths, split, seed, use_cached=use_cached)
    for task in tasks
  ]
  return [
    Evaluation(
      task.name,
      functools.partial(
        task_batches.to_batches, model, episodes, lengths, batch_size
      ),
      task_questions.questions_of(
        task, episodes.take(limit), lengths['targets'][0]
      ),
      lookup.format_of(task),
      task.postprocessor,
      task.predict_metric_fns,
      task.score_metric_fns,
    )
    for task, episodes in zip(tasks, datasets, strict=True)
  ]
