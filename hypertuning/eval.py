"""Evaluates a checkpoint on held-out tasks.

    python -m hypertuning.eval --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/eval.gin \\
      --gin.CHECKPOINT_PATH="'run'" --gin.EVAL_OUTPUT_DIR="'run/eval'"

Measures the loss and the metrics of every task in a mixture, once per phi mode:
with the generated phi, with the phi of another episode (which is another task's
where the tasks of the split come in turn), and with no phi. On request there
are two more modes: the mean phi over several draws of shots, and noise. Writes
`results.jsonl` and `predictions.jsonl`.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.eval', 'evaluate')

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning import gin_utils, tables
from hypertuning.data import aggregation, lookup
from hypertuning.engine import batching, summaries, train_state
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.evaluation import eval_step, scoring, statistics
from hypertuning.evaluation.phi_modes import (
  OTHER,
  check_modes,
  default_modes,
  neighbors,
)
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Names, Path

Row = dict[str, Any]


def evaluate(
  *,
  model: HyperTuningModel,
  data: TaskData,
  checkpoint_path: Path,
  output_dir: Path,
  partitioner: Partitioner,
  num_batches: Count | None = None,
  phi_modes: Names | None = None,
  draws: Count = 1,
  aggregate: Callable[[Sequence[Row]], list[Row]] | None = None,
) -> list[Row]:
  """Evaluates every task of a mixture.

  Args:
    model: the model that the checkpoint was saved from.
    data: the episodes, from a split whose tasks were not trained on. Its seed
      also seeds sampled decoding.
    checkpoint_path: folder of a run, or one of its checkpoints.
    output_dir: folder that gets the results, once all tasks are evaluated.
    partitioner: the devices, and how the model and the batches are divided over
      them.
    num_batches: number of batches per task; None evaluates the whole split.
    phi_modes: any of 'generated', 'other', 'none', 'averaged' and 'random', see
      `evaluation.phi_modes`. None takes the first three with a hypermodel, and
      'none' alone without one. A task gets no row for 'other' if one of its
      episodes would get the phi of its own task.
    draws: number of consecutive episodes that ask the same queries with
      different shots; 'averaged' takes the mean of their phi.
    aggregate: function from the rows of all tasks to further rows, such as the
      averages that a benchmark reports. None adds the mean over the tasks of
      the mixture.

  Returns:
    One row `{'task', 'phi', 'episodes', 'loss', 'loss_stderr', 'gap', metric,
    metric_stderr, ...}` per task and phi mode, then the rows of `aggregate`.
    Standard errors (`..._stderr`) are over episodes. With several draws of
    shots, `..._std` is the standard deviation of a metric over the draws.

  Raises:
    UserError: the input is bad; the message names the binding or file at fault.
  """
  batch_size = data.batch_size
  partitioner.check_batch(batch_size)
  modes = phi_modes or default_modes(model)
  check_modes(modes, model)
  if OTHER in modes and batch_size < 2 * draws:
    raise UserError(
      f"BATCH_SIZE = {batch_size} has no other episode for phi mode 'other'."
    )
  if draws < 1 or batch_size % draws:
    raise UserError(
      f'DRAWS = {draws}: give 1 or more, and a BATCH_SIZE ({batch_size}) that '
      'is a multiple of it.'
    )
  data.check(model)
  tasks = lookup.members(data.required_name)
  # All splits are opened before any weight is read, so that a missing split is
  # reported at once.
  datasets = [
    lookup.episodes(
      task.name,
      data.lengths,
      data.split,
      data.seed,
      use_cached=data.use_cached,
    )
    for task in tasks
  ]
  params, frozen = train_state.restore_variables(
    model, data.shapes(model), partitioner, checkpoint_path
  )
  decode = any(task.predict_metric_fns for task in tasks)
  step_fn = partitioner.compile(
    eval_step.make_step(model, modes, decode, draws)
  )
  rng = jax.random.key(data.seed)

  results: list[Row] = []
  predictions: list[Row] = []
  for task, episodes in zip(tasks, datasets, strict=True):
    dataset = batching.to_batches(model, episodes, data.lengths, batch_size)
    batches = batching.on_devices(dataset, partitioner.batch, num_batches)
    outputs = eval_step.collect(
      lambda batch: step_fn(params, frozen, batch, rng),
      _watched(batches, task.name),
    )
    counts = (outputs['tokens'] > 0).sum(axis=1)  # padded queries come last
    targets, numbers, sources = scoring.questions_of(
      task, episodes.take(len(counts)), counts
    )
    _check_draws(task.name, targets, draws)
    others = neighbors(len(counts), batch_size, draws)
    in_turn = all(
      source != sources[other]
      for source, other in zip(sources, others, strict=True)
    )
    summary = statistics.summarize(outputs, draws)
    for mode in modes:
      if mode == OTHER and not in_turn:
        print(f"{task.name}: no row of 'other', tasks do not come in turn.")
        continue
      row = {'task': task.name, 'phi': mode, 'episodes': len(counts)}
      row |= _of_mode(summary, mode)
      scores = scoring.by_episode(outputs[f'score/{mode}'], counts)
      texts = None
      if task.predict_metric_fns:
        texts = scoring.texts_of(
          task, scoring.by_episode(outputs[f'text/{mode}'], counts)
        )
        row |= scoring.measure(
          task.predict_metric_fns, targets, texts, numbers, draws
        )
      row |= scoring.measure(
        task.score_metric_fns, targets, scores, numbers, draws
      )
      results.append(row)
      predictions += _predictions(row, targets, texts, scores)
  results += (aggregate or aggregation.averages)(results)
  summaries.write_jsonl(output_dir, 'predictions', predictions)
  summaries.write_jsonl(output_dir, 'results', results)
  gin_utils.save_config(output_dir)
  print(scoring.table(results))
  return results


def _watched(
  batches: Iterable[Mapping[str, jax.Array]], name: str
) -> Iterator[Mapping[str, jax.Array]]:
  """Yields the batches, and shows how many have been evaluated."""
  progress = summaries.Progress(None, label=f'evaluating {name}')
  for batch in batches:
    yield batch
    progress.update()
  progress.close()


def _of_mode(summary: Mapping[str, float], mode: str) -> dict[str, float]:
  """The loss, the gap and their errors in one mode, without its name."""
  values = {}
  for kind in ('loss', 'gap'):
    for end in ('', *tables.ERRORS):
      if f'{kind}/{mode}{end}' in summary:
        values[f'{kind}{end}'] = summary[f'{kind}/{mode}{end}']
  return values


def _check_draws(name: str, targets: Sequence[Any], draws: int) -> None:
  """Refuses a task whose groups of `draws` episodes ask different queries.

  Raises:
    UserError: names DRAWS and the task.
  """
  questions = [str(target) for target in targets]
  for start in range(0, len(questions), draws):
    group = questions[start : start + draws]
    if len(group) < draws or len(set(group)) > 1:
      raise UserError(
        f'DRAWS = {draws}: {name} does not ask the same in so many episodes in '
        'a row; register it with `draws` of as many.'
      )


def _predictions(
  row: Row,
  targets: Sequence[Any],
  texts: Sequence[Any] | None,
  scores: Sequence[np.ndarray],
) -> list[Row]:
  """One row per query, for `predictions.jsonl`.

  Args:
    row: results of the task in one phi mode.
    targets: postprocessed targets of each episode.
    texts: the model's texts in each episode; None where it only scored.
    scores: per episode, the log-probability of each query's target.
  """
  rows = []
  for episode, (target, score) in enumerate(zip(targets, scores, strict=True)):
    for i, likelihood in enumerate(score):
      rows.append(
        {
          'task': row['task'],
          'phi': row['phi'],
          'episode': episode,
          **_target(target, i),
          'log_likelihood': float(likelihood),
        }
      )
      if texts is not None:
        rows[-1]['prediction'] = texts[episode][i]
  return rows


def _target(target: Any, i: int) -> Row:
  """What a query should say: an answer, or an option that is scored."""
  if not isinstance(target, Mapping):
    answers = target[i]
    if isinstance(answers, str):
      return {'target': answers}
    return {'target': answers[0], 'references': list(answers)}
  return {
    'question': int(target['question'][i]),
    'target': str(target['option'][i]),
    'is_correct': bool(target['is_correct'][i]),
  }
