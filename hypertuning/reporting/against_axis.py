"""A metric against an axis of the sweep: shots, prefix length, rank, steps."""

from collections.abc import Mapping, Sequence

from hypertuning.errors import UserError
from hypertuning.reporting import measures, plots, sections
from hypertuning.reporting.measures import Measure
from hypertuning.reporting.sections import Figure, Section, Table, Text
from hypertuning.reporting.sweep_results import SEED, Sweep


def against_axis(
  sweep: Sweep,
  *,
  axis: str,
  methods: Mapping[str, tuple[str, str]],
  name: str,
  title: str,
  label: str | None = None,
  task: str = 'average',
  metric: str = 'accuracy',
  text: str = '',
) -> Section:
  """One metric of several methods along an axis of the sweep.

  Args:
    sweep: the sweep whose evaluations are shown.
    axis: name of an axis of the sweep. Points whose names are all numbers are
      drawn at their numbers, others at equal distances.
    methods: name of each method to the stage that evaluates it, whose cells
      differ along this axis, and the phi mode to show.
    name: name of the section, which its files get too.
    title: heading of the section.
    label: what the axis is called in the section; its own name if None.
    task: a task of `results.jsonl`.
    metric: a field of `results.jsonl`.
    text: a sentence that explains the section, below the heading.

  Raises:
    UserError: the sweep or a stage does not have this axis, or no finished run
      has the stage, phi mode, task or metric.
  """
  points = sweep.axes.get(axis)
  if not points:
    raise UserError(
      f'{sweep.plan}: no axis {axis!r}; there is '
      f'{", ".join(sweep.axes) or "none"}.'
    )
  stages = [sweep.stage(stage, (axis, SEED)) for stage, _ in methods.values()]
  for stage in stages:
    if axis not in stage.axes:
      raise UserError(
        f'{sweep.plan}: the cells of {stage.name!r} do not '
        f'differ along {axis!r}.'
      )
  places = _places(points)
  # Points that a later start has added come last in the sweep.
  points = sorted(points, key=lambda point: places[point])
  found: dict[str, dict[str, Measure]] = {}
  for stage, (method, (_, phi)) in zip(stages, methods.items(), strict=True):
    where = {'phi': (phi,), 'task': (task,)}
    found[method] = {
      point: measures.of_stage(
        stage,
        where,
        metric,
        [cell for cell in stage.cells if cell.point[axis] == point],
      )
      for point in points
    }
    if all(measure.unknown for measure in found[method].values()):
      raise UserError(found[method][points[0]].unknown)
  return Section(
    name,
    title,
    text,
    [Figure(_lines(found, points, label or axis, metric, name), '', stages)],
    [
      Table(
        name,
        ['method', *(f'{label or axis} {point}' for point in points)],
        [
          [Text(method), *(_shown(metric, m) for m in row.values())]
          for method, row in found.items()
        ],
        [
          {
            'method': method,
            axis: point,
            'metric': metric,
            **sections.record(measure),
          }
          for method, row in found.items()
          for point, measure in row.items()
        ],
        sections.INTERVALS,
        stages,
      )
    ],
  )


def _shown(metric: str, measure: Measure) -> Text:
  if measure.unknown:
    return Text('not measured', 'absent')
  return sections.number(metric, measure)


def _lines(
  found: Mapping[str, Mapping[str, Measure]],
  points: Sequence[str],
  label: str,
  metric: str,
  name: str,
) -> str:
  figure, (axis,) = plots.panels(1, 6.4, 3.4)
  places = _places(points)
  for method, colour in plots.colours(list(found)):
    drawn = [
      (places[point], measure.estimate)
      for point, measure in found[method].items()
      if measure.estimate is not None
    ]
    plots.band(axis, drawn, method, colour, marker='o')
  axis.set_xticks(list(places.values()), list(places))
  axis.set_xlabel(label)
  axis.set_ylabel(metric)
  plots.legend(figure, axis)
  return plots.svg(figure, name)


def _places(points: Sequence[str]) -> dict[str, float]:
  """Where points are drawn: at their number, or one beside another."""
  try:
    return {point: float(point) for point in points}
  except ValueError:
    return {point: float(index) for index, point in enumerate(points)}
