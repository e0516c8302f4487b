"""Shows a metric against an axis of the sweep, such as shots or steps."""

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
  """Shows one metric of several methods along an axis of the sweep.

  Args:
    sweep: sweep whose evaluations are shown.
    axis: name of an axis of the sweep. If the labels of all its points are
      numbers, points are drawn at these numbers; otherwise, at equal distances.
    methods: maps the name of each method to the stage that evaluates it, whose
      cells differ along this axis, and the phi mode that is shown.
    name: name of the section and of its files.
    title: heading of the section.
    label: label of the axis in the section; None takes the name of the axis.
    task: name of a task in `results.jsonl`.
    metric: name of a field in `results.jsonl`.
    text: sentence below the heading, which explains the section.

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
  # Points that were added by a later start of the sweep come last in its plan.
  points = sorted(points, key=lambda point: places[point])
  by_method: dict[str, dict[str, Measure]] = {}
  for stage, (method, (_, phi)) in zip(stages, methods.items(), strict=True):
    conditions = {'phi': (phi,), 'task': (task,)}
    by_method[method] = {
      point: measures.of_stage(
        stage,
        conditions,
        metric,
        [cell for cell in stage.cells if cell.point[axis] == point],
      )
      for point in points
    }
    if all(measure.unknown for measure in by_method[method].values()):
      raise UserError(by_method[method][points[0]].unknown)
  return Section(
    name,
    title,
    text,
    [
      Figure(_lines(by_method, points, label or axis, metric, name), '', stages)
    ],
    [
      Table(
        name,
        ['method', *(f'{label or axis} {point}' for point in points)],
        [
          [Text(method), *(_cell_text(metric, m) for m in row.values())]
          for method, row in by_method.items()
        ],
        [
          {
            'method': method,
            axis: point,
            'metric': metric,
            **sections.record(measure),
          }
          for method, row in by_method.items()
          for point, measure in row.items()
        ],
        sections.INTERVALS,
        stages,
      )
    ],
  )


def _cell_text(metric: str, measure: Measure) -> Text:
  if measure.unknown:
    return Text('not measured', 'absent')
  return sections.number(metric, measure)


def _lines(
  by_method: Mapping[str, Mapping[str, Measure]],
  points: Sequence[str],
  label: str,
  metric: str,
  name: str,
) -> str:
  figure, (axis,) = plots.panels(1, 6.4, 3.4)
  places = _places(points)
  for method, colour in plots.colours(list(by_method)):
    line = [
      (places[point], measure.estimate)
      for point, measure in by_method[method].items()
      if measure.estimate is not None
    ]
    plots.band(axis, line, method, colour, marker='o')
  axis.set_xticks(list(places.values()), list(places))
  axis.set_xlabel(label)
  axis.set_ylabel(metric)
  plots.legend(figure, axis)
  return plots.svg(figure, name)


def _places(points: Sequence[str]) -> dict[str, float]:
  """The places of points on the axis: their numbers, or equal distances."""
  try:
    return {point: float(point) for point in points}
  except ValueError:
    return {point: float(index) for index, point in enumerate(points)}
