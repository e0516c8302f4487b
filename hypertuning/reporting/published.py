"""Shows published numbers beside the numbers of the sweep's own runs."""

import csv
import io
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence

from hypertuning import text_files
from hypertuning.errors import UserError
from hypertuning.reporting import measures, sections
from hypertuning.reporting.measures import Measure
from hypertuning.reporting.sections import Section, Table, Text
from hypertuning.reporting.sweep_results import Sweep

FILE = pathlib.Path(__file__).with_name('published.csv')
COLUMNS = ('benchmark', 'size', 'method', 'task', 'value', 'metric', 'source')
Key = tuple[str, str, str, str]  # benchmark, size, method and task
Method = tuple[str, str, str]  # benchmark, size and method
# The stage, the phi mode, and a dict from tasks of the evaluation to tasks of
# the file.
Source = tuple[str, str, Mapping[str, str]]
Row = Mapping[str, str]


def published(
  sweep: Sweep,
  *,
  measured: Mapping[Method, Source] | None = None,
  benchmarks: Sequence[str] | None = None,
  gin_file: str | None = None,
  file: str = str(FILE),
  name: str = 'published',
  title: str = 'Published numbers',
  text: str = 'Published numbers are of the papers’ models, as their authors '
  'say.',
) -> Section:
  """Shows the numbers of papers, and those of the runs in columns of their own.

  Args:
    sweep: sweep whose evaluations are shown.
    measured: maps (benchmark, size, method) in the file to the evaluation that
      measures the same: its stage, its phi mode, and a dict from its tasks to
      the tasks of the file.
    benchmarks: names of the benchmarks that are shown; None shows all.
    gin_file: gin file of the model's size, which the evaluations must have been
      run with; None allows any size.
    file: path of a CSV file with the columns `COLUMNS`. A row without a value
      is a number that was not found; it is shown only where it is measured.
    name: name of the section. The names of its files start with it, and also
      have the benchmark, the size and the metric.
    title: heading of the section.
    text: sentences below the heading, which explain the section.

  Returns:
    The section.

  Raises:
    UserError: the file is no such table or lacks a number that is named, or an
      evaluation was run with another size.
  """
  rows = _read(pathlib.Path(file))
  metrics = {_key(row): row['metric'] for row in rows}
  sources = {
    (*method, column): (stage, phi, task)
    for method, (stage, phi, tasks) in (measured or {}).items()
    for task, column in tasks.items()
  }
  _check(file, metrics, sources, benchmarks)
  ours = {
    key: (metrics[key], measures.result(sweep, source, metrics[key]))
    for key, source in sources.items()
  }
  for _, measure in ours.values():
    _check_size(measure, gin_file)
  groups: dict[str, list[Row]] = {}
  for row in rows:
    if not row['value'] and _key(row) not in ours:
      continue
    if benchmarks is None or row['benchmark'] in benchmarks:
      group = f'{row["benchmark"]}, {row["size"]}, {row["metric"]}'
      groups.setdefault(group, []).append(row)
  tables = [
    _table(f'{name} {group}', group, group_rows, ours)
    for group, group_rows in groups.items()
  ]
  return Section(name, title, text, [], tables)


def _table(
  name: str,
  group: str,
  rows: Sequence[Row],
  ours: Mapping[Key, tuple[str, Measure]],
) -> Table:
  """A table of one benchmark and size: methods are rows, tasks are columns."""
  tasks = list(dict.fromkeys(row['task'] for row in rows))
  measured_tasks = [
    t for t in tasks if any(_key(r) in ours for r in rows if r['task'] == t)
  ]
  methods: dict[str, dict[str, Row]] = {}
  for row in rows:
    methods.setdefault(row['method'], {})[row['task']] = row
  lines = []
  for method, by_task in methods.items():
    values = [
      Text(by_task[task]['value'] if task in by_task else '', 'number')
      for task in tasks
    ]
    texts = [_own_number(by_task.get(task), ours) for task in measured_tasks]
    texts = texts or [Text('')]
    sources = dict.fromkeys(row['source'] for row in by_task.values())
    lines.append([Text(method), *values, *texts, Text('; '.join(sources))])
  stages = {
    ours[_key(row)][1].stage.name: ours[_key(row)][1].stage
    for row in rows
    if _key(row) in ours
  }
  heads = [f'{task}, measured here' for task in measured_tasks]
  heads = heads or ['measured here']
  return Table(
    re.sub(r'\W+', '_', name).lower(),
    [group, *tasks, *heads, 'source'],
    lines,
    [{**row, **_record(row, ours)} for row in rows],
    'What no stage stands for is empty.',
    list(stages.values()),
  )


def _own_number(
  row: Row | None, ours: Mapping[Key, tuple[str, Measure]]
) -> Text:
  if row is None or _key(row) not in ours:
    return Text('')
  return sections.number(*ours[_key(row)])


def _record(
  row: Row, ours: Mapping[Key, tuple[str, Measure]]
) -> dict[str, object]:
  if _key(row) not in ours:
    return {}
  _, measure = ours[_key(row)]
  record = sections.record(measure)
  return {f'measured {column}': value for column, value in record.items()}


def _read(path: pathlib.Path) -> list[Row]:
  text = text_files.read_text(path)
  reader = csv.DictReader(io.StringIO(text, newline=''))
  try:
    rows: list[Row] = list(reader)
  except csv.Error as error:
    raise UserError(
      f'{path}:{reader.line_num}: not a row ({error}).'
    ) from error
  if tuple(reader.fieldnames or ()) != COLUMNS:
    raise UserError(f'{path}: its columns must be {",".join(COLUMNS)}.')
  for row in rows:
    if None in row or None in row.values():
      raise UserError(f'{path}: a row with other columns than its head: {row}.')
  return rows


def _key(row: Row) -> Key:
  return row['benchmark'], row['size'], row['method'], row['task']


def _check(
  file: str,
  keys: Collection[Key],
  measured_keys: Collection[Key],
  benchmarks: Sequence[str] | None,
) -> None:
  for key in measured_keys:
    if key not in keys:
      raise UserError(f'published.measured: {file} has no {key!r}.')
  known_benchmarks = {key[0] for key in keys}
  for benchmark in benchmarks or ():
    if benchmark not in known_benchmarks:
      raise UserError(
        f'published.benchmarks: {file} has no {benchmark!r}; there is '
        f'{", ".join(sorted(known_benchmarks))}.'
      )


def _check_size(measure: Measure, gin_file: str | None) -> None:
  for cell in measure.stage.cells:
    if gin_file is not None and gin_file not in cell.gin_files:
      raise UserError(
        f'published.gin_file: {cell.name} was not run with {gin_file}, but '
        f'with {", ".join(cell.gin_files)}.'
      )
