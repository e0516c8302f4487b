"""Checks STAGES and AXES; each mistake is reported in one line."""

import functools
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypertuning import hints
from hypertuning.errors import UserError
from hypertuning.ranges import Name, Names
from hypertuning.sweeping.cells import OUTPUTS

_FIELDS = ('command', 'gin_files', 'bindings', 'axes', 'points', 'after')
# Types of the fields of stages and of points on an axis.
_TYPES = {
  'command': Name,
  'gin_files': Names,
  'last_gin_files': Names,
  'axes': Sequence[Name],
  'bindings': Mapping[Name, Any],
  'points': Mapping[Name, Names],
  'after': Mapping[Name, Name],
  'stages': Names,
  'per_stage': Mapping[Name, Mapping[str, Any]],
}


def check(
  output_dir: str,
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Mapping[str, Any]],
) -> None:
  """Refuses a sweep that cannot run.

  Args:
    output_dir: folder of the sweep.
    stages: stages of the sweep, in the form that `sweep.sweep` takes.
    axes: axes of the sweep, in the form that `sweep.sweep` takes.

  Raises:
    UserError: names the stage, axis or field at fault.
  """
  if set('[]') & set(output_dir):
    raise UserError(
      f'SWEEP_DIR = {output_dir!r}: checkpoints cannot be in a folder with [ '
      'or ] in its path; give another.'
    )
  _check_dict('STAGES', stages)
  _check_axes(axes, stages)
  if not stages:
    raise UserError('STAGES: there is none.')
  for name, stage in stages.items():
    _check_stage(name, stage, stages, axes)


def split(source: str, point: Mapping[str, str]) -> tuple[str, list[str]]:
  """Reads the name of a stage that another stage starts from.

  Args:
    source: name of the other stage: `STAGE`, or `STAGE/LABEL` for another
      point than that of the stage that starts. `{axis}` in it stands for the
      label of the starting stage's own point on that axis, as in
      `train/shared_{method}`.
    point: point of the stage that starts; maps its axes to labels.

  Returns:
    The name of the stage, and the labels in `source`.

  Raises:
    UserError: `source` names an axis that the starting stage does not have.
  """
  try:
    name, *labels = source.format(**point).split('/')
  except (KeyError, IndexError, ValueError, AttributeError) as error:
    raise UserError(
      f'STAGES, AXES: after {source!r}: give STAGE or STAGE/LABEL, where '
      f'{{axis}} is one of {", ".join(point) or "no axis"}.'
    ) from error
  return name, labels


def _check_stage(
  name: str,
  stage: Mapping[str, Any],
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Mapping[str, Any]],
) -> None:
  place = f'STAGES: {name!r}'
  _check_dict(place, stage)
  if not re.fullmatch(r'[\w.=-]+', name):
    raise UserError(f'{place} cannot name a folder.')
  for field in stage:
    if field not in _FIELDS:
      raise UserError(
        f'{place} has a field {field!r}; there is {", ".join(_FIELDS)}.'
      )
  for field in ('command', 'gin_files'):
    if not stage.get(field):
      raise UserError(f'{place} has no {field!r}.')
  _check_types(place, stage)
  if stage['command'] not in OUTPUTS:
    raise UserError(
      f'{place}: command {stage["command"]!r}; give one of '
      f'{", ".join(OUTPUTS)}.'
    )
  own_axes = stage.get('axes', axes)
  for axis in own_axes:
    if axis not in axes:
      raise UserError(
        f'{place}: no axis {axis!r} in AXES; there is {", ".join(axes)}.'
      )
  for axis, labels in stage.get('points', {}).items():
    if axis not in own_axes:
      raise UserError(
        f'{place}: points of the axis {axis!r}, which it does not have.'
      )
    if set(labels) - {*axes[axis]}:
      raise UserError(
        f'{place}: points {labels!r} of {axis!r}; give some of '
        f'{tuple(axes[axis])!r}.'
      )
  _check_after(place, stage, own_axes, stages, axes)


def _check_after(
  place: str,
  stage: Mapping[str, Any],
  own_axes: Any,
  stages: Mapping[str, Mapping[str, Any]],
  axes: Mapping[str, Mapping[str, Any]],
) -> None:
  for binding, source in stage.get('after', {}).items():
    source_stage, label = _parts(source)
    if source_stage not in stages:
      raise UserError(
        f'{place}: {binding} comes from stage {source_stage!r}, which does not '
        'exist.'
      )
    more = set(stages[source_stage].get('axes', axes)) - set(own_axes)
    if more and not label:
      raise UserError(
        f'{place} starts from {source_stage!r}, which has the axis '
        f'{min(more)!r} as well: add it.'
      )


def _parts(source: Any) -> tuple[str, str]:
  """The stage and the labels of `STAGE/LABEL`, with `{axis}` as it is."""
  stage, _, labels = str(source).partition('/')
  return stage, labels


def _check_axes(
  axes: Mapping[str, Mapping[str, Any]], stages: Mapping[str, Any]
) -> None:
  _check_dict('AXES', axes)
  for axis, points in axes.items():
    _check_dict(f'AXES: {axis!r}', points)
    if not points:
      raise UserError(f'AXES: {axis!r} has no points.')
    for label, fields in points.items():
      if not isinstance(label, str) or not isinstance(fields, Mapping):
        raise UserError(
          f'AXES: point {label!r} of {axis!r} must be a name (a string) of '
          'bindings (a dict).'
        )
      _check_point(f'AXES: point {label!r} of {axis!r}', fields, stages)


def _check_point(
  place: str, fields: Mapping[str, Any], stages: Mapping[str, Any]
) -> None:
  _check_types(place, fields)
  per_stage = fields.get('per_stage', {})
  for field, names in (
    ('stages', fields.get('stages', ())),
    ('per_stage', tuple(per_stage)),
  ):
    if set(names) - set(stages):
      raise UserError(
        f'{place} is for the stages {names!r} in {field!r}; give some of '
        f'{tuple(stages)!r}.'
      )
  for part in (fields, *per_stage.values()):
    _check_types(place, part)
    for binding, source in part.get('after', {}).items():
      source_stage, _ = _parts(source)
      if source_stage not in stages:
        raise UserError(
          f'{place}: {binding} comes from stage {source_stage!r}, which does '
          'not exist.'
        )


def _check_dict(place: str, value: Any) -> None:
  if not isinstance(value, Mapping):
    raise UserError(f'{place} must be a dict, and is {value!r}.')


def _check_types(place: str, fields: Mapping[str, Any]) -> None:
  for field in _TYPES.keys() & fields.keys():
    problem = hints.problem(_TYPES[field], fields[field])
    if problem:
      inner = ''.join(f'[{step!r}]' for step in problem.path)
      raise UserError(
        f'{place}: {field}{inner} {problem.text}, and is '
        f'{functools.reduce(operator.getitem, problem.path, fields[field])!r}.'
      )
