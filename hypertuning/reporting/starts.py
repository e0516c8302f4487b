"""Compares the tuning of adapters on single tasks from several starts."""

import math
from collections.abc import Mapping

from hypertuning.errors import UserError
from hypertuning.reporting import curves, measures, plots, sections, statistics
from hypertuning.reporting.measures import Measure
from hypertuning.reporting.sections import Figure, Section, Table, Text
from hypertuning.reporting.sweep_results import Cell, Sweep

_CURVES = ('accuracy', 'loss')
_STEPS, _SECONDS = 'steps_to_target', 'seconds_to_target'
# Maps the heading of each column to the phi mode and the field that it shows.
_COLUMNS = {
  'accuracy at step 0': ('start', 'accuracy'),
  'accuracy at the end': ('tuned', 'accuracy'),
  'share that reaches the target': ('tuned', 'reached'),
  'steps to it': ('tuned', _STEPS),
  'seconds to it': ('tuned', _SECONDS),
}


def starts(
  sweep: Sweep,
  *,
  stages: Mapping[str, str],
  reference: str,
  task: str = 'average',
  name: str = 'starts',
  title: str = 'Tuning of phi from several starts',
  text: str = 'Phi itself is tuned on each held-out task; the curves are means '
  'over tasks.',
) -> Section:
  """Shows curves of tuning, and the steps and seconds that reach the target.

  Args:
    sweep: sweep with runs of `hypertuning.adapt`.
    stages: maps the name of each start to the stage that tunes from it.
    reference: name of the start whose numbers the others are divided by.
    task: name of the task in `results.jsonl` that the table shows.
    name: name of the section and of its files.
    title: heading of the section.
    text: sentence below the heading, which explains the section.

  Raises:
    UserError: the sweep lacks a stage, `reference` is not among the starts, or
      a finished run lacks a number.
  """
  if reference not in stages:
    raise UserError(
      f'starts.reference = {reference!r}: not among starts.stages, which are '
      f'{", ".join(stages)}.'
    )
  by_start = {start: sweep.stage(stage) for start, stage in stages.items()}
  figure, axes = plots.panels(len(_CURVES), 8.6, 3.2)
  for start, colour in plots.colours(list(by_start)):
    lines = curves.read(
      by_start[start],
      mean_over_tasks,
      'curves.jsonl',
      f'task, step, {", ".join(_CURVES)}',
    )
    label = sections.line_label(start, lines)
    for axis, field in zip(axes, _CURVES, strict=True):
      plots.band(axis, lines.estimates(field), label, colour)
  for axis, field in zip(axes, _CURVES, strict=True):
    axis.set_ylabel(field)
    axis.set_xlabel('tuning steps')
  plots.legend(figure, axes[0])
  numbers = {
    start: {
      column: measures.result(sweep, (stage, phi, task), field)
      for column, (phi, field) in _COLUMNS.items()
    }
    for start, stage in stages.items()
  }
  ratios = {f'{column} / {reference}': column for column in _ratio_columns()}
  rows, records = [], []
  for start, by_column in numbers.items():
    row = [Text(start)]
    for column, measure in by_column.items():
      row.append(_cell_text(column, measure))
      record = sections.record(measure)
      records.append({'start': start, 'number': column, **record})
    for head, column in ratios.items():
      ours, theirs = by_column[column], numbers[reference][column]
      first, second = measures.paired(ours, theirs)
      estimate = statistics.ratio(first, second) if first else None
      problem = ours.problem or theirs.problem
      row.append(
        sections.interval(estimate, ours.planned_runs)
        if estimate
        else Text(problem or 'no common seed', 'absent')
      )
      record = sections.estimate_record(estimate, ours.planned_runs, problem)
      records.append({'start': start, 'number': head, **record})
    rows.append(row)
  runs = list(by_start.values())
  return Section(
    name,
    title,
    text,
    [
      Figure(
        plots.svg(figure, name),
        'Bands: 95% intervals over seeds (Student’s t); one run has none.',
        runs,
      )
    ],
    [
      Table(
        name,
        ['start', *_COLUMNS, *ratios],
        rows,
        records,
        f'{sections.INTERVALS} Steps and seconds are means over tasks; a task '
        'that never reaches the target counts with all its steps. Seconds '
        'are of all tasks, which are tuned side by side. Ratios are paired by '
        'seed, with Fieller’s interval.',
        runs,
      )
    ],
  )


def _ratio_columns() -> list[str]:
  return [
    c for c, (_, field) in _COLUMNS.items() if field in (_STEPS, _SECONDS)
  ]


def _cell_text(column: str, measure: Measure) -> Text:
  estimate = measure.estimate
  if estimate is not None and _COLUMNS[column][1] == 'reached':
    return sections.interval(
      estimate, measure.planned_runs
    )  # a share, no percent
  return sections.number(_COLUMNS[column][1], measure)


def mean_over_tasks(cell: Cell) -> curves.Line:
  """The mean over tasks of a run's curves, at the steps that all tasks have."""
  tasks: dict[str, dict[float, Mapping[str, float]]] = {}
  for row in cell.tables.get('curves', ()):
    if any(name not in row for name in ('task', 'step', *_CURVES)):
      return {}
    tasks.setdefault(row['task'], {})[row['step']] = {
      field: row[field] if measures.is_number(row[field]) else math.nan
      for field in _CURVES
    }
  if not tasks:
    return {}
  first, *rest = tasks.values()
  steps = [step for step in first if all(step in other for other in rest)]
  return {
    step: {
      field: sum(line[step][field] for line in tasks.values()) / len(tasks)
      for field in _CURVES
    }
    for step in steps
  }
