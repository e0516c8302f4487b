"""Tunes the adapters of held-out tasks, each task by itself.

    python -m hypertuning.adapt --examples=mine.jsonl --output=phi.safetensors

makes the adapter of one task in one forward pass, and needs no gin file: see
`shell.adapt`. With gin files:

    python -m hypertuning.adapt --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/adapt.gin \\
      --gin.CHECKPOINT_PATH="'run'" --gin.ADAPT_OUTPUT_DIR="'run/adapt'"

Tuning starts from the adapters that the model gives: the phi that a hypermodel
generates from the task's examples, the adapters that gin/models/learned.gin
has learned on a mixture, or random ones. What is tuned are the keys and values
of a prefix, or the factors of LoRA, as parameters of their own (section 6 of
the HyperTuning paper: phi as the initialisation of further tuning). Writes
`curves.jsonl`, `results.jsonl` and the tuned adapters.

With ADAPT_INPUT, a JSONL file with one task per line, no seqio task is needed:
`{"examples": [{"inputs": "...", "targets": "..."}, ...], "test": [...]}`.
"""

if __name__ == '__main__':
  from hypertuning import command_line, gin_utils

  command_line.run_without_gin('hypertuning.shell.adapt')
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

from hypertuning import files, gin_effect, locks, saved_config, spread
from hypertuning.adapters import Adapters, io
from hypertuning.data import aggregation
from hypertuning.data import lengths as lengths_lib
from hypertuning.data.questions import number_of
from hypertuning.engine import (
  batching,
  file_tuning,
  phi_tuning,
  restarts,
  summaries,
  train_state,
)
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.engine.tuning_data import Family, Group
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
  input_path: Path | None = None,
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
  """Tunes the adapters of every task in a split of each seqio task, or a file.

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
    input_path: a JSONL file of tasks, see `data.tuning_files`, in place of the
      seqio tasks. All `examples` of a task are tuned on, and all of its `test`
      rows are scored.
    max_tasks: number of tasks per seqio task, or of the file; None tunes all.
    tuning_rows: number of rows that a task is tuned on, if it has no pool of
      rows to show; the task is tested on its other rows. None tunes on half of
      the rows.
    test_visits: number of episodes that test each task of a seqio task.
    draws: number of draws of shots whose mean phi is the start of a task; of a
      file, number of orders of the examples.
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
    seqio task or file, with `phi` = 'start' and 'tuned', and their means over
    the seqio tasks. Standard errors are over tasks. The rows of tuned adapters
    also have `reached` (the share of tasks that reached the target), and the
    means over tasks of `steps_to_target` and `seconds_to_target`. A task that
    never reaches the target counts with its whole tuning.

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
  families = _families(
    model, data, input_path, max_tasks, tuning_rows, test_visits, draws
  )
  at_once = data.batch_size
  partitioner = _divide_devices(
    partitioner, [len(family.tasks) for family in families], at_once
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
  for family in families:
    names = list(family.tasks)
    task_curves: list[Row] = []
    parts, episodes, questions = [], 0, 0
    for first in range(0, len(names), at_once):
      group = names[first : first + at_once]
      group_data = family.open_group(group, partitioner)
      for line in group_data.notes:
        print(line, file=sys.stderr)
      episodes += sum(map(bool, group_data.targets))
      questions += number_of(group_data.targets)
      start = tuner.start(group_data.start, draws)
      if start_adapters:
        start = phi_tuning.read_start(start_adapters, start, first, names)
      test = _Test(family, group_data, group, metric, data.seed)
      label = f'{family.name}, {len(group)} tasks'
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
    tuned[family.name] = whole, names
    curves += task_curves
    sizes = {'episodes': episodes, 'questions': questions}
    results += summarize(family.name, task_curves, sizes, metric, target)
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


def _families(
  model: HyperTuningModel,
  data: TaskData,
  input_path: str | None,
  max_tasks: int | None,
  tuning_rows: int | None,
  test_visits: int,
  draws: int,
) -> list[Family]:
  """The tasks that are tuned on, from a file or from seqio, see `adapt`."""
  if input_path is None and data.name is None:
    raise UserError('Bind ADAPT_INPUT (a JSONL file) or MIXTURE_OR_TASK_NAME.')
  if input_path is None:
    # Imports seqio and TensorFlow, which a file does not need.
    from hypertuning.engine import seqio_tuning

    data.check(model)
    return seqio_tuning.families(
      model, data, max_tasks, tuning_rows, test_visits, draws
    )
  if tuning_rows is not None:
    raise UserError(
      f'TUNING_ROWS = {tuning_rows}: tasks of ADAPT_INPUT are tuned on all of '
      'their "examples"; leave it out.'
    )
  lengths_lib.check(data.lengths, model.is_taught)
  batching.check_vocabulary(model)
  batching.check_positions(model, data.lengths)
  return [
    file_tuning.family(
      model, input_path, data.lengths, max_tasks, draws, data.seed
    )
  ]


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


class _Test:
  """Measures the loss and the metric of every task, with any adapters."""

  def __init__(
    self,
    family: Family,
    data: Group,
    names: Sequence[str],
    metric: str,
    seed: int,
  ) -> None:
    self._family, self._data = family, data
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
    family, targets = self._family, self._data.targets
    answers = scoring.texts_of(
      family.text_format,
      family.postprocess,
      scoring.by_episode(outputs['text'], counts),
    )
    results = []
    for n in range(self._tasks):
      # Without the episodes that only fill up a batch.
      mine = [i for i in range(n, len(targets), self._tasks) if targets[i]]
      values = scoring.measure(
        family.metric_fns,
        [targets[i] for i in mine],
        [answers[i] for i in mine],
        [],
      )
      if self._metric not in values:
        raise UserError(
          f'METRIC = {self._metric!r}: {family.name} has '
          f'{", ".join(k for k in values if not k.endswith("_stderr"))}.'
        )
      tokens = outputs['tokens'][mine].sum()
      loss = -float(outputs['score'][mine].sum() / max(tokens, 1))
      results.append((loss, values[self._metric]))
    return results
