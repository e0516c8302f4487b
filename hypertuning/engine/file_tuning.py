"""Tasks of a file, as `hypertuning.adapt` tunes adapters on them.

Nothing here needs TensorFlow or seqio.
"""

import dataclasses
import functools
import itertools
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hypertuning.data import layout, metrics, tuning_files
from hypertuning.data.layout import Texts
from hypertuning.data.lengths import Lengths
from hypertuning.data.questions import Questions
from hypertuning.data.task_lines import Example
from hypertuning.data.tuning_files import TuningTask
from hypertuning.engine import batching
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.tuning_data import Family, Group
from hypertuning.models import HyperTuningModel

_Features = dict[str, np.ndarray]
# Features of an episode that the model does not read.
_COUNTS = ('target_sizes', 'left_out')
# Which random numbers of a task: the orders of its examples, or its queries.
_ORDERS, _QUERIES = 0, 1


def family(
  model: HyperTuningModel,
  path: str,
  lengths: Lengths,
  max_tasks: int | None,
  draws: int,
  seed: int,
) -> Family:
  """The tasks of a file.

  Args:
    model: the model whose adapters are tuned.
    path: a file that `tuning_files` reads.
    lengths: value of TASK_FEATURE_LENGTHS, checked.
    max_tasks: number of tasks; None takes all.
    draws: number of orders of the examples whose mean phi is the start of a
      task. The first one is that of the file.
    seed: seed of the orders and of the queries.

  Raises:
    UserError: see `tuning_files.read`.
  """
  tasks = {task.name: task for task in tuning_files.read(path)[:max_tasks]}
  name = pathlib.PurePath(path).name.split('.')[0]
  return Family(
    name,
    list(tasks),
    functools.partial(_open_group, model, name, tasks, lengths, draws, seed),
    model.text_format,
    metrics.texts,
    (metrics.exact_match,),
  )


def _open_group(
  model: HyperTuningModel,
  name: str,
  tasks: Mapping[str, TuningTask],
  lengths: Lengths,
  draws: int,
  seed: int,
  names: Sequence[str],
  partitioner: Partitioner,
) -> Group:
  """The data of some tasks of a file, see `family`."""
  group = [tasks[task] for task in names]
  queries = lengths['inputs'][0]

  def features(episode: Texts) -> _Features:
    laid_out = layout.task_features(
      episode, lengths, model.text_format, taught=model.is_taught
    )
    found = layout.model_features(laid_out, lengths, model.is_taught)
    return found | {name: laid_out[name] for name in _COUNTS}

  def open_at(first: int) -> Iterator[_Features]:
    for visit in itertools.count(first // len(group)):
      yield _batch(
        [features(_training(task, queries, seed, visit)) for task in group]
      )

  start = _batch(
    [
      features(dataclasses.replace(_tests(task, queries)[0], shots=shots))
      for task in group
      for shots in _orders(task, draws, seed)
    ]
  )
  test: list[_Features] = []
  questions = Questions(name, [], [], [], [], [], [])
  left_out = 0
  tests = [_tests(task, queries) for task in group]
  for visit in range(max(map(len, tests))):
    rows = []
    for own, task in zip(tests, names, strict=True):
      is_asked = visit < len(own)
      # A task with fewer rows fills up its batches with its first episode.
      episode = own[visit] if is_asked else own[0]
      row = features(episode)
      rows.append(row if is_asked else _without_targets(row))
      cut = (row['target_sizes'] > lengths['targets'][1]).sum()
      answers = list(episode.targets) if is_asked else []
      questions.targets.append(metrics.texts(answers, is_target=True))
      questions.counts.append(len(answers))
      questions.queries.append(len(answers))
      questions.draws.append(0)
      questions.sources.append(task)
      questions.cut.append(int(cut) if is_asked else 0)
      left_out += 0 if visit else int(row['left_out'])
    batch = _batch(rows)
    test.append(batch | {'is_real': np.ones(len(group), np.int32)})
  notes = questions.notes()
  if left_out:
    notes.append(
      f'{left_out} examples do not fit into TASK_FEATURE_LENGTHS'
      f"['hyper_inputs'] = {lengths['hyper_inputs']} and are not in the first "
      'phi.'
    )
  return Group(
    batching.put(start, partitioner.batch),
    batching.TrainBatches(open_at, len(group), partitioner.batch),
    list(batching.on_devices(test, partitioner.batch)),
    questions.targets,
    notes,
  )


def _tests(task: TuningTask, queries: int) -> list[Texts]:
  """The episodes that test a task: all its rows, `queries` of them at a time.

  All examples are shown, in the order of the file.
  """
  parts = [
    task.test[first : first + queries]
    for first in range(0, len(task.test), queries)
  ]
  return [_texts(task, task.examples, part) for part in parts]


def _training(task: TuningTask, queries: int, seed: int, visit: int) -> Texts:
  """One episode that a task is tuned on: some examples ask, others are shown.

  No example is shown that has the input of a query.
  """
  count = len(task.examples)
  order = _random(task, _QUERIES, seed, visit).permutation(count)
  chosen = [task.examples[i] for i in order[:queries]]
  inputs = {inputs for inputs, _ in chosen}
  shots = [pair for pair in task.examples if pair[0] not in inputs]
  return _texts(task, shots, chosen)


def _orders(
  task: TuningTask, draws: int, seed: int
) -> Iterator[Sequence[Example]]:
  """The examples of a task in some orders; the first is that of the file."""
  yield task.examples
  for draw in range(1, draws):
    order = _random(task, _ORDERS, seed, draw).permutation(len(task.examples))
    yield [task.examples[i] for i in order]


def _random(
  task: TuningTask, kind: int, seed: int, number: int
) -> np.random.Generator:
  """Random numbers that depend on a task by its name, not on its group."""
  key = zlib.crc32(task.name.encode())
  return np.random.default_rng([seed, key, kind, number])


def _texts(
  task: TuningTask, shots: Sequence[Example], queries: Sequence[Example]
) -> Texts:
  inputs, targets = zip(*queries, strict=True)
  return Texts(shots, inputs, targets, task.definition)


def _without_targets(features: _Features) -> _Features:
  """The features of an episode of which nothing is asked."""
  targets = ('target_tokens', 'target_weights')
  return {
    name: np.zeros_like(x) if name in targets else x
    for name, x in features.items()
  }


def _batch(rows: Sequence[_Features]) -> _Features:
  """The model features of a batch, `[rows, ...]`."""
  names = rows[0].keys() - set(_COUNTS)
  return {name: np.stack([row[name] for row in rows]) for name in names}
