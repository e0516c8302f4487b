"""Tunes the adapters of held-out tasks, each task by itself.

    python -m hypertuning.adapt --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/adapt.gin \\
      --gin.CHECKPOINT_PATH="'run'" --gin.ADAPT_OUTPUT_DIR="'run/adapt'"

Tuning starts from the adapters that the model gives: the phi that a hypermodel
generates from the task's examples, the adapters that gin/models/learned.gin
has learned on a mixture, or random ones. What is tuned are the keys and values
of a prefix, or the factors of LoRA, as parameters of their own (section 6 of
the HyperTuning paper: phi as the initialisation of further tuning). Writes
`curves.jsonl`, `results.jsonl` and the tuned adapters.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.adapt', 'adapt')

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
import tensorflow as tf

from hypertuning import files, gin_effect, locks, saved_config, spread
from hypertuning.adapters import Adapters, io
from hypertuning.data import aggregation, lookup, registry, task_questions
from hypertuning.data.episodes import EpisodeSource
from hypertuning.data.questions import number_of
from hypertuning.engine import (
  batching,
  phi_tuning,
  restarts,
  summaries,
  task_batches,
  train_state,
)
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.evaluation import eval_step, scoring
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Name, Number, Path, Regex

Row = dict[str, Any]
_START, _TUNED = 'start', 'tuned'
_TO_TARGET = ('reached', 'steps_to_target', 'seconds_to_target')


def adapt(
  *,
  model: HyperTuningModel,
  optimizer: optax.GradientTransformation,
  data: TaskData,
  checkpoint_path: Path,
  output_dir: Path,
  total_steps: Count,
  partitioner: Partitioner,
  max_tasks: Count | None = None,
  tuning_rows: Count | None = None,
  test_visits: Count = 4,
  draws: Count = 1,
  eval_period: Count = 10,
  metric: Name = 'accuracy',
  target: Number = 90.0,
  start_adapters: Path | None = None,
  fresh_regex: Regex = '',
  moved_checkpoints: Mapping[Path, Path] | None = None,
) -> list[Row]:
  """Tunes the adapters of every task in a split of each seqio task.

  Args:
    model: the model that the checkpoint was saved from; its hypermodel gives
      the adapters that tuning starts from.
    optimizer: optimizer of the adapters; every task has its own optimizer
      state.
    data: seqio tasks of episodes, and the split whose tasks are tuned: one that
      was not trained on. The batch size is the number of tasks that are tuned
      side by side. A step asks each of them as many queries as the lengths of
      `inputs` have room for. The seed draws random starting weights, the
      order in which the rows of a task are asked, and sampled text.
    checkpoint_path: folder of a run, or one of its checkpoints.
    output_dir: folder that gets the results, once all tasks are tuned.
    total_steps: number of tuning steps per task.
    partitioner: the devices. Only the largest number of them that divides every
      group of tasks is used.
    max_tasks: number of tasks per seqio task; None tunes all.
    tuning_rows: number of rows that a task is tuned on, if it has no pool of
      rows to show; the task is tested on its other rows. None tunes on half of
      the rows.
    test_visits: number of episodes that test each task.
    draws: number of draws of shots whose mean phi is the start of a task.
    eval_period: number of steps between two tests.
    metric: name of the metric that is tested.
    target: value of the metric that a task should reach.
    start_adapters: path of a file of adapters to start from, in place of those
      that the model gives. It holds one adapter for all tasks, or one per task.
    fresh_regex: regex of the variables that start at random if the checkpoint
      does not have them.
    moved_checkpoints: maps folders of checkpoints that hold the frozen parts of
      others to the folders in which they are now, see `engine.frozen_parts`.

  Returns:
    Two rows `{'task', 'phi', 'episodes', 'questions', 'loss', metric, ...}` per
    seqio task, with `phi` = 'start' and 'tuned', and their means over the seqio
    tasks. Standard errors are over tasks. The rows of tuned adapters also have
    `reached` (the share of tasks that reached the target), and the means over
    tasks of `steps_to_target` and `seconds_to_target`. A task that never
    reaches the target counts with its whole tuning.

  Raises:
    UserError: the input is bad; the message names the binding or file at fault.
  """
  folder = files.check_writable(output_dir, 'ADAPT_OUTPUT_DIR')
  restarts.refuse_other_commands(output_dir, 'ADAPT_OUTPUT_DIR', 'adapt')
  if not model.has_hypermodel:
    raise UserError(
      'adapt tunes adapters, but this model has none: include '
      'gin/models/hyper_t5_prefix.gin or hyper_t5_lora.gin, and '
      'gin/models/learned.gin for adapters that are not generated.'
    )
  data.check(model)
  at_once = data.batch_size
  tasks = []
  for task in lookup.members(data.required_name):
    source = _source(task, data.split)
    tasks.append((task, source, source.names(data.split)[:max_tasks]))
  partitioner = _divide_devices(
    partitioner, [len(names) for _, _, names in tasks], at_once
  )
  params, frozen = train_state.restore_variables(
    model,
    data.shapes(model),
    partitioner,
    checkpoint_path,
    fresh_regex,
    data.seed,
    moved_checkpoints,
  )
  tuner = phi_tuning.Tuner(model, optimizer, params, frozen, partitioner)
  curves: list[Row] = []
  results: list[Row] = []
  tuned: dict[str, tuple[Adapters, list[str]]] = {}
  for task, source, names in tasks:
    task_curves: list[Row] = []
    parts, questions = [], 0
    for first in range(0, len(names), at_once):
      group = names[first : first + at_once]
      episodes = source.for_tuning(
        data.split,
        tuning_rows,
        data.queries,
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
      questions += number_of(group_data.targets)
      start = tuner.start(group_data.start, draws)
      if start_adapters:
        start = phi_tuning.read_start(start_adapters, start, first, names)
      test = _Test(task, group_data, group, metric, data.seed)
      label = f'{task.name}, {len(group)} tasks'
      for step, seconds, phi in tuner.tune(
        start, group_data.train, total_steps, eval_period, label
      ):
        for name, (loss, metric_value) in zip(
          group, test(tuner.answer, phi), strict=True
        ):
          scoring.check_loss(name, step, loss)
          row = {'task': name, 'step': step, 'seconds': seconds, 'loss': loss}
          task_curves.append({**row, metric: metric_value})
        gin_effect.check_overridden()
      parts.append(jax.device_get(phi))
    whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    tuned[task.name] = whole, names
    curves += task_curves
    sizes = {'episodes': len(names) * test_visits, 'questions': questions}
    results += summarize(task.name, task_curves, sizes, metric, target)
  results += aggregation.averages(results)
  with locks.folder_lock(output_dir, 'ADAPT_OUTPUT_DIR', wait=True):
    files.remove(output_dir, 'results.jsonl')
    saved_config.save(output_dir, 'adapt')
    for name, (whole, names) in tuned.items():
      file = folder / f'{name}.safetensors'
      io.save(whole, file, model=str(checkpoint_path), config={'tasks': names})
    summaries.write_jsonl(output_dir, 'curves', curves)
    summaries.write_jsonl(output_dir, 'results', results)
  columns = ('task', 'phi', 'episodes', 'questions', 'loss', metric)
  print(scoring.table(results, (*columns, *_TO_TARGET)))
  return results


def summarize(
  name: str,
  curves: Sequence[Row],
  sizes: Mapping[str, int],
  metric: str,
  target: float,
) -> list[Row]:
  """The two rows of a seqio task, see `adapt`.

  Args:
    name: name of the seqio task.
    curves: rows `{'task', 'step', 'seconds', 'loss', metric}`, by step.
    sizes: maps 'episodes' and 'questions' to the total numbers of the tests.
    metric: name of the metric that is tested.
    target: value of the metric that a task should reach.
  """
  tasks = list(dict.fromkeys(row['task'] for row in curves))
  curve = {
    task: [row for row in curves if row['task'] == task] for task in tasks
  }
  rows: list[Row] = []
  for phi, place in ((_START, 0), (_TUNED, -1)):
    values = [curve[task][place][metric] for task in tasks]
    losses = [curve[task][place]['loss'] for task in tasks]
    row: Row = {'task': name, 'phi': phi, **sizes}
    row |= {'loss': float(np.mean(losses)), metric: float(np.mean(values))}
    if len(tasks) > 1:
      row[f'{metric}_stderr'] = spread.standard_error(values)
    rows.append(row)
  is_reached, first = [], []
  for task in tasks:
    at_target = [row for row in curve[task] if row[metric] >= target]
    is_reached.append(bool(at_target))
    first.append((at_target or curve[task][-1:])[0])
  rows[-1] |= {
    'target': target,
    'reached': float(np.mean(is_reached)),
    'steps_to_target': float(np.mean([row['step'] for row in first])),
    'seconds_to_target': float(np.mean([row['seconds'] for row in first])),
  }
  return rows


@dataclasses.dataclass(frozen=True)
class _Data:
  """Batches of a group; row `n` in `train` and `test` belongs to task `n`.

  Attributes:
    start: one batch of `tasks x draws` rows, whose examples give the first phi.
    train: endless batches that the tasks are tuned on.
    test: batches that the tasks are tested on.
    targets: the postprocessed targets of every episode in `test`.
  """

  start: Mapping[str, jax.Array]
  train: batching.TrainBatches
  test: Sequence[Mapping[str, jax.Array]]
  targets: Sequence[Any]


def _source(task: seqio.Task, split: str) -> EpisodeSource:
  """The source of the episodes; refuses a seqio task that cannot be tuned."""
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


def _divide_devices(
  partitioner: Partitioner, counts: Sequence[int], at_once: int
) -> Partitioner:
  """A partitioner over the most devices that divide every group of tasks.

  Args:
    partitioner: a partitioner over all devices.
    counts: number of tasks in each seqio task.
    at_once: number of tasks per group; the last group of a seqio task may have
      fewer.
  """
  devices = partitioner.mesh.devices
  sizes = [
    x for count in counts for x in (min(count, at_once), count % at_once)
  ]
  num_devices = math.gcd(len(devices), *sizes)
  return dataclasses.replace(
    partitioner, devices=tuple(devices[:num_devices].flat)
  )


def _data(
  model: HyperTuningModel,
  name: str,
  lengths: Mapping[str, Any],
  tasks: int,
  draws: int,
  seed: int,
  partitioner: Partitioner,
) -> _Data:
  """Batches of a group of tasks; `name` has the source of `for_tuning`."""

  def batches(
    episodes: tf.data.Dataset, size: int, repeat: bool = False
  ) -> tf.data.Dataset:
    return task_batches.to_batches(model, episodes, lengths, size, repeat)

  def on_devices(episodes: tf.data.Dataset, size: int) -> list[dict]:
    return list(batching.on_devices(batches(episodes, size), partitioner.batch))

  def open_at(first: int) -> tf.data.Dataset:
    train = lookup.episodes(name, lengths, 'train', seed, first=first)
    return batches(train, tasks, repeat=True)

  held_out = lookup.episodes(name, lengths, 'validation')
  test_episodes = held_out.shard(draws, 0)  # the first draw of every visit
  test = on_devices(test_episodes, tasks)
  questions = task_questions.questions_of(
    lookup.get_task(name), test_episodes, lengths['targets'][0]
  )
  for line in questions.notes():
    print(line, file=sys.stderr)
  return _Data(
    on_devices(held_out.take(tasks * draws), tasks * draws)[0],
    batching.TrainBatches(open_at, tasks, partitioner.batch),
    test,
    questions.targets,
  )


class _Test:
  """Measures the loss and the metric of every task, with any adapters."""

  def __init__(
    self,
    task: seqio.Task,
    data: _Data,
    names: Sequence[str],
    metric: str,
    seed: int,
  ) -> None:
    self._task, self._data = task, data
    self._tasks, self._metric = len(names), metric
    # One key per task and visit: the draws depend neither on the group in which
    # a task is tuned nor on the step that is tested.
    keys = [
      eval_step.episode_keys(seed, name, 0, len(data.test)) for name in names
    ]
    self._keys = jnp.stack(keys, axis=1)

  def __call__(self, answer: Any, phi: Adapters) -> list[tuple[float, float]]:
    outputs = eval_step.collect(
      lambda batch, first: answer(phi, batch, self._keys[first // self._tasks]),
      self._data.test,
    )
    counts = (outputs['tokens'] > 0).sum(axis=1)
    texts = scoring.by_episode(outputs['text'], counts)
    answers = scoring.texts_of(
      lookup.format_of(self._task), self._task.postprocessor, texts
    )
    fns = self._task.predict_metric_fns
    results = []
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
      results.append((loss, values[self._metric]))
    return results
