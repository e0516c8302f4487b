"""Shows how far a text's own phi lowers the loss during hyperpretraining."""

from collections.abc import Mapping

from hypertuning.reporting import curves, plots, sections, statistics
from hypertuning.reporting.sections import Figure, Section, Table, Text
from hypertuning.reporting.sweep_results import Cell, Stage, Sweep

_MODES = {
  'generated': "the text's own phi",
  'other': "another text's phi",
  'none': 'no phi',
}
_FIELDS = {mode: f'eval/loss/{mode}' for mode in _MODES}
_COLOURS = dict(zip(_MODES, plots.COLOURS, strict=False))


def losses(
  sweep: Sweep,
  *,
  stages: Mapping[str, str],
  name: str = 'hyperpretraining',
  title: str = 'Loss during hyperpretraining',
) -> Section:
  """Shows the loss on held-out text against training steps, in each phi mode.

  Args:
    sweep: sweep whose training runs are shown.
    stages: maps the name of each kind of adapter to the stage that trains it.
    name: name of the section and of its files.
    title: heading of the section.

  Raises:
    UserError: the sweep lacks a stage, or a finished run has no such losses.
  """
  by_kind = {kind: sweep.stage(stage) for kind, stage in stages.items()}
  figure, axes = plots.panels(
    len(by_kind), 1.0 + 3.6 * len(by_kind), 3.2, sharey=True
  )
  rows, records = [], []
  for axis, (kind, stage) in zip(axes, by_kind.items(), strict=True):
    lines = curves.read(
      stage, _line, 'metrics.jsonl', ', '.join(_FIELDS.values())
    )
    for mode, label in _MODES.items():
      plots.band(axis, lines.estimates(mode), label, _COLOURS[mode])
    axis.set_title(sections.line_label(kind, lines))
    axis.set_xlabel('steps of hyperpretraining')
    row, numbers = _last_step(kind, stage, lines)
    rows.append(row)
    records += numbers
  axes[0].set_ylabel('loss, nats per token')
  plots.legend(figure, axes[0])
  all_stages = list(by_kind.values())
  note = (
    'Bands and ±: 95% intervals over seeds (Student’s t); one run has none.'
  )
  table = Table(
    name,
    [
      '',
      'step',
      *_MODES.values(),
      "another's − own",
      'none − own',
    ],
    rows,
    records,
    f'{note} Differences are paired by seed.',
    all_stages,
  )
  return Section(
    name,
    title,
    'Loss on held-out text: the hypermodel reads what stands around it, or '
    'around another text.',
    [Figure(plots.svg(figure, name), note, all_stages)],
    [table],
  )


def _line(cell: Cell) -> curves.Line:
  return {
    row['step']: {mode: row[field] for mode, field in _FIELDS.items()}
    for row in cell.tables.get('metrics', ())
    if all(field in row for field in ('step', *_FIELDS.values()))
  }


def _last_step(
  kind: str, stage: Stage, lines: curves.Curves
) -> tuple[list[Text], list[dict[str, object]]]:
  """The last step of a stage: a row of the table, and its CSV records."""
  if not lines.steps:
    absent = Text(lines.problem, 'absent')
    return [Text(kind), absent, *[Text('')] * (len(_MODES) + 2)], []
  step = lines.steps[-1]
  values = {mode: lines.values_at(step, mode) for mode in _MODES}
  estimates = {mode: statistics.mean(values[mode]) for mode in _MODES}
  for mode in ('other', 'none'):
    estimates[f'{mode} - generated'] = statistics.difference(
      values[mode], values['generated']
    )
  row = [Text(kind), Text(f'{step:g}', 'number')]
  row += [
    sections.estimate_text('loss', e, lines.planned_runs)
    for e in estimates.values()
  ]
  records = [
    {
      'stage': stage.name,
      'step': step,
      'loss': name,
      **sections.estimate_record(estimate, lines.planned_runs, lines.problem),
    }
    for name, estimate in estimates.items()
  ]
  return row, records
