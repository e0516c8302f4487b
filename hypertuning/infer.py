"""Answers queries with a checkpoint, given examples of each task.

    python -m hypertuning.infer --phi=phi.safetensors --query=fast

answers with an adapter, and needs no gin file: see `shell.infer`. With gin
files:

    python -m hypertuning.infer --gin_file=gin/models/hyper_t5_prefix.gin \\
      --gin_file=... --gin_file=gin/local/infer.gin \\
      --gin.CHECKPOINT_PATH="'run'" --gin.INFER_INPUT="'tasks.jsonl'" \\
      --gin.INFER_OUTPUT_DIR="'answers'"

Every line of the input file is one task: `{"examples": [{"inputs": "...",
"targets": "..."}, ...], "queries": ["...", ...]}`, with a "definition" if the
task has one. A model without a hypermodel reads the examples in its own input.
Instead of a file, a seqio task can be read. Writes `predictions.jsonl`, with
one line per query, and on request the generated adapters.
"""

if __name__ == '__main__':
  from hypertuning import command_line, gin_utils

  command_line.run_without_gin('hypertuning.shell.infer')
  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.infer', 'infer')

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from hypertuning import adapters as adapters_lib
from hypertuning import files, gin_effect, locks, saved_config
from hypertuning.adapters import io
from hypertuning.data import layout, request_files
from hypertuning.data import lengths as lengths_lib
from hypertuning.engine import (
  batching,
  restarts,
  summaries,
  train_state,
)
from hypertuning.engine.partitioning import Partitioner
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.evaluation import eval_step
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Path


@dataclasses.dataclass(frozen=True)
class _Part:
  """A batch, and the episodes that its real rows hold.

  Attributes:
    batch: model features; a real row holds an episode, the other rows fill up
      the batch.
    names: number of each real row's task, which is its line in the file, or the
      number of its episode in the seqio task.
    queries: texts of the queries in each real row.
  """

  batch: Mapping[str, jax.Array]
  names: list[int]
  queries: list[list[str]]


def infer(
  *,
  model: HyperTuningModel,
  data: TaskData,
  checkpoint_path: Path,
  output_dir: Path,
  partitioner: Partitioner,
  input_path: Path | None = None,
  num_batches: Count | None = None,
  save_adapters: bool = False,
  moved_checkpoints: Mapping[Path, Path] | None = None,
) -> list[dict[str, Any]]:
  """Answers every query of a file or of a seqio task.

  Args:
    model: the model that the checkpoint was saved from.
    data: the lengths and the batch size, and the seqio task that is read if
      there is no file. Its seed also seeds sampled decoding.
    checkpoint_path: folder of a run, or one of its checkpoints.
    output_dir: folder that gets the answers, once all queries are answered.
    partitioner: the devices, and how the model and the batches are divided over
      them.
    input_path: a JSONL file, in the form that the module's docstring gives.
    num_batches: number of batches of the seqio task; None reads the whole
      split.
    save_adapters: whether to write `adapters.safetensors` as well, with the phi
      of all episodes in the order of the input.
    moved_checkpoints: maps folders of checkpoints that hold the frozen parts of
      others to the folders in which they are now, see `engine.frozen_parts`.

  Returns:
    One row `{'episode', 'query', 'prediction', 'score'}` per query. `episode`
    is the task's line in the file, or the episode's number in the seqio task.
    `score` is the number that the decode function gives, a log-probability for
    greedy decoding.

  Raises:
    UserError: the input is bad; the message names the binding, file or line at
      fault.
  """
  folder = files.check_writable(output_dir, 'INFER_OUTPUT_DIR')
  restarts.refuse_other_commands(output_dir, 'INFER_OUTPUT_DIR', 'infer')
  partitioner.check_batch(data.batch_size)
  batching.check_vocabulary(model)
  batching.check_positions(model, data.lengths)
  if save_adapters and not model.has_hypermodel:
    raise UserError('SAVE_ADAPTERS = True: this model generates no adapters.')
  if input_path:
    parts: Iterable[_Part] = _from_file(
      model, input_path, data.lengths, data.batch_size, partitioner
    )
  elif data.name:
    data.check(model)
    parts = _from_task(
      model,
      batching.on_devices(data.batches(model), partitioner.batch, num_batches),
    )
  else:
    raise UserError('Bind INFER_INPUT (a JSONL file) or MIXTURE_OR_TASK_NAME.')
  params, frozen = train_state.restore_variables(
    model,
    data.shapes(model),
    partitioner,
    checkpoint_path,
    moved=moved_checkpoints,
  )
  step_fn = partitioner.compile(_make_step(model, save_adapters), decodes=True)

  rows: list[dict[str, Any]] = []
  phis: dict[int, Any] = {}
  progress = summaries.Progress(None, label='answering')
  for number, part in enumerate(parts):
    # With one key per episode, the draws do not depend on the batch size.
    keys = eval_step.episode_keys(
      data.seed, data.name or '', number * data.batch_size, data.batch_size
    )
    phi, tokens, scores = jax.device_get(
      step_fn(params, frozen, part.batch, keys)
    )
    gin_effect.check_overridden()
    for i, name in enumerate(part.names):
      if save_adapters:
        phis.setdefault(name, jax.tree.map(lambda x, i=i: x[i], phi))
      for j, query in enumerate(part.queries[i]):
        if np.isnan(scores[i, j]):
          raise UserError(
            f'CHECKPOINT_PATH = {checkpoint_path!r}: the score of the query '
            f'{query[:40]!r} is nan; use another checkpoint.'
          )
        rows.append(
          {
            'episode': name,
            'query': query,
            'prediction': model.text_format.answer(tokens[i, j]),
            'score': float(scores[i, j]),
          }
        )
    progress.update(answers=len(rows))
  progress.close()
  with locks.folder_lock(output_dir, 'INFER_OUTPUT_DIR', wait=True):
    # The adapters of an earlier command belong to other answers.
    for file in ('predictions.jsonl', 'adapters.safetensors'):
      files.remove(output_dir, file)
    saved_config.save(output_dir, 'infer')
    if save_adapters:
      io.save(
        jax.tree.map(lambda *leaves: np.stack(leaves), *phis.values()),
        folder / 'adapters.safetensors',
        model=str(checkpoint_path),
        config={'episodes': list(phis)},
      )
    summaries.write_jsonl(output_dir, 'predictions', rows)
  print(f'{len(rows)} answers in {folder}/predictions.jsonl')
  return rows


def _make_step(model: HyperTuningModel, returns_phi: bool) -> Any:
  """Makes the function that answers a batch.

  Args:
    model: the model that answers.
    returns_phi: whether the function returns phi; the model needs a hypermodel.

  Returns:
    A function `(params, frozen, batch, keys) -> (phi, tokens, scores)`. `keys`
    are random keys `[episodes]`. Phi is generated once per episode, for all of
    its queries. It has one row per episode, even if all episodes share it; it
    is None unless `returns_phi` is set.
  """

  def step(
    params: Any, frozen: Any, batch: Mapping[str, jax.Array], keys: jax.Array
  ) -> tuple[Any, jax.Array, jax.Array]:
    phi = model.generate_adapters(params, batch, {'frozen': frozen})
    # The targets' scores are not read, so the compiler leaves them out.
    answer = model.answer(params, frozen, batch, phi, keys)
    phi_rows = None
    if returns_phi:
      assert phi is not None
      phi_rows = adapters_lib.expand(phi, len(batch['input_tokens']))
    return phi_rows, answer['text'], answer['text_score']

  return step


def _from_file(
  model: HyperTuningModel,
  path: str,
  lengths: Mapping[str, Any],
  batch_size: int,
  partitioner: Partitioner,
) -> list[_Part]:
  """The tasks of a file in batches.

  The first tasks fill up the last batch; they are not among its real rows.
  """
  lengths_lib.check(lengths, model.is_taught)
  file_requests = request_files.read(path)
  # Without a hypermodel, only the model's own input can hold the examples.
  in_context = not model.has_hypermodel
  requests = list(request_files.divide(file_requests, lengths['inputs'][0]))
  episodes = request_files.episodes(
    requests,
    lengths,
    model.text_format,
    in_context,
    taught=model.is_taught,
  )
  # A request with many queries is divided into several episodes, which all
  # leave out the same examples: these are counted once per line of the file.
  left_out_by_line = {
    request.line: int(episode['left_out'])
    for request, episode in zip(requests, episodes, strict=True)
  }
  if left_out := sum(left_out_by_line.values()):
    feature = 'inputs' if in_context else 'hyper_inputs'
    print(
      f'{left_out} examples do not fit into TASK_FEATURE_LENGTHS'
      f'[{feature!r}] = {lengths[feature]} and are left out.',
      file=sys.stderr,
    )
  batches = batching.in_batches(
    [
      layout.model_features(episode, lengths, model.is_taught)
      for episode in episodes
    ],
    batch_size,
  )
  parts = []
  for number, batch in enumerate(
    batching.on_devices(batches, partitioner.batch)
  ):
    real = requests[number * batch_size : (number + 1) * batch_size]
    parts.append(
      _Part(batch, [r.line for r in real], [list(r.queries) for r in real])
    )
  return parts


def _from_task(
  model: HyperTuningModel, batches: Iterator[Mapping[str, jax.Array]]
) -> Iterator[_Part]:
  """The episodes of a seqio task in batches, numbered from 0."""
  first = 0
  for batch in batches:
    count = int(np.sum(batch['is_real']))
    inputs = np.asarray(batch['input_tokens'])[:count]
    is_asked = np.asarray(batch['target_weights'])[:count].any(axis=-1)
    queries = [
      [_text(row, model.text_format.vocabulary) for row in x[: int(n)]]
      for x, n in zip(inputs, is_asked.sum(axis=-1), strict=True)
    ]
    yield _Part(batch, list(range(first, first + count)), queries)
    first += count


def _text(tokens: np.ndarray, vocabulary: Any) -> str:
  return vocabulary.decode([int(token) for token in tokens if token > 0])
