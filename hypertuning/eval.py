"""Evaluates a checkpoint on held-out tasks.

    python -m hypertuning.eval --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/eval.gin \\
      --gin.CHECKPOINT_PATH="'run'" --gin.EVAL_OUTPUT_DIR="'run/eval'"

For every task of a mixture: loss and metrics with generated phi, with another
task's phi, and with none. Writes `results.jsonl` and `predictions.jsonl`.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.eval', 'evaluate')  # see there why it comes first

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio

from hypertuning import (
  evaluation,
  gin_utils,
  pipelines,
  summaries,
  training,
)
from hypertuning.errors import UserError
from hypertuning.models import HyperTuningModel
from hypertuning.partitioning import Partitioner

Row = dict[str, Any]
AVERAGE = 'average'
_ERRORS = ('_stderr', '_low', '_high')


def evaluate(
  *,
  model: HyperTuningModel,
  mixture_or_task_name: str,
  task_feature_lengths: Mapping[str, Any],
  batch_size: int,
  checkpoint_path: str,
  output_dir: str,
  mixture_or_task_module: str | None = None,
  split: str = 'validation',
  num_batches: int | None = None,
  phi_modes: Sequence[str] | None = None,
  num_partitions: int = 1,
  random_seed: int = 0,
  use_cached: bool = False,
) -> list[Row]:
  """Evaluates every task of a mixture.

  Args:
    model: of the checkpoint.
    mixture_or_task_name: a registered seqio task or mixture of episodes.
    task_feature_lengths: as for training.
    batch_size: episodes a batch.
    checkpoint_path: a run's folder or one of its checkpoints.
    output_dir: where results are written, when all are there.
    mixture_or_task_module: imported first, so that it can register tasks.
    split: a split whose tasks were not trained on.
    num_batches: of every task; None for the whole split.
    phi_modes: some of 'generated', 'other', 'none'; all that the model has if
      None.
    num_partitions: devices over which a model is divided.
    random_seed: of sampled decoding.
    use_cached: read what `seqio_cache_tasks` wrote.

  Returns:
    Rows `{'task', 'phi', 'episodes', 'loss', 'loss_stderr', 'gap', metric,
    metric_stderr, ...}`, standard errors over episodes; for a mixture of
    several tasks also the mean over its tasks, as task 'average'.

  Raises:
    UserError: bad input; names the binding or file at fault.
  """
  partitioner = Partitioner(num_partitions)
  partitioner.check_batch(batch_size)
  modes = phi_modes or evaluation.phi_modes(model)
  evaluation.check_modes(modes, model)
  if evaluation.OTHER in modes and batch_size < 2:
    raise UserError("BATCH_SIZE = 1 has no other episode for phi mode 'other'.")
  pipelines.check_vocabulary(model)
  pipelines.import_tasks(mixture_or_task_module)
  tasks = _members(pipelines.get_task(mixture_or_task_name))
  datasets = [
    pipelines.batches(
      model,
      task.name,
      task_feature_lengths,
      split,
      batch_size,
      random_seed,
      use_cached=use_cached,
    )
    for task in tasks
  ]
  shapes = pipelines.input_shapes(task_feature_lengths, model, batch_size)
  params, frozen = training.restore_variables(
    model, shapes, partitioner, checkpoint_path
  )
  step_fn = partitioner.compile(
    evaluation.make_step(model, modes, any(task.metric_fns for task in tasks))
  )
  rng = jax.random.key(random_seed)

  results: list[Row] = []
  predictions: list[Row] = []
  for task, dataset in zip(tasks, datasets, strict=True):
    batches = pipelines.on_devices(dataset, partitioner.batch, num_batches)
    targets: list[np.ndarray] = []
    outputs = evaluation.collect(
      lambda batch: step_fn(params, frozen, batch, rng),
      _watched(batches, task.name, targets),
    )
    asked = outputs['tokens'] > 0  # a query of padding is none
    tokens = np.concatenate(targets)[: len(asked)]
    texts = _texts(task, tokens[asked], model.output_vocabulary, True)
    summary = evaluation.summarize(outputs)
    for mode in modes:
      row = {'task': task.name, 'phi': mode, 'episodes': len(asked)}
      row |= _of_mode(summary, mode)
      texts_said = None
      if task.metric_fns:
        said = outputs[f'text/{mode}'][asked]
        texts_said = _texts(task, said, model.output_vocabulary, False)
        row |= _metrics(task, texts, texts_said, asked)
      results.append(row)
      predictions += _predictions(
        row, texts, texts_said, outputs[f'score/{mode}'][asked], asked
      )
  results += averages(results)
  summaries.write_jsonl(output_dir, 'predictions', predictions)
  summaries.write_jsonl(output_dir, 'results', results)
  gin_utils.save_config(output_dir)
  print(table(results))
  return results


def averages(results: Sequence[Row]) -> list[Row]:
  """The mean over tasks (each counts the same) for every phi mode."""
  modes = dict.fromkeys(row['phi'] for row in results)
  averaged = []
  for mode in modes:
    rows = [row for row in results if row['phi'] == mode]
    if len(rows) < 2:
      continue
    mean: Row = {'task': AVERAGE, 'phi': mode}
    mean['episodes'] = sum(row['episodes'] for row in rows)
    names = [k for k in rows[0] if isinstance(rows[0][k], float)]
    for name in names:
      if name.endswith(_ERRORS[1:]) or any(name not in r for r in rows):
        continue
      values = np.array([row[name] for row in rows])
      if name.endswith('_stderr'):  # tasks are independent
        mean[name] = float(np.sqrt(np.sum(np.square(values))) / len(rows))
      else:
        mean[name] = float(values.mean())
    averaged.append(mean)
  return averaged


def table(results: Sequence[Row]) -> str:
  """Results as a Markdown table, each number with its standard error."""
  numbers = dict.fromkeys(
    name
    for row in results
    for name, value in row.items()
    if isinstance(value, float) and not name.endswith(_ERRORS)
  )
  columns = ['task', 'phi', 'episodes', *numbers]
  lines = [' | '.join(columns), ' | '.join('---' for _ in columns)]
  for row in results:
    lines.append(' | '.join(_cell(row, name) for name in columns))
  return '\n'.join(f'| {line} |' for line in lines)


def _cell(row: Row, name: str) -> str:
  value = row.get(name)
  if not isinstance(value, float):
    return '' if value is None else str(value)
  return summaries.shown(name, value, row.get(f'{name}_stderr'))


def _members(task: seqio.Task | seqio.Mixture) -> list[seqio.Task]:
  if isinstance(task, seqio.Mixture):
    return sorted(task.tasks, key=lambda member: member.name)
  return [task]


def _watched(
  batches: Iterable[Mapping[str, jax.Array]],
  name: str,
  targets: list[np.ndarray],
) -> Iterator[Mapping[str, jax.Array]]:
  """The batches, with their progress shown and their targets kept."""
  progress = summaries.Progress(None, label=f'evaluating {name}')
  for batch in batches:
    yield batch
    targets.append(np.asarray(batch['decoder_target_tokens']))
    progress.update()
  progress.close()


def _of_mode(summary: Mapping[str, float], mode: str) -> dict[str, float]:
  """`loss`, `gap` and what belongs to them, of one mode."""
  values = {}
  for kind in ('loss', 'gap'):
    for end in ('', *_ERRORS):
      if f'{kind}/{mode}{end}' in summary:
        values[f'{kind}{end}'] = summary[f'{kind}/{mode}{end}']
  return values


def _texts(
  task: seqio.Task, tokens: np.ndarray, vocabulary: Any, is_target: bool
) -> list[Any]:
  """Postprocessed texts of `[queries, length]` tokens."""
  texts = (vocabulary.decode([int(i) for i in row if i > 0]) for row in tokens)
  return [task.postprocess_fn(text, is_target=is_target) for text in texts]


def _metrics(
  task: seqio.Task, targets: list[Any], said: list[Any], asked: np.ndarray
) -> dict[str, float]:
  """The task's metrics, with standard errors over episodes."""
  values: dict[str, float] = {}
  ends = np.cumsum(asked.sum(axis=1))
  spans = [
    slice(start, end)
    for start, end in zip([0, *ends[:-1]], ends, strict=True)
    if end > start
  ]
  for metric_fn in task.metric_fns:
    episodes = [metric_fn(targets[span], said[span]) for span in spans]
    for name, value in metric_fn(targets, said).items():
      values[name] = float(value)
      if len(spans) > 1:
        spread = np.std([episode[name] for episode in episodes], ddof=1)
        values[f'{name}_stderr'] = float(spread / np.sqrt(len(spans)))
  return values


def _predictions(
  row: Row,
  targets: list[Any],
  said: list[Any] | None,
  scores: np.ndarray,
  asked: np.ndarray,
) -> list[Row]:
  """A row a query: what should be said, what was, and how likely it was."""
  rows = []
  for i, episode in enumerate(np.nonzero(asked)[0]):
    rows.append(
      {
        'task': row['task'],
        'phi': row['phi'],
        'episode': int(episode),
        'target': targets[i],
        'log_likelihood': float(scores[i]),
      }
    )
    if said is not None:
      rows[-1]['prediction'] = said[i]
  return rows
