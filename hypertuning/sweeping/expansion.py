"""Expands the STAGES and AXES of a sweep into its cells."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from hypertuning import files
from hypertuning.errors import UserError
from hypertuning.sweeping import slips
from hypertuning.sweeping.cells import Bindings, Cell, folder_name

Stages = Mapping[str, Mapping[str, Any]]
Axes = Mapping[str, Mapping[str, Bindings]]
Labels = tuple[str, ...]  # the label of one point per axis of the stage


def expand(output_dir: str, stages: Stages, axes: Axes) -> list[Cell]:
  """All cells, in the order in which they should run.

  A cell that needs another one may have to wait, and run later than its place.

  Args:
    output_dir: folder of the sweep.
    stages: stages of the sweep, in the form that `sweep.sweep` takes.
    axes: axes of the sweep, in the form that `sweep.sweep` takes.

  Raises:
    UserError: names the stage, axis or field at fault.
  """
  root = files.folder(output_dir, 'SWEEP_DIR')
  slips.check(str(root), stages, axes)
  by_stage: dict[str, dict[Labels, Cell]] = {}
  for name, stage in stages.items():
    cells = by_stage[name] = {}
    for labels in _points(stage, axes):
      point = dict(zip(stage.get('axes', axes), labels, strict=True))
      plan = _plan(name, stage, point, axes)
      cells[labels] = Cell(
        name,
        point,
        root / 'cells' / name / folder_name(labels),
        stage['command'],
        tuple(plan.gin_files),
        plan.bindings,
        {
          binding: _start(f'STAGES: {name!r}', source, point, by_stage)
          for binding, source in plan.after.items()
        },
        plan.parts,
      )
  work = [cell for cells in by_stage.values() for cell in cells.values()]
  folders = [cell.folder for cell in work]
  for folder in folders:
    if folders.count(folder) > 1:
      raise UserError(
        f'AXES: two points have the folder {folder}; name them apart.'
      )
  order = {axis: list(points) for axis, points in axes.items()}
  chains = dict.fromkeys((cell.name for cell in work), 1)
  for cell in reversed(work):  # a cell comes after those that it starts from
    for source in cell.after.values():
      chains[source.name] = max(chains[source.name], chains[cell.name] + 1)

  def place(cell: Cell) -> tuple[int, int, list[int]]:
    first, *rest = [
      points.index(cell.point[axis]) if axis in cell.point else 0
      for axis, points in order.items()
    ] or [0]
    return first, -chains[cell.name], rest

  # All stages at the first point of the first axis come first, such as a seed,
  # whose table is then complete early on. Among them, a cell comes before those
  # that fewer stages wait for, or one worker would end alone with a long chain.
  return sorted(work, key=place)


def _points(stage: Mapping[str, Any], axes: Axes) -> Iterator[Labels]:
  """The points of a stage: all points of its axes, or those in `points`."""
  selection = stage.get('points', {})
  names = stage.get('axes', axes)
  yield from itertools.product(*(selection.get(x, axes[x]) for x in names))


@dataclasses.dataclass
class _Plan:
  """A command that is assembled from a stage and the points of its axes.

  Attributes:
    gin_files: gin files of the command, in order.
    bindings: bindings of the command, without those of folders.
    after: maps a binding to the stage whose folder is its value, as STAGES or
      AXES write it.
    parts: maps the name of a part, the stage or a point of an axis, to what it
      contributes.
  """

  gin_files: list[str]
  bindings: dict[str, Any]
  after: dict[str, str]
  parts: dict[str, Bindings]


def _plan(
  name: str, stage: Mapping[str, Any], point: Mapping[str, str], axes: Axes
) -> _Plan:
  """Assembles the command of a stage at a point."""
  own = {
    field: stage[field]
    for field in ('command', 'gin_files', 'bindings', 'after')
    if stage.get(field)
  }
  plan = _Plan(
    [],
    dict(stage.get('bindings', {})),
    dict(stage.get('after', {})),
    {f'stage {name!r} of STAGES': own},
  )
  last: list[str] = []
  for axis, label in point.items():
    common = dict(axes[axis][label])
    special = common.pop('per_stage', {}).get(name, {})
    if name not in common.pop('stages', (name,)):
      common = {}
    for source in (common, special):
      fields = dict(source)
      plan.gin_files += fields.pop('gin_files', ())
      last += fields.pop('last_gin_files', ())
      sources = fields.pop('after', {})
      # The later part wins, whether it binds a name to a value or (`after`) to
      # a folder: the earlier binding of the other kind is removed.
      for binding in sources:
        plan.bindings.pop(binding, None)
      for binding in fields:
        plan.after.pop(binding, None)
      plan.after |= sources
      plan.bindings |= fields
    part = {**common, 'per_stage': special} if special else common
    plan.parts[f'point {label!r} of {axis!r} in AXES'] = part
  plan.gin_files += [*stage['gin_files'], *last]
  return plan


def _start(
  place: str,
  source: str,
  point: Mapping[str, str],
  by_stage: Mapping[str, Mapping[Labels, Cell]],
) -> Cell:
  """The cell that a stage starts from.

  Args:
    place: name of the stage that starts, for error messages.
    source: the other stage, in the form that `slips.split` reads.
    point: point of the stage that starts.
    by_stage: maps the name of each earlier stage to its cells.

  Returns:
    The cell of the other stage that has the labels of `source`, and on all
    other axes the same point.

  Raises:
    UserError: there is no such cell, or more than one.
  """
  other, labels = slips.split(source, point)
  if other not in by_stage:
    raise UserError(f'{place} comes before {other!r}, which it starts from.')
  cells = list(by_stage[other].values())
  for label in labels:
    cells = [cell for cell in cells if label in cell.point.values()]
  candidates = [
    cell
    for cell in cells
    if all(
      point.get(axis) == own
      for axis, own in cell.point.items()
      if own not in labels
    )
  ]
  if len(candidates) != 1:
    raise UserError(
      f'{place} starts from {source!r} at the point {_point_text(point)}, '
      f'where {other!r} has {len(candidates)} cells before it.'
    )
  return candidates[0]


def _point_text(point: Mapping[str, str]) -> str:
  """A point as error messages show it."""
  return ', '.join(f'{axis} {label!r}' for axis, label in point.items()) or '()'
