"""Writes one page from the runs of a sweep: tables, figures, and their origin.

    python -m hypertuning.report --gin_file=gin/experiments/claims/report.gin \\
      --gin.SWEEP_DIR="'runs/claims'"

Reads what `hypertuning.sweep` has run so far. Writes `report.html`, which needs
no network, and each table of it as `<name>.md` and `<name>.csv`. A run that is
missing or failed is named where its number would stand.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  gin_utils.run('hypertuning.report', 'report')  # see there why it comes first

import pathlib
import re
from collections.abc import Callable, Sequence

from hypertuning.engine import summaries
from hypertuning.errors import UserError
from hypertuning.reporting import page, sweep_results
from hypertuning.reporting.sections import Section
from hypertuning.reporting.sweep_results import Aggregate, Sweep


def report(
  *,
  sweep_dir: str,
  sections: Sequence[Callable[[Sweep], Section]],
  title: str,
  aggregate: Aggregate | None = None,
) -> pathlib.Path:
  """Writes the page and its tables into the sweep's folder.

  Args:
    sweep_dir: folder of the sweep.
    sections: functions that make the sections, such as `@claims.claims`, in
      order; the tables of the first section are printed too.
    title: title of the page.
    aggregate: function from rows of tasks to further rows, such as
      `@p3.aggregate`, for evaluations by t5x, which has no means over tasks.

  Returns:
    Path of the page.

  Raises:
    UserError: there is no sweep, or a section names what the sweep does not
      have.
  """
  sweep = sweep_results.read(sweep_dir, aggregate)
  parts = [section(sweep) for section in sections]
  tables = [table for section in parts for table in section.tables]
  for kind, names in {
    'sections': [section.name for section in parts],
    'tables': [table.name for table in tables],
  }.items():
    for name in names:
      if not re.fullmatch(r'[\w-]+', name):
        raise UserError(
          f'report.sections: {name!r} is no name for a file: give letters, '
          'digits, _ and -.'
        )
      if names.count(name) > 1:
        raise UserError(
          f'report.sections: two {kind} are called {name!r}; bind another name '
          'for one of them.'
        )
  for table in tables:
    summaries.write_text(sweep_dir, f'{table.name}.md', page.markdown(table))
    records = page.as_csv(table.records)
    summaries.write_text(sweep_dir, f'{table.name}.csv', records)
  text = page.html(title, sweep_dir, parts)
  summaries.write_text(sweep_dir, 'report.html', text)
  path = pathlib.Path(sweep_dir, 'report.html')
  for table in parts[0].tables if parts else ():
    print(page.markdown(table))
  print(f'Report: {path}')
  return path
