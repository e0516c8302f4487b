"""Records and shows the progress of a run: TensorBoard, JSONL, progress bar."""

import importlib.util
import json
import os
import socket
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

  There are no events where tensorboard is not installed.
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
    self._events = _Events(self._mirror.path) if _has_tensorboard() else None

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes the scalars of one step; a bucket gets them with `flush`.

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
      if self._events is not None:
        self._events.write(step, scalars)
    except OSError as error:
      raise UserError(
        f'{self._path.parent}: metrics cannot be written '
        f'({files.reason(error)}); the same command goes on from the last '
        'checkpoint.'
      ) from error

  def flush(self) -> None:
    """Copies the files of a run in a bucket into the bucket.

    Raises:
      UserError: a file cannot be copied.
    """
    self._mirror.upload()


def _has_tensorboard() -> bool:
  return importlib.util.find_spec('tensorboard') is not None


class _Events:
  """A file of TensorBoard's events.

  The writers of clu and of tensorboard import TensorFlow, which takes longer
  than all that a short run computes.
  """

  def __init__(self, folder: Path) -> None:
    """Makes a file of its own in a folder, as TensorBoard names them."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    self._event, self._summary = event_pb2.Event, summary_pb2.Summary
    name = f'events.out.tfevents.{time.time_ns()}.{socket.gethostname()}'
    # Without a buffer: what a full disk does not take fails here, not at exit.
    file = (folder / f'{name}.{os.getpid()}').open('wb', buffering=0)
    self._records = record_writer.RecordWriter(file)
    self._add(file_version='brain.Event:2')

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the scalars of one step."""
    values = [
      self._summary.Value(tag=name, simple_value=value)
      for name, value in scalars.items()
    ]
    self._add(step=step, summary=self._summary(value=values))

  def _add(self, **fields: Any) -> None:
    event = self._event(wall_time=time.time(), **fields)
    self._records.write(event.SerializeToString())


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
