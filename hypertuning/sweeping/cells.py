"""The cells of a sweep, and what their folders say."""

import dataclasses
import fcntl
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning import gin_utils
from hypertuning.engine import summaries
from hypertuning.errors import UserError

Bindings = Mapping[str, Any]
LOG = 'log.txt'
# Files in a cell's folder: its results are whole, its command failed, what its
# command is.
DONE_FILE, FAILED_FILE, COMMAND_FILE = 'done', 'failed', 'command.json'
SWEEP_FILE = 'sweep.json'  # in the sweep's folder: what the sweep is
# A command to the binding that says where its results go.
OUTPUTS = {
  'hypertuning.train': 'MODEL_DIR',
  'hypertuning.eval': 'EVAL_OUTPUT_DIR',
  'hypertuning.infer': 'INFER_OUTPUT_DIR',
  'hypertuning.adapt': 'ADAPT_OUTPUT_DIR',
  'hypertuning.benchmarks.query_cost': 'COST_OUTPUT_DIR',
  't5x.train': 'MODEL_DIR',
  't5x.eval': 'EVAL_OUTPUT_DIR',
  't5x.infer': 'INFER_OUTPUT_DIR',
}
_DIGEST, _PARTS = 'gin_digest', 'parts'


@dataclasses.dataclass(frozen=True)
class Cell:
  """A stage at a point.

  Attributes:
    stage: name of the stage.
    point: axis to the label of the point.
    folder: folder of the results.
    command: module that runs.
    gin_files: gin files of the command.
    bindings: bindings of the command, without its folders.
    after: a binding to the cell whose folder it gets.
    parts: the stage and the points that the command is put together from, as
      the sweep describes them.
  """

  stage: str
  point: Mapping[str, str]
  folder: pathlib.Path
  command: str = ''
  gin_files: Sequence[str] = ()
  bindings: Bindings = dataclasses.field(default_factory=dict)
  after: Mapping[str, 'Cell'] = dataclasses.field(default_factory=dict)
  parts: Mapping[str, Bindings] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """Stage and point."""
    return f'{self.stage}/{self.folder.name}'

  @property
  def is_done(self) -> bool:
    """Whether its results are whole."""
    return (self.folder / DONE_FILE).exists()

  @property
  def failure(self) -> str | None:
    """Why there are no results, if a run of it failed."""
    try:
      return json.loads((self.folder / FAILED_FILE).read_text('utf-8'))[
        'reason'
      ]
    except (OSError, ValueError, KeyError):
      return None

  @property
  def has_checkpoints(self) -> bool:
    """Whether a run of it has saved its state."""
    return any(self.folder.glob('checkpoint_*'))

  @property
  def has_started(self) -> bool:
    """Whether its command has run, to the end or not."""
    return (self.folder / LOG).exists()

  def reopen(self) -> None:
    """Lets the cell run again, though it was done."""
    (self.folder / DONE_FILE).unlink(missing_ok=True)

  def forget_failure(self) -> None:
    """Lets the cell be tried again."""
    (self.folder / FAILED_FILE).unlink(missing_ok=True)

  def succeed(self, seconds: float) -> None:
    """Notes that the results are whole.

    Args:
      seconds: time that the command took.
    """
    self.forget_failure()
    text = json.dumps({'seconds': round(seconds, 1)})
    summaries.write_text(str(self.folder), DONE_FILE, text)

  def fail(self, reason: str) -> None:
    """Notes why there are no results."""
    text = json.dumps({'reason': reason})
    summaries.write_text(str(self.folder), FAILED_FILE, text)

  def flags(self) -> list[str]:
    """Flags of the command line."""
    where = {OUTPUTS[self.command]: str(self.folder.absolute())}
    for binding, cell in self.after.items():
      where[binding] = str(cell.folder.absolute())
    return [
      *(f'--gin_file={file}' for file in self.gin_files),
      *(f'--gin.{k}={v!r}' for k, v in {**self.bindings, **where}.items()),
    ]

  def description(self) -> dict[str, Any]:
    """The content of `command.json`."""
    return {
      'command': self.command,
      'gin_files': list(self.gin_files),
      _DIGEST: _digest(self.gin_files),
      'bindings': _as_text(self.bindings),
      'after': {binding: cell.name for binding, cell in self.after.items()},
      'point': dict(self.point),
      _PARTS: _plain(self.parts),
    }


def claim(output_dir: str, work: Sequence[Cell]) -> None:
  """Notes in the folders which sweep and which cells they belong to.

  A sweep may have more points than an earlier one in the same folder, and other
  stages beside some that are the same: those share cells, as benchmarks share
  hyperpretraining.

  Args:
    output_dir: folder of the sweep.
    work: all cells.

  Raises:
    UserError: a folder belongs to another sweep or to another command, or its
      results were made by other gin files or from a run that is gone.
  """
  sweep: dict[str, Any] = {'axes': {}, 'stages': {}}
  for cell in work:
    for axis, label in cell.point.items():
      labels = sweep['axes'].setdefault(axis, [])
      labels += [label] if label not in labels else []
    stage = sweep['stages'].setdefault(
      cell.stage,
      {
        'command': cell.command,
        'gin_files': list(cell.gin_files),
        'axes': list(cell.point),
        'points': [],
      },
    )
    stage['points'].append(list(cell.point.values()))
  try:
    pathlib.Path(output_dir).mkdir(parents=True, exist_ok=True)
  except (FileExistsError, NotADirectoryError) as error:
    raise UserError(f'SWEEP_DIR = {output_dir!r}: {error.strerror}.') from error
  with pathlib.Path(output_dir, '.lock').open('w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)  # another may start at the same time
    _claim(output_dir, work, sweep)


def _claim(
  output_dir: str, work: Sequence[Cell], sweep: dict[str, Any]
) -> None:
  path = pathlib.Path(output_dir, SWEEP_FILE)
  before = _read(path, 'axes', 'stages') if path.exists() else sweep
  shared = [stage for stage in before['stages'] if stage in sweep['stages']]
  other = [
    stage
    for stage in shared
    for field in ('command', 'axes')
    if before['stages'][stage].get(field) != sweep['stages'][stage][field]
  ]
  if other or (before['stages'] and not shared):
    stage = (other or list(before['stages']))[0]
    raise UserError(
      f'{path}: another sweep is in this folder, with another stage {stage!r}; '
      'use another SWEEP_DIR.'
    )
  # Points of an earlier start stay in the table.
  for axis, labels in before['axes'].items():
    sweep['axes'][axis] = _union(labels, sweep['axes'].get(axis, []))
  for stage in shared:
    points = sweep['stages'][stage]['points']
    earlier = before['stages'][stage].get('points', [])
    sweep['stages'][stage]['points'] = _union(earlier, points)
  sweep['stages'] = {**before['stages'], **sweep['stages']}
  # Made once for all checks: each reads its gin files.
  descriptions = [cell.description() for cell in work]
  for cell, description in zip(work, descriptions, strict=True):
    _check_folder(cell, description)
  _check_others(output_dir, work, descriptions)
  for cell, description in zip(work, descriptions, strict=True):
    text = json.dumps(description, indent=1)
    summaries.write_text(str(cell.folder), COMMAND_FILE, text)
  summaries.write_text(output_dir, SWEEP_FILE, json.dumps(sweep, indent=1))


def _union(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
  """All of the first, then what the second has besides."""
  return [*first, *(x for x in second if x not in first)]


def _check_folder(cell: Cell, description: Mapping[str, Any]) -> None:
  """Refuses results that a table would show as those of another command."""
  path = cell.folder / COMMAND_FILE
  before = _read(path) if path.exists() else description
  # What is checked on its own below, or may differ as long as nothing has run.
  apart = {name: description[name] for name in (_DIGEST, _PARTS)}
  if {**before, **apart} != description:
    raise UserError(
      f'{path}: this cell was another command in an earlier sweep; use '
      'another SWEEP_DIR, or delete the folder.'
    )
  changed = before.get(_DIGEST) != description[_DIGEST]
  if changed and (cell.is_done or cell.has_checkpoints):
    raise _changed(path, _with_included(cell.gin_files))
  for needed in cell.after.values():
    if cell.has_started and not needed.is_done:
      raise UserError(
        f'{cell.folder}: has been run from {needed.name}, which is not there '
        'any more; delete this folder as well.'
      )


def _check_others(
  output_dir: str,
  work: Sequence[Cell],
  descriptions: Sequence[Mapping[str, Any]],
) -> None:
  """Refuses cells whose settings differ from those of earlier starts.

  A table would show both as seeds of one method.
  """
  folders = {cell.folder for cell in work}
  ours: dict[str, dict[str, Any]] = {}
  for cell, description in zip(work, descriptions, strict=True):
    ours.setdefault(cell.stage, {}).update(description[_PARTS])
  for stage, parts in ours.items():
    folder = pathlib.Path(output_dir, 'cells', stage)
    for path in sorted(folder.glob(f'*/{COMMAND_FILE}')):
      if path.parent in folders or not (path.parent / DONE_FILE).exists():
        continue
      before = _read(path)
      for name, part in before.get(_PARTS, {}).items():
        if parts.get(name, part) != part:
          raise _changed(path, name)
      files = before.get('gin_files', ())
      if before.get(_DIGEST) != _digest(files):
        raise _changed(path, _with_included(files))


def _with_included(files: Sequence[str]) -> str:
  return f'{", ".join(files)}, or what they include,'


def _changed(path: pathlib.Path, what: str) -> UserError:
  return UserError(
    f'{path}: {what} changed since this cell was run; use another SWEEP_DIR, '
    'or delete the folder.'
  )


def _digest(files: Sequence[str]) -> str:
  """A digest of what gin files say, without their comments."""
  lines = (line for file in files for line in gin_utils.lines(file))
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def _as_text(bindings: Bindings) -> dict[str, str]:
  """Bindings with their values as gin files write them."""
  return {name: repr(value) for name, value in sorted(bindings.items())}


def _plain(value: Any) -> Any:
  """A form in which order and the kind of a sequence make no difference."""
  if isinstance(value, Mapping):
    return {str(name): _plain(value[name]) for name in sorted(value)}
  if isinstance(value, (list, tuple)):
    return [_plain(part) for part in value]
  return repr(value)


def _read(path: pathlib.Path, *tables: str) -> dict[str, Any]:
  """Reads a JSON object that has these tables."""
  try:
    content = json.loads(path.read_text('utf-8'))
    for name in tables:
      content[name].keys()
    return content
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path}: is damaged ({error!r}); delete it.') from error


def folder_name(labels: Sequence[str]) -> str:
  """Labels of points as the name of a folder."""
  return '__'.join(re.sub(r'[^\w.=-]+', '_', x) for x in labels) or 'all'
