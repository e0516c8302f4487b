"""The cells of a sweep, and the state that their folders keep."""

import dataclasses
import fcntl
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from hypertuning import files, gin_utils, text_files
from hypertuning.errors import UserError

Bindings = Mapping[str, Any]
LOG = 'log.txt'
# Files in the folder of a cell. The first exists once its results are complete,
# the second if its command failed; the third describes the command.
DONE_FILE, FAILED_FILE, COMMAND_FILE = 'done', 'failed', 'command.json'
SWEEP_FILE = 'sweep.json'  # file in the sweep's folder, which describes it
# Maps each command to the binding of the folder that its results go to.
OUTPUTS = {
  'hypertuning.train': 'MODEL_DIR',
  'hypertuning.eval': 'EVAL_OUTPUT_DIR',
  'hypertuning.infer': 'INFER_OUTPUT_DIR',
  'hypertuning.adapt': 'ADAPT_OUTPUT_DIR',
  'hypertuning.record': 'RECORDING',
  'hypertuning.benchmarks.query_cost': 'COST_OUTPUT_DIR',
  't5x.train': 'MODEL_DIR',
  't5x.eval': 'EVAL_OUTPUT_DIR',
  't5x.infer': 'INFER_OUTPUT_DIR',
}
_DIGEST, _PARTS = 'gin_digest', 'parts'


@dataclasses.dataclass(frozen=True)
class Cell:
  """A stage of a sweep at a point.

  Attributes:
    stage: name of the stage.
    point: maps each axis of the stage to the label of the point.
    folder: folder of the results.
    command: name of the module that runs.
    gin_files: gin files of the command.
    bindings: bindings of the command, without those of folders.
    after: maps a binding to the cell whose folder is its value.
    parts: the parts that the command is assembled from: maps the name of the
      stage, and of each point, to what STAGES or AXES say about it.
  """

  stage: str
  point: Mapping[str, str]
  folder: epath.Path
  command: str = ''
  gin_files: Sequence[str] = ()
  bindings: Bindings = dataclasses.field(default_factory=dict)
  after: Mapping[str, 'Cell'] = dataclasses.field(default_factory=dict)
  parts: Mapping[str, Bindings] = dataclasses.field(default_factory=dict)

  @property
  def name(self) -> str:
    """The cell's name, `STAGE/POINT`."""
    return f'{self.stage}/{self.folder.name}'

  @property
  def is_done(self) -> bool:
    """Whether the cell's results are complete.

    A cell whose file `done` is damaged is not done: it runs again.
    """
    try:
      return 'seconds' in text_files.read_json(self.folder / DONE_FILE)
    except UserError:
      return False

  @property
  def failure(self) -> str | None:
    """The reason why the cell failed; None if it did not."""
    try:
      return text_files.read_json(self.folder / FAILED_FILE)['reason']
    except (UserError, KeyError):
      return None

  @property
  def has_checkpoints(self) -> bool:
    """Whether the cell's command has saved a checkpoint."""
    return any(x.name.startswith('checkpoint_') for x in children(self.folder))

  @property
  def has_started(self) -> bool:
    """Whether the cell's command was ever started."""
    return (self.folder / LOG).exists()

  def reopen(self) -> None:
    """Marks a cell that is done as not done, so that it runs again."""
    files.remove(self.folder, DONE_FILE)

  def forget_failure(self) -> None:
    """Removes the mark of a failure, before the cell is tried again."""
    files.remove(self.folder, FAILED_FILE)

  def succeed(self, seconds: float) -> None:
    """Marks the cell's results as complete.

    Args:
      seconds: number of seconds that the command took.
    """
    self.forget_failure()
    # By the sizes, a reader notices lost lines. `metrics.jsonl` is left out: no
    # command writes the lines of past steps again, and a user may repair it.
    sizes = {
      file.name: files.size(file)
      for file in children(self.folder)
      if file.name.endswith('.jsonl') and file.name != 'metrics.jsonl'
    }
    text = json.dumps({'seconds': round(seconds, 1), 'bytes': sizes})
    files.write_text(self.folder, DONE_FILE, text)

  def fail(self, reason: str) -> None:
    """Marks the cell as failed, with the reason."""
    text = json.dumps({'reason': reason})
    files.write_text(self.folder, FAILED_FILE, text)

  def flags(self) -> list[str]:
    """The flags of the cell's command line."""
    folders = {OUTPUTS[self.command]: str(self.folder)}
    for binding, cell in self.after.items():
      folders[binding] = str(cell.folder)
    return [
      *(f'--gin_file={file}' for file in self.gin_files),
      *(f'--gin.{k}={v!r}' for k, v in {**self.bindings, **folders}.items()),
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
  """Writes the descriptions of a sweep and its cells into their folders.

  A sweep may have more points than an earlier sweep in the same folder, and
  also other stages, as long as the two have a stage in common. Two benchmarks
  share the cells of one hyperpretraining in this way.

  Args:
    output_dir: folder of the sweep.
    work: all cells of the sweep.

  Raises:
    UserError: a folder belongs to another sweep or to another command, or its
      results come from gin files that have changed or from a deleted run.
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
  folder = files.check_writable(output_dir, 'SWEEP_DIR')
  folder.mkdir(parents=True, exist_ok=True)
  with files.lock_file(folder).open('w') as file:
    # Another process may start a sweep with this folder at the same time.
    fcntl.flock(file, fcntl.LOCK_EX)
    _claim(folder, work, sweep)


def _claim(
  output_dir: epath.Path, work: Sequence[Cell], sweep: dict[str, Any]
) -> None:
  path = output_dir / SWEEP_FILE
  plan = _read_json(path, 'axes', 'stages') if path.exists() else sweep
  common_stages = [
    stage for stage in plan['stages'] if stage in sweep['stages']
  ]
  other_stages = [
    stage
    for stage in common_stages
    for field in ('command', 'axes')
    if plan['stages'][stage].get(field) != sweep['stages'][stage][field]
  ]
  if other_stages or (plan['stages'] and not common_stages):
    stage = (other_stages or list(plan['stages']))[0]
    raise UserError(
      f'{path}: another sweep is in this folder, with another stage {stage!r}; '
      'use another SWEEP_DIR.'
    )
  # The points of an earlier start stay in the table, even if this one does not
  # have them.
  for axis, labels in plan['axes'].items():
    sweep['axes'][axis] = _union(labels, sweep['axes'].get(axis, []))
  for stage in common_stages:
    points = sweep['stages'][stage]['points']
    earlier = plan['stages'][stage].get('points', [])
    sweep['stages'][stage]['points'] = _union(earlier, points)
  sweep['stages'] = {**plan['stages'], **sweep['stages']}
  # Each description reads gin files: they are made once, for all the checks.
  descriptions = [cell.description() for cell in work]
  for cell, description in zip(work, descriptions, strict=True):
    _check_folder(cell, description)
  _check_others(output_dir, work, descriptions)
  for cell, description in zip(work, descriptions, strict=True):
    text = json.dumps(description, indent=1)
    files.write_text(cell.folder, COMMAND_FILE, text)
  files.write_text(output_dir, SWEEP_FILE, json.dumps(sweep, indent=1))


def _union(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
  """The items of the first, then those that only the second has."""
  return [*first, *(x for x in second if x not in first)]


def _check_folder(cell: Cell, description: Mapping[str, Any]) -> None:
  """Refuses a folder whose results come from another command than the cell's.

  A table would show them as the results of this command.
  """
  path = cell.folder / COMMAND_FILE
  earlier = _read_json(path) if path.exists() else description
  # The digest is checked below, and may differ as long as nothing has run; the
  # parts are checked by `_check_others`.
  own_parts = {name: description[name] for name in (_DIGEST, _PARTS)}
  if {**earlier, **own_parts} != description:
    raise UserError(
      f'{path}: this cell was another command in an earlier sweep; use '
      'another SWEEP_DIR, or delete the folder.'
    )
  has_changed = earlier.get(_DIGEST) != description[_DIGEST]
  if has_changed and (cell.is_done or cell.has_checkpoints):
    raise _change_error(path, _with_included(cell.gin_files))
  for source in cell.after.values():
    if cell.has_started and not source.is_done:
      raise UserError(
        f'{cell.folder}: has been run from {source.name}, which is not there '
        'any more; delete this folder as well.'
      )


def _check_others(
  output_dir: epath.Path,
  work: Sequence[Cell],
  descriptions: Sequence[Mapping[str, Any]],
) -> None:
  """Refuses cells whose settings differ from those of earlier starts.

  The earlier cells are still in the table, which would show cells with
  different settings as seeds of one method.
  """
  folders = {cell.folder for cell in work}
  own_parts: dict[str, dict[str, Any]] = {}
  for cell, description in zip(work, descriptions, strict=True):
    own_parts.setdefault(cell.stage, {}).update(description[_PARTS])
  for stage, parts in own_parts.items():
    for folder in children(output_dir / 'cells' / stage):
      path = folder / COMMAND_FILE
      if folder in folders or not (
        path.exists() and (folder / DONE_FILE).exists()
      ):
        continue
      earlier = _read_json(path)
      for name, part in earlier.get(_PARTS, {}).items():
        if parts.get(name, part) != part:
          raise _change_error(path, name)
      gin_files = earlier.get('gin_files', ())
      if earlier.get(_DIGEST) != _digest(gin_files):
        raise _change_error(path, _with_included(gin_files))


def _with_included(files: Sequence[str]) -> str:
  return f'{", ".join(files)}, or what they include,'


def _change_error(path: epath.Path, subject: str) -> UserError:
  return UserError(
    f'{path}: {subject} changed since this cell was run; use another '
    'SWEEP_DIR, or delete the folder.'
  )


def _digest(files: Sequence[str]) -> str:
  """A digest of the lines of gin files and their includes, without comments."""
  lines = (line for file in files for line in gin_utils.lines(file))
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


def _as_text(bindings: Bindings) -> dict[str, str]:
  """Bindings with their values as text, sorted by name."""
  return {name: repr(value) for name, value in sorted(bindings.items())}


def _plain(value: Any) -> Any:
  """A value for comparison: dicts are sorted, and tuples become lists."""
  if isinstance(value, Mapping):
    return {str(name): _plain(value[name]) for name in sorted(value)}
  if isinstance(value, (list, tuple)):
    return [_plain(part) for part in value]
  return repr(value)


def _read_json(path: epath.Path, *tables: str) -> dict[str, Any]:
  """Reads a JSON object.

  Args:
    path: path of the file.
    *tables: names of fields that must be objects.

  Raises:
    UserError: the file is damaged.
  """
  try:
    content = text_files.read_json(path)
    for name in tables:
      content[name].keys()
    return content
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{path}: is damaged ({error!r}); delete it.') from error


def children(folder: epath.Path) -> list[epath.Path]:
  """The contents of a folder, sorted by name; empty if it does not exist."""
  return sorted(folder.iterdir()) if folder.is_dir() else []


def folder_name(labels: Sequence[str]) -> str:
  """The name of a cell's folder, made of the labels of its point."""
  return '__'.join(re.sub(r'[^\w.=-]+', '_', x) for x in labels) or 'all'
