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
  """Methods along an axis.

  Args:
    sweep: with the evaluations.
    axis: of the sweep; names of points that are numbers are drawn as such.
    methods: name of a method to the stage of its evaluation, which has this
      axis, and the phi mode there.
    name: of the section and its files.
    title: above it.
    label: of the axis; its name if None.
    task: of `results.jsonl`.
    metric: of `results.jsonl`.
    text: a sentence on it.

  Raises:
    UserError: the sweep or a stage has not this axis, or a stage, phi mode,
      task or the metric is in no finished run.
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
