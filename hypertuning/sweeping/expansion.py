"""STAGES and AXES of a sweep to its cells."""

import itertools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from hypertuning.errors import UserError
from hypertuning.sweeping.cells import OUTPUTS, Bindings, Cell, folder_name

_FIELDS = ('command', 'gin_files', 'bindings', 'axes', 'after')


def expand(
  output_dir: str,
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Mapping[str, Bindings]],
) -> list[Cell]:
  """All cells in the order in which they are run, as far as can be.

  Args:
    output_dir: of the sweep.
    stages: see `sweep.sweep`.
    axes: see `sweep.sweep`.

  Raises:
    UserError: names the stage, axis or field at fault.
  """
  if '://' in output_dir:
    raise UserError(
      f'SWEEP_DIR = {output_dir!r}: give a folder of a file system; runs may '
      'write into buckets, a sweep keeps its locks there.'
    )
  _check_dict('STAGES', stages)
  _check_axes(axes, stages)
  if not stages:
    raise UserError('STAGES: there is none.')
  found: dict[tuple[str, tuple[str, ...]], Cell] = {}
  for name, stage in stages.items():
    concerned = _check(name, stage, stages, axes)
    for chosen in itertools.product(*(axes[axis] for axis in concerned)):
      point = dict(zip(concerned, chosen, strict=True))
      files: list[str] = []
      bound = dict(stage.get('bindings', {}))
      own = {x: stage[x] for x in _FIELDS if x != 'axes' and stage.get(x)}
      parts = {f'stage {name!r} of STAGES': own}
      for axis, label in point.items():
        meant = dict(axes[axis][label])
        where = f'point {label!r} of {axis!r}'
        _check_files(f'AXES: {where}', meant)
        if name not in meant.pop('stages', stages):
          meant = {}
        parts[f'{where} in AXES'] = dict(meant)
        files += meant.pop('gin_files', ())
        bound |= meant
      after = {}
      for binding, needed in stage.get('after', {}).items():
        names = _concerned(stages[needed], axes)
        if (needed, tuple(point[axis] for axis in names)) not in found:
          raise UserError(
            f'STAGES: {name!r} comes before {needed!r}, which it starts from.'
          )
        after[binding] = found[needed, tuple(point[axis] for axis in names)]
      folder = pathlib.Path(output_dir, 'cells', name, folder_name(chosen))
      found[name, chosen] = Cell(
        name,
        point,
        folder,
        stage['command'],
        (*files, *stage['gin_files']),
        bound,
        after,
        parts,
      )
  folders = [cell.folder for cell in found.values()]
  for cell in found.values():
    if folders.count(cell.folder) > 1:
      raise UserError(
        f'AXES: two points have the folder {cell.folder}; name them apart.'
      )
  order = {axis: list(points) for axis, points in axes.items()}

  def place(cell: Cell) -> list[int]:
    return [
      points.index(cell.point[axis]) if axis in cell.point else 0
      for axis, points in order.items()
    ]

  # All stages of the first seed, then those of the next: there is a whole table
  # early on.
  return sorted(found.values(), key=place)


def _check(
  name: str,
  stage: Mapping[str, Any],
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Any],
) -> tuple[str, ...]:
  """Refuses a stage that cannot run; gives the axes that concern it."""
  where = f'STAGES: {name!r}'
  _check_dict(where, stage)
  for field in ('bindings', 'after'):
    _check_dict(f'{where}: {field!r}', stage.get(field, {}))
  if not re.fullmatch(r'[\w.=-]+', name):
    raise UserError(f'{where} cannot name a folder.')
  for field in stage:
    if field not in _FIELDS:
      raise UserError(
        f'{where} has a field {field!r}; there is {", ".join(_FIELDS)}.'
      )
  for field in ('command', 'gin_files'):
    if not stage.get(field):
      raise UserError(f'{where} has no {field!r}.')
  _check_files(where, stage)
  if stage['command'] not in OUTPUTS:
    raise UserError(
      f'{where}: command {stage["command"]!r}; give one of '
      f'{", ".join(OUTPUTS)}.'
    )
  concerned = _concerned(stage, axes)
  for axis in concerned:
    if axis not in axes:
      raise UserError(
        f'{where}: no axis {axis!r} in AXES; there is {", ".join(axes)}.'
      )
  for binding, needed in stage.get('after', {}).items():
    if needed not in stages:
      raise UserError(
        f'{where}: {binding} comes from stage {needed!r}, which does not exist.'
      )
    more = set(_concerned(stages[needed], axes)) - set(concerned)
    if more:
      raise UserError(
        f'{where} starts from {needed!r}, which has the axis {min(more)!r} as '
        'well: add it.'
      )
  return concerned


def _check_axes(
  axes: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Any]
) -> None:
  """Refuses axes that are no points of bindings, or for unknown stages."""
  _check_dict('AXES', axes)
  for axis, points in axes.items():
    _check_dict(f'AXES: {axis!r}', points)
    if not points:
      raise UserError(f'AXES: {axis!r} has no points.')
    for label, meant in points.items():
      if not isinstance(label, str) or not isinstance(meant, Mapping):
        raise UserError(
          f'AXES: point {label!r} of {axis!r} must be a name (a string) of '
          'bindings (a dict).'
        )
      only = meant.get('stages', ())
      unknown = [only] if isinstance(only, str) else set(only) - set(stages)
      if unknown:
        raise UserError(
          f'AXES: point {label!r} of {axis!r} is for the stages {only!r}; give '
          f'some of {tuple(stages)!r}.'
        )


def _check_dict(where: str, given: Any) -> None:
  if not isinstance(given, Mapping):
    raise UserError(f'{where} must be a dict, and is {given!r}.')


def _check_files(where: str, bound: Mapping[str, Any]) -> None:
  if isinstance(bound.get('gin_files', ()), str):
    raise UserError(f'{where}: gin_files must be a tuple of files.')


def _concerned(
  stage: Mapping[str, Any], axes: Mapping[str, Any]
) -> tuple[str, ...]:
  return tuple(stage.get('axes', axes))
