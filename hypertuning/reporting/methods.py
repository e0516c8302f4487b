"""Compares methods by one metric, as a table and as bars."""

from collections.abc import Mapping, Sequence

from hypertuning.errors import UserError
from hypertuning.reporting import measures, plots, sections
from hypertuning.reporting.measures import Measure
from hypertuning.reporting.sections import Figure, Section, Table, Text
from hypertuning.reporting.sweep_results import Sweep

# Blue bars are methods that generate phi from examples.
_GREY, _BLUE = '#9aa5b1', plots.COLOURS[0]


def methods(
  sweep: Sweep,
  *,
  methods: Mapping[str, tuple[str, str]],
  tasks: Mapping[str, str] | None = None,
  metric: str = 'accuracy',
  name: str = 'methods',
  title: str = 'Accuracy by method',
  text: str = 'Accuracy on held-out tasks, percent.',
  highlighted: Sequence[str] = (),
  drawn: Sequence[str] | None = None,
  optional: Mapping[str, str] | None = None,
) -> Section:
  """Compares the evaluations of methods.

  Args:
    sweep: sweep whose evaluations are compared.
    methods: maps the name of each method to the stage that evaluates it, and
      the phi mode.
    tasks: maps the name of each task that is shown to its column, in the order
      of the columns. None shows all tasks under their own names.
    metric: name of a field in `results.jsonl`.
    name: name of the section and of its files.
    title: heading of the section.
    text: sentence below the heading, which explains the section.
    highlighted: names of the methods whose bars have the accent colour.
    drawn: names of the columns that the figure shows; None shows all.
    optional: maps the names of methods that need not have been evaluated to the
      text that is then shown in place of their numbers.

  Returns:
    The section.

  Raises:
    UserError: no finished run has the stage, phi mode, task or metric.
  """
  absent = {
    method: text
    for method, text in (optional or {}).items()
    if method in methods and not sweep.has(methods[method][0])
  }
  names_of_rows = [*methods]
  methods = {m: place for m, place in methods.items() if m not in absent}
  if tasks is None:
    tasks = {task: task for task in _tasks(sweep, methods, metric)}
  columns = list(dict.fromkeys(tasks.values()))
  names = {
    column: [task for task in tasks if tasks[task] == column]
    for column in columns
  }
  table = {
    method: {
      column: measures.of_stage(
        sweep.stage(stage), {'phi': (phi,), 'task': names[column]}, metric
      )
      for column in columns
    }
    for method, (stage, phi) in methods.items()
  }
  _check(table, columns)
  drawn = columns if drawn is None else drawn
  if unknown_columns := set(drawn) - set(columns):
    raise UserError(
      f'methods.drawn: no column {min(unknown_columns)!r}; there is '
      f'{", ".join(columns)}.'
    )
  stages = list(
    {stage: sweep.stage(stage) for stage, _ in methods.values()}.values()
  )
  return Section(
    name,
    title,
    text,
    [Figure(_bars(table, drawn, metric, name, highlighted), '', stages)],
    [
      Table(
        name,
        ['method', *columns],
        [
          [
            Text(method),
            *(
              Text(absent[method])
              if method in absent
              else _cell_text(metric, table[method][column])
              for column in columns
            ),
          ]
          for method in names_of_rows
        ],
        [
          {
            'method': method,
            'task': column,
            'metric': metric,
            **sections.record(row[column]),
          }
          for method, row in table.items()
          for column in columns
          if not row[column].unknown
        ],
        sections.INTERVALS,
        stages,
      )
    ],
  )


def _tasks(
  sweep: Sweep, methods: Mapping[str, tuple[str, str]], metric: str
) -> list[str]:
  names = {
    row['task']: None
    for stage, phi in methods.values()
    for cell in sweep.stage(stage).finished_cells
    for row in cell.tables.get('results', ())
    if row.get('phi') == phi and metric in row and 'task' in row
  }
  return list(names) or ['average']


def _check(
  table: Mapping[str, Mapping[str, Measure]], columns: Sequence[str]
) -> None:
  """Refuses a method or a column for which no finished run has a number."""
  slices = [list(row.values()) for row in table.values()]
  slices += [[row[column] for row in table.values()] for column in columns]
  for numbers in slices:
    if all(measure.unknown for measure in numbers):
      raise UserError(numbers[0].unknown)


def _cell_text(metric: str, measure: Measure) -> Text:
  # A method need not have been evaluated on every task.
  return Text('') if measure.unknown else sections.number(metric, measure)


def _bars(
  table: Mapping[str, Mapping[str, Measure]],
  columns: Sequence[str],
  metric: str,
  name: str,
  highlighted: Sequence[str],
) -> str:
  width = 2.4 + 2.6 * len(columns)
  figure, axes = plots.panels(
    len(columns), width, 0.8 + 0.32 * len(table), sharey=True
  )
  for axis, column in zip(axes, columns, strict=True):
    estimates = {m: row[column].estimate for m, row in table.items()}
    labels = [sections.label(metric, row[column]) for row in table.values()]
    colours = [_BLUE if m in highlighted else _GREY for m in table]
    plots.bars(axis, estimates, labels, colours)
    axis.set_title(column)
    axis.set_xlabel(metric)
  axes[0].invert_yaxis()  # the first method on top; the panels share the axis
  return plots.svg(figure, name)
