"""What a run tells: TensorBoard, a plain JSONL, and a progress bar."""

import json
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

import tqdm
from clu import metric_writers


class Writer:
  """Scalars to TensorBoard events and to `metrics.jsonl`."""

  def __init__(self, model_dir: str, first_step: int = 0) -> None:
    """Opens both; lines of steps after `first_step` (a lost run's) are dropped.

    Args:
      model_dir: the run's folder.
      first_step: the step from which the run goes on.
    """
    folder = pathlib.Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    self._path = folder / 'metrics.jsonl'
    if self._path.exists():
      _drop_after(self._path, first_step)
    self._tensorboard = metric_writers.SummaryWriter(str(folder))

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds one step's scalars; `flush` makes them readable by others."""
    scalars = {name: float(value) for name, value in scalars.items()}
    with self._path.open('a', encoding='utf-8') as file:
      file.write(json.dumps({'step': step, **scalars}) + '\n')
    self._tensorboard.write_scalars(step, scalars)

  def flush(self) -> None:
    """Writes out TensorBoard's events."""
    self._tensorboard.flush()


class Progress:
  """A bar on a terminal, a line every few seconds elsewhere."""

  def __init__(
    self,
    total: int | None,
    done: int = 0,
    label: str = '',
    seconds: float = 15.0,
  ) -> None:
    """Starts to show progress on stderr.

    Args:
      total: units of work in all; None if that is not known.
      done: units done before.
      label: stands before the bar or the line.
      seconds: between two lines where there is no terminal.
    """
    self._bar = tqdm.tqdm(
      total=total,
      initial=done,
      desc=label,
      disable=not sys.stderr.isatty(),
      dynamic_ncols=True,
    )
    self._label, self._total, self._done = label, total, done
    self._values: dict[str, Any] = {}
    # The first unit compiles: the rate is counted from its end.
    self._timed, self._start = -1, time.monotonic()
    self._seconds, self._shown = seconds, time.monotonic()

  def update(self, **values: Any) -> None:
    """One more unit is done; the newest `values` are shown beside it."""
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
    """Prints a line of its own, above the bar."""
    tqdm.tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()

  def close(self) -> None:
    """Ends the bar's line."""
    self._bar.close()

  def _line(self) -> str:
    rate = self._timed / max(time.monotonic() - self._start, 1e-9)
    speed = f'{rate:.2f}/s' if self._timed else '-/s'
    values = ''.join(f' {name}={value}' for name, value in self._values.items())
    if self._total is None:
      return f'{self._label}: {self._done}{values}, {speed}'
    line = f'{self._label}: {self._done}/{self._total}{values}, {speed}'
    if not rate:
      return line
    return f'{line}, {(self._total - self._done) / rate:.0f} s left'


def write_jsonl(
  folder: str, name: str, rows: Iterable[Mapping[str, Any]]
) -> None:
  """Writes `name.jsonl` as a whole: readers never see half of it."""
  lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
  write_text(folder, f'{name}.jsonl', ''.join(f'{line}\n' for line in lines))


def write_text(folder: str, name: str, text: str) -> None:
  """Writes a file as a whole; its folder is made if it is missing."""
  path = pathlib.Path(folder, name)
  path.parent.mkdir(parents=True, exist_ok=True)
  _replace(path, text)


def _drop_after(path: pathlib.Path, step: int) -> None:
  """Drops later lines, and one that a crash left half-written."""
  kept = []
  for line in path.read_text(encoding='utf-8').splitlines(keepends=True):
    try:
      if json.loads(line)['step'] <= step:
        kept.append(line)
    except json.JSONDecodeError:
      break
  _replace(path, ''.join(kept))


def _replace(path: pathlib.Path, text: str) -> None:
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  temporary.write_text(text, encoding='utf-8')
  os.replace(temporary, path)
