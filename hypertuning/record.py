"""Records the episodes of a task, to train on them without TensorFlow.

    python -m hypertuning.record --gin_file=gin/models/hyper_llama.gin \\
      --gin_file=... --gin_file=gin/local/record.gin \\
      --gin.RECORDING="'recorded'" --gin.RECORD_STEPS=1000

Writes the episodes that `hypertuning.train` would draw with the same model,
task, lengths, batch size and seed, in that order, or each episode of a held-out
split once. `gin/local/train_recorded.gin` trains on them.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.record', 'record')

import itertools

import numpy as np

from hypertuning import files, gin_effect, locks, saved_config
from hypertuning.data import recording
from hypertuning.engine import restarts, summaries
from hypertuning.engine.task_data import TaskData
from hypertuning.errors import UserError
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
      split once, in order, as an evaluation reads them.

  Returns:
    The header of the recording.

  Raises:
    UserError: the input is bad, or the folder has a recording already.
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
  endless = num_steps is not None
  batches = data.batches(model, repeat=endless)
  progress = summaries.Progress(num_steps, label=f'recording {data.name}')
  with locks.folder_lock(output_dir, 'RECORDING'):
    recorder = recording.Recorder(output_dir, data.lengths)
    for batch in itertools.islice(batches, num_steps):
      gin_effect.check_overridden()
      arrays = {name: np.asarray(value) for name, value in batch.items()}
      mask = arrays.pop('is_real', np.ones(data.batch_size)).astype(bool)
      for number in np.flatnonzero(mask):
        recorder.add({name: x[number] for name, x in arrays.items()})
      progress.update()
    progress.close()
    saved_config.save(output_dir, 'record')
    header = recorder.close(
      task=data.required_name,
      split=data.split,
      seed=data.seed,
      endless=endless,
      vocabulary=str(model.text_format),
      fingerprint=recording.fingerprint(model.text_format),
    )
  print(
    f'{output_dir}: {header.episodes:,} episodes in {len(header.parts)} parts, '
    f'{sum(files.size(folder / name) for name, *_ in header.parts):,} bytes.'
  )
  return header
