"""Records episodes, to train and evaluate on them without TensorFlow.

    python -m hypertuning.record --gin_file=gin/models/hyper_llama.gin \\
      --gin_file=... --gin_file=gin/local/record.gin \\
      --gin.RECORDING="'recorded'" --gin.RECORD_STEPS=1000

Writes the episodes that `hypertuning.train` would draw with the same model,
task, lengths, batch size and seed, in that order; without RECORD_STEPS, each
episode of a held-out split once, with what an evaluation needs.
`gin/local/train_recorded.gin` trains on them, `gin/local/eval_recorded.gin`
evaluates.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.record', 'record')

import itertools
import sys
from collections.abc import Iterable, Sequence

import numpy as np
from etils import epath

from hypertuning import files, gin_effect, locks, saved_config
from hypertuning.data import recorded_questions, recording
from hypertuning.data import recorder as recorder_lib
from hypertuning.engine import batching, restarts, summaries
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
from hypertuning.evaluation.evaluations import Evaluation
from hypertuning.models import HyperTuningModel
from hypertuning.ranges import Count, Path


def record(
  *,
  model: HyperTuningModel,
  data: TaskData,
  output_dir: Path,
  num_steps: Count | None = None,
) -> recording.Header:
  """Records episodes of a task.

  Args:
    model: the model that the episodes are for; only its text format counts, and
      whether it has a teacher.
    data: the episodes.
    output_dir: folder that gets the recording.
    num_steps: number of batches of training; None records each episode of the
      split once, in order, with what an evaluation needs. A mixture is then
      recorded as a whole and task by task, each in a folder of its own.

  Returns:
    The header of the recording.

  Raises:
    UserError: the input is bad, the folder has a recording already, or a task
      cannot be evaluated without seqio.
  """
  folder = files.folder(output_dir, 'RECORDING')
  if (folder / recording.HEADER).exists():
    raise UserError(
      f'RECORDING = {output_dir!r}: has a recording already; name another '
      'folder.'
    )
  files.check_writable(output_dir, 'RECORDING')
  restarts.refuse_other_commands(output_dir, 'RECORDING', 'record')
  data.check(model)
  writer = _Writer(model, data)
  with locks.folder_lock(output_dir, 'RECORDING'):
    if num_steps is not None:
      batches = itertools.islice(data.batches(model, repeat=True), num_steps)
      header = writer.write(folder, batches, num_steps)
    else:
      header = writer.write_split(folder)
    saved_config.save(output_dir, 'record')
  tasks = f' (and {len(header.members)} tasks)' if header.members else ''
  print(
    f'{output_dir}{tasks}: {header.episodes:,} episodes in '
    f'{len(header.parts)} parts, '
    f'{sum(files.size(folder / name) for name, *_ in header.parts):,} bytes.'
  )
  return header


class _Writer:
  """Writes recordings of the same data."""

  def __init__(self, model: HyperTuningModel, data: TaskData) -> None:
    self._model, self._data = model, data

  def write_split(self, folder: epath.Path) -> recording.Header:
    """Records each episode of a split once, with its questions."""
    evaluations = self._data.evaluations(self._model)
    # All are looked at before any is written: each may have a fault.
    questions = [self._questions(task) for task in evaluations]
    for task in evaluations:
      for line in task.questions.notes():
        print(line, file=sys.stderr)
    if [task.name for task in evaluations] == [self._data.name]:
      return self._write_task(folder, evaluations[0], *questions[0])
    for task, (measures, content) in zip(evaluations, questions, strict=True):
      self._write_task(folder / task.name, task, measures, content)
    return self.write(
      folder,
      self._data.batches(self._model),
      members=[task.name for task in evaluations],
    )

  def _questions(self, task: Evaluation) -> tuple[recording.Measures, bytes]:
    """What an evaluation needs, see `recorded_questions.measures`."""
    if task.text_format != self._model.text_format:
      raise UserError(
        f'{task.name}: its answers are in {task.text_format}, but TEXT_FORMAT '
        f'of the model is {self._model.text_format}: register the task with '
        'features.output_features(text_format).'
      )
    return recorded_questions.measures(
      task.questions,
      task.postprocess,
      task.predict_metric_fns,
      task.score_metric_fns,
    )

  def _write_task(
    self,
    folder: epath.Path,
    task: Evaluation,
    measures: recording.Measures,
    content: bytes,
  ) -> recording.Header:
    with files.atomic_file(folder / recorded_questions.FILE) as file:
      file.write_bytes(content)
    return self.write(
      folder, task.open_batches(), name=task.name, measures=measures
    )

  def write(
    self,
    folder: epath.Path,
    batches: Iterable[batching.Batch],
    num_steps: int | None = None,
    name: str | None = None,
    members: Sequence[str] = (),
    measures: recording.Measures | None = None,
  ) -> recording.Header:
    """Writes one recording.

    Args:
      folder: its folder.
      batches: batches of the episodes.
      num_steps: number of batches of training; None for those of a split.
      name: name of the task; None for that of the data.
      members: see `recording.Header`.
      measures: see `recording.Header`.
    """
    data, form = self._data, self._model.text_format
    name = name or data.required_name
    progress = summaries.Progress(num_steps, label=f'recording {name}')
    recorder = recorder_lib.Recorder(str(folder), data.lengths)
    for batch in batches:
      gin_effect.check_overridden()
      arrays = {name: np.asarray(value) for name, value in batch.items()}
      mask = arrays.pop('is_real', np.ones(data.batch_size)).astype(bool)
      for number in np.flatnonzero(mask):
        recorder.add({name: x[number] for name, x in arrays.items()})
      progress.update()
    progress.close()
    return recorder.close(
      task=name,
      split=data.split,
      seed=data.seed,
      endless=num_steps is not None,
      vocabulary=str(form),
      fingerprint=recording.fingerprint(form),
      members=members,
      measures=measures,
    )
