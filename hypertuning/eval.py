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

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypertuning import files, gin_effect, locks, saved_config, tables
from hypertuning.data import aggregation
from hypertuning.data.questions import number_of
from hypertuning.engine import batching, restarts, summaries, train_state
from hypertuning.engine.episode_data import EpisodeData
from hypertuning.engine.partitioning import Partitioner
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
  data: EpisodeData,
  checkpoint_path: Path,
  output_dir: Path,
  partitioner: Partitioner,
  num_batches: Count | None = None,
  phi_modes: Names | None = None,
  draws: Count = 1,
  aggregate: Callable[[Sequence[Row]], list[Row]] | None = None,
  moved_checkpoints: Mapping[Path, Path] | None = None,
) -> list[Row]:
  """Evaluates every task of a mixture.

  Args:
    model: the model that the checkpoint was saved from.
    data: the episodes, from a split whose tasks were not trained on, or a
      recording of them, which has the seed that it was made with. The seed also
      seeds sampled decoding and the noise of the phi mode 'random': an
      episode's random numbers depend on the seed, its task and its number.
    checkpoint_path: folder of a run, or one of its checkpoints.
    output_dir: folder that gets the results, once all tasks are evaluated.
    partitioner: the devices, and how the model and the batches are divided over
      them.
    num_batches: number of batches per task; None evaluates the whole split.
    phi_modes: names of phi modes, which are 'generated', 'other', 'none',
      'averaged' and 'random', see `evaluation.phi_modes`. None takes the first
      three with a hypermodel, and 'none' alone without one. A task gets no row
      for 'other' if one of its episodes would get the phi of its own task.
    draws: number of consecutive episodes that ask the same queries with
      different shots; 'averaged' takes the mean of their phi.
    aggregate: function from the rows of all tasks to further rows, such as the
      averages that a benchmark reports. None adds the mean over the tasks of
      the mixture.
    moved_checkpoints: maps folders of checkpoints that hold the frozen parts of
      others to the folders in which they are now, see `engine.frozen_parts`.

  Returns:
    One row `{'task', 'phi', 'episodes', 'questions', 'loss', 'loss_stderr',
    'gap', metric, metric_stderr, ...}` per task and phi mode, then the rows of
    `aggregate`. `questions` is the number of questions that the other numbers
    are computed from; the options of a question count as one. Standard errors
    (`..._stderr`) are over episodes. With several draws of shots, `..._std` is
    the standard deviation of a metric over the draws.

  Raises:
    UserError: the input is bad; the message names the binding or file at fault.
  """
  files.check_writable(output_dir, 'EVAL_OUTPUT_DIR')
  restarts.refuse_other_commands(output_dir, 'EVAL_OUTPUT_DIR', 'eval')
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
  # All splits are read before any weight, so that a missing split and options
  # that cannot be ranked are reported at once.
  evaluations = data.evaluations(model, num_batches)
  notes = [line for task in evaluations for line in task.questions.notes()]
  for task in evaluations:
    _check_draws(task.name, task.questions.targets, draws)
  params, frozen = train_state.restore_variables(
    model,
    data.shapes(model),
    partitioner,
    checkpoint_path,
    moved=moved_checkpoints,
  )
  for line in notes:
    print(line, file=sys.stderr)
  decode = any(task.predict_metric_fns for task in evaluations)
  step_fn = partitioner.compile(
    eval_step.make_step(model, modes, decode, draws), decodes=decode
  )

  def step(
    name: str, batch: Mapping[str, jax.Array], first: int
  ) -> Mapping[str, jax.Array]:
    keys = eval_step.episode_keys(data.seed, name, first, batch_size)
    return step_fn(params, frozen, batch, keys)

  results: list[Row] = []
  predictions: list[Row] = []
  for task in evaluations:
    batches = batching.on_devices(
      task.open_batches(), partitioner.batch, num_batches
    )
    outputs = eval_step.collect(
      functools.partial(step, task.name),
      _with_progress(batches, task.name),
    )
    questions = task.questions
    targets, counts = questions.targets, questions.counts
    # Padded queries come last in an episode.
    num_answers = (outputs['tokens'] > 0).sum(axis=1)
    if num_answers.tolist() != counts:
      raise UserError(
        f'{task.name}: {sum(counts)} queries were read, but only '
        f'{num_answers.sum()} of them were answered.'
      )
    others = neighbors(len(counts), batch_size, draws)
    in_turn = all(
      source != questions.sources[other]
      for source, other in zip(questions.sources, others, strict=True)
    )
    summary = statistics.summarize(outputs, draws)
    for mode in modes:
      if mode == OTHER and not in_turn:
        print(f"{task.name}: no row of 'other', tasks do not come in turn.")
        continue
      scores = scoring.check_scores(
        f'{task.name}, phi {mode}', outputs[f'score/{mode}'], counts
      )
      row: Row = {
        'task': task.name,
        'phi': mode,
        'episodes': len(counts),
        'questions': number_of(targets),
        **_of_mode(summary, mode),
      }
      texts = None
      if task.predict_metric_fns:
        texts = scoring.texts_of(
          task.text_format,
          task.postprocess,
          scoring.by_episode(outputs[f'text/{mode}'], num_answers),
        )
        row |= scoring.measure(
          task.predict_metric_fns, targets, texts, questions.draws, draws
        )
      row |= scoring.measure(
        task.score_metric_fns, targets, scores, questions.draws, draws
      )
      if row.get('ties'):
        num_ties = round(row['ties'] * row['questions'] / 100)
        print(
          f'{task.name}, phi {mode}: {num_ties} of {row["questions"]} '
          'questions have several likeliest options, and count as right only '
          'if all of these are.',
          file=sys.stderr,
        )
      results.append(row)
      predictions += _predictions(row, targets, texts, scores)
  results += (aggregate or aggregation.averages)(results)
  gin_effect.check_overridden()
  with locks.folder_lock(output_dir, 'EVAL_OUTPUT_DIR', wait=True):
    files.remove(output_dir, 'results.jsonl')
    saved_config.save(output_dir, 'eval')
    summaries.write_jsonl(output_dir, 'predictions', predictions)
    summaries.write_jsonl(output_dir, 'results', results)
  print(scoring.table(results))
  return results


def _with_progress(
  batches: Iterable[Mapping[str, jax.Array]], name: str
) -> Iterator[Mapping[str, jax.Array]]:
  """Yields the batches, and shows how many have been evaluated."""
  progress = summaries.Progress(None, label=f'evaluating {name}')
  for batch in batches:
    yield batch
    gin_effect.check_overridden()
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
    scores: log-probabilities of the targets in each episode, one per query.
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
  """The target of a query: an answer, or an option that is scored."""
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
