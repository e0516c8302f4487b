"""Recorded episodes as a seqio task, for t5x.

    from hypertuning.tasks import recorded

    MIXTURE_OR_TASK_NAME = @recorded.task()
    recorded.task.train = '/path/to/recording'
    recorded.task.validation = '/path/to/held_out'

`hypertuning.record` writes the recordings. TASK_FEATURE_LENGTHS must be those
that they were recorded with. On this machine, `gin/local/train_recorded.gin`
reads recordings without seqio.
"""

from hypertuning.data import recorded_tasks, vocabularies
from hypertuning.data.text_format import TextFormat
from hypertuning.ranges import Name, Path


def task(
  train: Path,
  validation: Path | None = None,
  name: Name = 'recorded',
  text_format: TextFormat | None = None,
) -> str:
  """Registers one or two recordings as a seqio task.

  Args:
    train: folder with the recording of training.
    validation: folder with the recording of held-out episodes; None for none.
    name: name of the task.
    text_format: format of the model's text; T5's over bytes by default.

  Returns:
    The name.

  Raises:
    UserError: there is no recording, or its text has another format.
  """
  folders = {'train': train}
  if validation is not None:
    folders['validation'] = validation
  form = text_format or vocabularies.byte_format()
  return recorded_tasks.add(name, folders, form, 'recorded.task')
