"""Writes sections as one HTML page, and their tables as Markdown and CSV."""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence

import jinja2

from hypertuning import tables
from hypertuning.reporting.sections import Section, Table
from hypertuning.reporting.sweep_results import Stage

_TEMPLATE = pathlib.Path(__file__).with_name('page.html.jinja')


def html(title: str, folder: str, sections: Sequence[Section]) -> str:
  """A whole report as HTML, which needs no other file and no network.

  Args:
    title: title of the page.
    folder: folder of the sweep, which the page names.
    sections: sections of the page, in order.
  """
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  template = environment.from_string(_TEMPLATE.read_text('utf-8'))
  return template.render(
    title=title, folder=folder, sections=sections, provenance=provenance
  )


def provenance(stages: Sequence[Stage]) -> dict[str, str]:
  """Maps the finished runs of each stage to the gin files of their commands."""
  sources = {}
  for stage in stages:
    runs = [cell.name for cell in stage.finished_cells]
    files = dict.fromkeys(
      f for cell in stage.finished_cells for f in cell.gin_files
    )
    if runs:
      sources[', '.join(runs)] = ', '.join(files)
  return sources


def markdown(table: Table) -> str:
  """A table as Markdown."""
  lines = [list(table.columns)]
  lines += [
    [f'{c.text} ({c.small})' if c.small else c.text for c in row]
    for row in table.rows
  ]
  return tables.markdown([list(map(_plain, line)) for line in lines])


def as_csv(records: Sequence[Mapping[str, object]]) -> str:
  """The records of a table as CSV, with all fields that any record has."""
  columns = list(dict.fromkeys(name for record in records for name in record))
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, lineterminator='\n')
  writer.writeheader()
  writer.writerows(records)
  return text.getvalue()


def _plain(text: str) -> str:
  return ' '.join(text.replace('|', '\\|').split())
