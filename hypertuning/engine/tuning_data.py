"""What `hypertuning.adapt` reads, wherever the tasks come from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from hypertuning.data.text_format import TextFormat
from hypertuning.engine import batching
from hypertuning.engine.partitioning import Partitioner
from hypertuning.evaluation.evaluations import MetricFns


@dataclasses.dataclass(frozen=True)
class Group:
  """Batches of tasks that are tuned side by side.

  Row `n` in `train` and `test` belongs to task `n`.

  Attributes:
    start: one batch of `tasks x draws` rows, whose examples give the first phi.
    train: endless batches that the tasks are tuned on.
    test: batches that the tasks are tested on.
    targets: postprocessed targets of every episode in `test`. Those of an
      episode that only fills up a batch are empty.
    notes: sentences about what the model cannot see.
  """

  start: Mapping[str, jax.Array]
  train: batching.TrainBatches
  test: Sequence[Mapping[str, jax.Array]]
  targets: Sequence[Any]
  notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Family:
  """Tasks whose results are averaged: those of a seqio task, or of a file.

  Attributes:
    name: name of the seqio task, or of the file.
    tasks: names of the tasks.
    open_group: function that opens the data of some of the tasks, given their
      names and the devices.
    text_format: format that the model's answers are read in.
    postprocess: seqio's postprocessor, see `scoring.texts_of`.
    metric_fns: functions from targets and texts to named numbers.
  """

  name: str
  tasks: Sequence[str]
  open_group: Callable[[Sequence[str], Partitioner], Group]
  text_format: TextFormat
  postprocess: Callable[..., Any] | None
  metric_fns: MetricFns
