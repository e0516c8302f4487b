"""Records and shows the progress of a run: TensorBoard, JSONL, progress bar."""

import importlib.util
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tqdm

from hypertuning import files
from hypertuning.errors import UserError

_METRICS = 'metrics.jsonl'


class Writer:
  """Writes scalars to `metrics.jsonl`, and to TensorBoard events.

  Events are written by TensorFlow, if it is installed.
  """

  def __init__(self, model_dir: str, first_step: int = 0) -> None:
    """Opens both files.

    A run that was killed may have logged steps after its last checkpoint. Their
    lines are dropped from `metrics.jsonl`, as these steps are taken again.

    Args:
      model_dir: folder of the run.
      first_step: step of the checkpoint that the run continues from, or 0.
    """
    self._mirror = files.Mirror(model_dir)
    self._mirror.download(_METRICS)
    self._path = self._mirror.path / _METRICS
    if self._path.exists():
      _drop_after(self._path, first_step)
    self._tensorboard = _event_writer(str(self._mirror.path))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the scalars of one step; TensorBoard sees them after `flush`.

    Args:
      step: number of the step.
      scalars: maps names to values.

    Raises:
      UserError: a file cannot be written.
    """
    scalars = {name: float(value) for name, value in scalars.items()}
    line = json.dumps({'step': step, **scalars}) + '\n'
    try:
      with self._path.open('a', encoding='utf-8') as file:
        file.write(line)
      if self._tensorboard is not None:
        self._tensorboard.write_scalars(step, scalars)
    except Exception as error:  # TensorFlow raises types of its own
      raise self._write_error(error) from error

  def flush(self) -> None:
    """Writes TensorBoard's events, and copies files of a run into its bucket.

    Raises:
      UserError: a file cannot be written.
    """
    try:
      if self._tensorboard is not None:
        self._tensorboard.flush()
    except Exception as error:  # TensorFlow raises types of its own
      raise self._write_error(error) from error
    self._mirror.upload()

  def _write_error(self, error: Exception) -> UserError:
    return UserError(
      f'{self._path.parent}: metrics cannot be written '
      f'({files.reason(error)}); the same command goes on from the last '
      'checkpoint.'
    )


def _event_writer(path: str) -> Any:
  """A writer of TensorBoard's events; None without TensorFlow."""
  if importlib.util.find_spec('tensorflow') is None:
    return None
  from clu import metric_writers  # imports TensorFlow

  return metric_writers.SummaryWriter(path)


class Progress:
  """Shows progress: a bar on a terminal, else a line every few seconds."""

  def __init__(
    self,
    total: int | None,
    start: int = 0,
    label: str = '',
    seconds: float = 15.0,
  ) -> None:
    """Starts to show progress on stderr.

    Args:
      total: number of units of work; None if it is not known.
      start: number of units that were finished before.
      label: text before the bar or the line.
      seconds: number of seconds between two lines, if stderr is no terminal.
    """
    self._bar = tqdm.tqdm(
      total=total,
      initial=start,
      desc=label,
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
    )
    self._label, self._total, self._done = label, total, start
    self._values: dict[str, Any] = {}
    # The first unit includes compilation, so that the rate is measured from the
    # end of that unit.
    self._timed, self._start = -1, time.monotonic()
    self._seconds, self._shown = seconds, time.monotonic()

  def update(self, **values: Any) -> None:
    """Counts one more finished unit.

    Args:
      **values: named values that are shown from now on, such as the loss; they
        replace earlier values of the same names.
    """
    self._done += 1
    self._timed += 1
    if not self._timed:
      self._start = time.monotonic()
    self._values |= values
    self._bar.update()
    if values:
      self._bar.set_postfix(self._values)
    due = time.monotonic() - self._shown > self._seconds
    if self._bar.disable and (due or self._done == self._total):
      self._shown = time.monotonic()
      print(self._line(), file=sys.stderr, flush=True)

  def say(self, text: str) -> None:
    """Prints a separate line above the bar."""
    tqdm.tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()

  def close(self) -> None:
    """Ends the bar's line."""
    self._bar.close()

  def _line(self) -> str:
    """The line that is printed where there is no terminal."""
    rate = self._timed / max(time.monotonic() - self._start, 1e-9)
    speed = f'{rate:.2f}/s' if self._timed else '-/s'
    values = ''.join(f' {name}={value}' for name, value in self._values.items())
    if self._total is None:
      return f'{self._label}: {self._done}{values}, {speed}'
    line = f'{self._label}: {self._done}/{self._total}{values}, {speed}'
    if not rate:
      return line
    left = tqdm.tqdm.format_interval((self._total - self._done) / rate)
    return f'{line}, {left} left'


def write_jsonl(
  folder: str, name: str, rows: Iterable[Mapping[str, Any]]
) -> None:
  """Writes rows to `name.jsonl`; readers never see a part of the file.

  Args:
    folder: folder of the file; it is made if it is missing.
    name: name of the file without its ending.
    rows: rows, one per line; a value that JSON does not have becomes its `str`.
  """
  lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
  files.write_text(
    folder, f'{name}.jsonl', ''.join(f'{line}\n' for line in lines)
  )


def _drop_after(path: Path, step: int) -> None:
  """Drops the lines of later steps, and a line that a crash has cut short."""
  kept_lines = []
  # After a crash of the machine, the file may end with any bytes.
  text = path.read_text(encoding='utf-8', errors='replace')
  for line in text.splitlines(keepends=True):
    try:
      if line.endswith('\n') and json.loads(line)['step'] <= step:
        kept_lines.append(line)
    except (ValueError, KeyError, TypeError):
      break
  files.write_text(path.parent, path.name, ''.join(kept_lines))
