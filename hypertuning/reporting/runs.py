"""Shows a table of all runs of the sweep, with their states."""

import json

from hypertuning.reporting.sections import Section, Table, Text
from hypertuning.reporting.sweep_results import (
  DONE,
  FAILED,
  MISSING,
  Cell,
  Sweep,
)

_KINDS = {DONE: 'holds', FAILED: 'fails', MISSING: 'absent'}


def runs(sweep: Sweep, *, name: str = 'runs', title: str = 'Runs') -> Section:
  """Lists the cells of the sweep, one per row.

  Args:
    sweep: sweep whose cells are listed.
    name: name of the section and of its files.
    title: heading of the section.

  Returns:
    The section.
  """
  cells = [(stage, c) for stage in sweep.stages.values() for c in stage.cells]
  table = Table(
    name,
    ['run', 'state', 'seconds', 'command', 'gin files'],
    [
      [
        Text(cell.name),
        Text(cell.state_text, _KINDS[cell.state]),
        Text(_seconds(cell), 'number'),
        Text(f'python -m {stage.command}'),
        Text(', '.join(cell.gin_files)),
      ]
      for stage, cell in cells
    ],
    [
      {
        'run': cell.name,
        'state': cell.state,
        'reason': cell.reason,
        'seconds': cell.seconds,
        'command': stage.command,
        'gin files': ' '.join(cell.gin_files),
        'bindings': json.dumps(cell.bindings, ensure_ascii=False),
      }
      for stage, cell in cells
    ],
  )
  counts = {
    state: sum(cell.state == state for _, cell in cells)
    for state in (DONE, FAILED, MISSING)
  }
  seconds = sum(cell.seconds or 0.0 for _, cell in cells)
  summary = ', '.join(f'{count} {state}' for state, count in counts.items())
  text = (
    f'{len(cells)} runs: {summary}; {seconds:,.0f} seconds in all, where one '
    'that was stopped counts from its last start.'
  )
  return Section(name, title, text, [], [table])


def _seconds(cell: Cell) -> str:
  return '' if cell.seconds is None else f'{cell.seconds:,.1f}'
