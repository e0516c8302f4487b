"""Tunes adapters on held-out tasks, each task by itself, from a start.

    python -m hypertuning.adapt --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/adapt.gin \\
      --gin.CHECKPOINT_PATH="'run'" --gin.ADAPT_OUTPUT_DIR="'run/adapt'"

The start is what the model gives: phi that a hypermodel generates from the
task's examples, or the adapters that gin/models/learned.gin learned on a
mixture, or at random. Tuned are the keys and values, or the factors, themselves
(HyperTuning, section 6: phi as initialisation of further tuning). Writes
`curves.jsonl`, `results.jsonl` and the tuned adapters.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.adapt', 'adapt')  # see there why it comes first

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
import seqio
import tensorflow as tf

from hypertuning import gin_utils, spread
from hypertuning.adapters import Adapters, io
from hypertuning.data import aggregation, lookup, registry
from hypertuning.data.episodes import EpisodeSource
from hypertuning.engine import batching, phi_tuning, summaries, train_state
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.evaluation import eval_step, scoring
from hypertuning.models import HyperTuningModel

Row = dict[str, Any]
_START, _TUNED = 'start', 'tuned'
_TO_TARGET = ('reached', 'steps_to_target', 'seconds_to_target')


def adapt(
  *,
  model: HyperTuningModel,
  optimizer: optax.GradientTransformation,
  data: TaskData,
  checkpoint_path: str,
  output_dir: str,
  total_steps: int,
  partitioner: Partitioner,
  max_tasks: int | None = None,
  tuning_rows: int | None = None,
  test_visits: int = 4,
  draws: int = 1,
  eval_period: int = 10,
  metric: str = 'accuracy',
  target: float = 90.0,
  start_adapters: str | None = None,
  fresh_regex: str = '',
) -> list[Row]:
  """Tunes on every task of a split.

  Args:
    model: the model of the checkpoint; its hypermodel says where phi starts.
    optimizer: optimizer of phi; every task has a state of its own.
    data: seqio tasks of episodes, of a split whose tasks were not trained on
      and are now tuned on. A step asks as many queries of every task as its
      lengths give `inputs` room for; its batch size is how many tasks are tuned
      side by side; its seed is that of a random start and of the order in which
      rows are asked.
    checkpoint_path: a run's folder or one of its checkpoints.
    output_dir: where results are written, when all are there.
    total_steps: steps of tuning.
    partitioner: the devices; as many are used as divide every group of tasks.
    max_tasks: tasks per seqio task; None for all.
    tuning_rows: how many rows of a task without a pool to show are to tune on,
      the others are to test on; half of them if None.
    test_visits: episodes that test every task.
    draws: draws of shots whose phi is averaged for the start.
    eval_period: steps between tests.
    metric: what is tested, by name.
    target: value of the metric that is to be reached.
    start_adapters: a file of adapters to start from instead, one for all tasks
      or one per task.
    fresh_regex: names that start at random if the checkpoint lacks them.

  Returns:
    Rows `{'task', 'phi': 'start' or 'tuned', 'episodes', 'loss', metric, ...}`,
    standard errors over tasks, and their mean over seqio tasks; of tuned
    ones also `reached` (share of the tasks that reached the target) and the
    means over tasks of `steps_to_target` and `seconds_to_target`, which for a
    task that does not reach it are those of the whole tuning.

  Raises:
    UserError: bad input; names the binding or file at fault.
  """
  if not model.has_hypermodel:
    raise UserError(
      'adapt tunes adapters, but this model has none: include '
      'gin/models/hyper_t5_prefix.gin or hyper_t5_lora.gin, and '
      'gin/models/learned.gin for adapters that are not generated.'
    )
  for name, value in (
    ('TRAIN_STEPS', total_steps),
    ('EVAL_PERIOD', eval_period),
    ('TASKS_AT_ONCE', data.batch_size),
    ('TEST_VISITS', test_visits),
    ('DRAWS', draws),
    ('MAX_TASKS', max_tasks),
    ('TUNING_ROWS', tuning_rows),
  ):
    if value is not None and value < 1:
      raise UserError(f'{name} = {value}: must be 1 or more.')
  data.check(model)
  at_once = data.batch_size
  tasks = []
  for task in lookup.members(data.required_name):
    source = _source(task, data.split)
    tasks.append((task, source, source.names(data.split)[:max_tasks]))
  partitioner = _dividing(
    partitioner, [len(names) for _, _, names in tasks], at_once
  )
  params, frozen = train_state.restore_variables(
    model,
    data.shapes(model),
    partitioner,
    checkpoint_path,
    fresh_regex,
    data.seed,
  )
  tuner = phi_tuning.Tuner(model, optimizer, params, frozen, partitioner)
  curves: list[Row] = []
  results: list[Row] = []
  tuned: dict[str, tuple[Adapters, list[str]]] = {}
  for task, source, names in tasks:
    found: list[Row] = []
    parts = []
    for first in range(0, len(names), at_once):
      group = names[first : first + at_once]
      episodes = source.for_tuning(
        data.split,
        tuning_rows,
        data.lengths['inputs'][0],
        test_visits,
        draws,
        group,
      )
      group_data = _data(
        model,
        registry.add_copy(f'{task.name}_tuning', task, episodes),
        data.lengths,
        len(group),
        draws,
        data.seed,
        partitioner,
      )
      start = tuner.start(group_data.start, draws)
      if start_adapters:
        start = _from_file(start_adapters, start, first, names)
      test = _Test(task, group_data, len(group), metric)
      label = f'{task.name}, {len(group)} tasks'
      for step, seconds, phi in tuner.tune(
        start, group_data.train, total_steps, eval_period, label
      ):
        for name, (loss, tested) in zip(
          group, test(tuner.answer, phi), strict=True
        ):
          row = {'task': name, 'step': step, 'seconds': seconds, 'loss': loss}
          found.append({**row, metric: tested})
      parts.append(jax.device_get(phi))
    whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    tuned[task.name] = whole, names
    curves += found
    results += summarize(
      task.name, found, len(names) * test_visits, metric, target
    )
  results += aggregation.averages(results)
  for name, (whole, names) in tuned.items():
    io.save(
      whole,
      os.path.join(output_dir, f'{name}.safetensors'),
      model=str(checkpoint_path),
      config={'tasks': names},
    )
  summaries.write_jsonl(output_dir, 'curves', curves)
  summaries.write_jsonl(output_dir, 'results', results)
  gin_utils.save_config(output_dir)
  columns = ('task', 'phi', 'episodes', 'loss', metric, *_TO_TARGET)
  print(scoring.table(results, columns))
  return results


def summarize(
  name: str,
  curves: Sequence[Row],
  episodes: int,
  metric: str,
  target: float,
) -> list[Row]:
  """The rows of a seqio task from the curves of its tasks, see `adapt`."""
  tasks = list(dict.fromkeys(row['task'] for row in curves))
  curve = {
    task: [row for row in curves if row['task'] == task] for task in tasks
  }
  rows: list[Row] = []
  for phi, place in ((_START, 0), (_TUNED, -1)):
    values = [curve[task][place][metric] for task in tasks]
    losses = [curve[task][place]['loss'] for task in tasks]
    row: Row = {'task': name, 'phi': phi, 'episodes': episodes}
    row |= {'loss': float(np.mean(losses)), metric: float(np.mean(values))}
    if len(tasks) > 1:
      row[f'{metric}_stderr'] = spread.standard_error(values)
    rows.append(row)
  reached, first = [], []
  for task in tasks:
    above = [row for row in curve[task] if row[metric] >= target]
    reached.append(bool(above))
    first.append((above or curve[task][-1:])[0])
  rows[-1] |= {
    'target': target,
    'reached': float(np.mean(reached)),
    'steps_to_target': float(np.mean([row['step'] for row in first])),
    'seconds_to_target': float(np.mean([row['seconds'] for row in first])),
  }
  return rows


@dataclasses.dataclass(frozen=True)
class _Data:
  """Batches of a group of tasks, row `n` of a batch being task `n`'s.

  Attributes:
    start: one batch of `tasks x draws` rows, whose examples give phi.
    train: endless batches.
    test: batches with the rows' targets.
    targets: of every episode of `test`, postprocessed.
  """

  start: Mapping[str, jax.Array]
  train: batching.TrainBatches
  test: Sequence[Mapping[str, jax.Array]]
  targets: Sequence[Any]


def _source(task: seqio.Task, split: str) -> EpisodeSource:
  source = task.source
  if not isinstance(source, EpisodeSource) or split not in source.splits:
    raise UserError(
      f'{task.name}: no episodes drawn from rows with a split {split!r}, whose '
      'tasks could be tuned on.'
    )
  if not task.predict_metric_fns:
    raise UserError(
      f'{task.name} scores options, wrong ones too: tune on '
      f'{registry.base_of(task.name)!r}, which says the right one.'
    )
  return source


def _dividing(
  partitioner: Partitioner, counts: Sequence[int], at_once: int
) -> Partitioner:
  """The same over as many devices as divide every group of tasks.

  Args:
    partitioner: over all devices.
    counts: number of tasks per seqio task.
    at_once: tasks per group, the last group of a seqio task having fewer.
  """
  devices = partitioner.mesh.devices
  sizes = [
    x for count in counts for x in (min(count, at_once), count % at_once)
  ]
  used = math.gcd(len(devices), *sizes)
  return dataclasses.replace(partitioner, devices=tuple(devices[:used].flat))


def _data(
  model: HyperTuningModel,
  name: str,
  lengths: Mapping[str, Any],
  tasks: int,
  draws: int,
  seed: int,
  partitioner: Partitioner,
) -> _Data:
  """Batches of a registered task of `EpisodeSource.for_tuning`."""

  def batches(
    drawn: tf.data.Dataset, size: int, repeat: bool = False
  ) -> tf.data.Dataset:
    return batching.to_batches(model, drawn, lengths, size, repeat)

  def on_devices(drawn: tf.data.Dataset, size: int) -> list[dict]:
    return list(batching.on_devices(batches(drawn, size), partitioner.batch))

  def open_at(first: int) -> tf.data.Dataset:
    train = lookup.episodes(name, lengths, 'train', seed, first=first)
    return batches(train, tasks, repeat=True)

  held_out = lookup.episodes(name, lengths, 'validation')
  tested = held_out.shard(draws, 0)  # the first draw of every visit
  test = on_devices(tested, tasks)
  counts = np.concatenate(
    [np.asarray(x['target_weights']).any(-1).sum(-1) for x in test]
  )
  task = lookup.get_task(name)
  first = held_out.take(tasks * draws)
  return _Data(
    on_devices(first, tasks * draws)[0],
    batching.TrainBatches(open_at, tasks, partitioner.batch),
    test,
    scoring.questions_of(task, tested, counts).targets,
  )


class _Test:
  """Loss and metric of every task, with any phi."""

  def __init__(
    self, task: seqio.Task, data: _Data, tasks: int, metric: str
  ) -> None:
    self._task, self._data = task, data
    self._tasks, self._metric = tasks, metric

  def __call__(self, answer: Any, phi: Adapters) -> list[tuple[float, float]]:
    outputs = eval_step.collect(
      lambda batch: answer(phi, batch), self._data.test
    )
    counts = (outputs['tokens'] > 0).sum(axis=1)
    texts = scoring.by_episode(outputs['text'], counts)
    answers = scoring.texts_of(self._task, texts)
    fns = self._task.predict_metric_fns
    found = []
    for n in range(self._tasks):
      mine = slice(n, None, self._tasks)
      values = scoring.measure(fns, self._data.targets[mine], answers[mine], [])
      if self._metric not in values:
        raise UserError(
          f'METRIC = {self._metric!r}: {self._task.name} has '
          f'{", ".join(k for k in values if not k.endswith("_stderr"))}.'
        )
      tokens = outputs['tokens'][mine].sum()
      loss = -float(outputs['score'][mine].sum() / max(tokens, 1))
      found.append((loss, values[self._metric]))
    return found


def _from_file(
  path: str, expected: Adapters, first: int, names: Sequence[str]
) -> Adapters:
  """The adapters of a file for a group of tasks."""
  count = jax.tree.leaves(expected)[0].shape[0]
  header = io.read_header(path)
  rows = next(iter(header.shapes.values()))[0]
  if rows not in (1, len(names)):
    raise UserError(
      f'START_ADAPTERS = {path!r}: {rows} adapters there, but 1 or '
      f'{len(names)} are needed, one per task.'
    )
  tasks = header.config.get('tasks', ['unknown'])
  if rows > 1 and tasks != names:
    raise UserError(
      f'START_ADAPTERS = {path!r}: of other tasks ({tasks[0]!r}, ...) than '
      f'these ({names[0]!r}, ...).'
    )
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), expected
  )
  loaded = io.load(path, expected=shapes)
  # Tuned in float32, whatever they were saved in.
  loaded = jax.tree.map(lambda x, y: np.asarray(x, y.dtype), loaded, shapes)
  if rows == 1:
    return jax.tree.map(lambda x: np.repeat(x, count, axis=0), loaded)
  return jax.tree.map(lambda x: x[first : first + count], loaded)
