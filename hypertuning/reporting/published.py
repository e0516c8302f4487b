"""Published numbers, and beside them those of the sweep's own runs."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

from hypertuning.errors import UserError
from hypertuning.reporting import measures, sections
from hypertuning.reporting.cells import Sweep
from hypertuning.reporting.measures import Source
from hypertuning.reporting.sections import Section, Table, Text

FILE = pathlib.Path(__file__).with_name('published.csv')
COLUMNS = ('benchmark', 'size', 'method', 'task', 'value', 'metric', 'source')
Key = tuple[str, str, str, str]  # benchmark, size, method and task


def published(
  sweep: Sweep,
  *,
  measured: Mapping[Key, Source] | None = None,
  benchmarks: Sequence[str] | None = None,
  file: str = str(FILE),
  name: str = 'published',
  title: str = 'Published numbers',
) -> Section:
  """Numbers of papers, with a column of their own for those of the runs.

  Args:
    sweep: with the evaluations.
    measured: (benchmark, size, method, task) of the file to (stage, phi mode,
      task) of the evaluation that measures the same.
    benchmarks: those shown; None for all.
    file: CSV with the columns `COLUMNS`.
    name: of the section and its files.
    title: above it.

  Raises:
    UserError: the file is no such table, or something named is not there.
  """
  rows = _read(pathlib.Path(file))
  measured = measured or {}
  _check(file, {_key(row) for row in rows}, measured, benchmarks)
  shown, records, stages = [], [], {}
  for row in rows:
    if benchmarks is not None and row['benchmark'] not in benchmarks:
      continue
    ours, told = Text(''), {}
    if _key(row) in measured:
      measure = measures.result(sweep, measured[_key(row)], row['metric'])
      stages[measure.stage.name] = measure.stage
      ours = sections.number(row['metric'], measure)
      told = {
        f'measured {column}': cell
        for column, cell in sections.record(measure).items()
      }
    texts = {column: Text(row[column]) for column in COLUMNS}
    texts['value'] = Text(row['value'], 'number')
    source = texts.pop('source')
    shown.append([*texts.values(), ours, source])
    records.append({**row, **told})
  table = Table(
    name,
    [*COLUMNS[:4], 'published', 'metric', 'measured here', 'source'],
    shown,
    records,
    'What was not run here is empty in "measured here".',
    list(stages.values()),
  )
  text = 'Published numbers are of the papers’ models, as their authors say.'
  return Section(name, title, text, [], [table])


def _read(path: pathlib.Path) -> list[dict[str, str]]:
  try:
    with path.open(encoding='utf-8', newline='') as file:
      reader = csv.DictReader(file)
      rows = list(reader)
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f'{path}: cannot be read ({error}).') from error
  if tuple(reader.fieldnames or ()) != COLUMNS:
    raise UserError(f'{path}: its columns must be {",".join(COLUMNS)}.')
  for row in rows:
    if None in row or None in row.values():
      raise UserError(f'{path}: a row with other columns than its head: {row}.')
  return rows


def _key(row: Mapping[str, str]) -> Key:
  return row['benchmark'], row['size'], row['method'], row['task']


def _check(
  file: str,
  keys: set[Key],
  measured: Mapping[Key, Source],
  benchmarks: Sequence[str] | None,
) -> None:
  for key in measured:
    if key not in keys:
      raise UserError(f'published.measured: {file} has no {key!r}.')
  there = {key[0] for key in keys}
  for benchmark in benchmarks or ():
    if benchmark not in there:
      raise UserError(
        f'published.benchmarks: {file} has no {benchmark!r}; there is '
        f'{", ".join(sorted(there))}.'
      )
