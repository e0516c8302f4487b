"""Writes a page about a sweep: tables, figures, and where each number is from.

    python -m hypertuning.report --gin_file=gin/experiments/claims/report.gin \\
      --gin.SWEEP_DIR="'runs/claims'"

Reads the results of the cells that `hypertuning.sweep` has run so far. Writes
`report.html`, which can be read without a network, and each of its tables as
`<name>.md` and `<name>.csv`. Where the number of a missing or failed run would
stand, the page names the run instead.
"""

if __name__ == '__main__':
  from hypertuning import gin_utils

  # Before the imports below; the docstring of `gin_utils.run` says why.
  gin_utils.run('hypertuning.report', 'report')

import re
from collections.abc import Callable, Sequence

from etils import epath

from hypertuning import files, gin_effect
from hypertuning.errors import UserError
from hypertuning.ranges import Path
from hypertuning.reporting import page, sweep_results
from hypertuning.reporting.sections import Section
from hypertuning.reporting.sweep_results import Aggregate, Sweep


def report(
  *,
  sweep_dir: Path,
  sections: Sequence[Callable[[Sweep], Section]],
  title: str,
  aggregate: Aggregate | None = None,
) -> epath.Path:
  """Writes the page and its tables into the sweep's folder.

  Args:
    sweep_dir: folder of the sweep.
    sections: functions that make the sections of the page, in order, such as
      `@claims.claims`. The tables of the first section are printed as well.
    title: title of the page.
    aggregate: function from the rows of tasks to further rows, such as
      `@p3.aggregate`. It is applied to evaluations by t5x, which does not
      compute means over tasks.

  Returns:
    Path of the page.

  Raises:
    UserError: the folder has no sweep, or a section names a stage, axis or
      metric that the sweep does not have.
  """
  sweep = sweep_results.read(sweep_dir, aggregate)
  files.check_writable(sweep_dir, 'SWEEP_DIR')
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
  gin_effect.check_overridden()
  for table in tables:
    files.write_text(sweep_dir, f'{table.name}.md', page.markdown(table))
    records = page.as_csv(table.records)
    files.write_text(sweep_dir, f'{table.name}.csv', records)
  text = page.html(title, sweep_dir, parts)
  files.write_text(sweep_dir, 'report.html', text)
  path = sweep.folder / 'report.html'
  for table in parts[0].tables if parts else ():
    print(page.markdown(table))
  print(f'Report: {path}')
  return path
