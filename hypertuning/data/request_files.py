"""Reads requests that a user wrote: a JSONL file with one task per line.

{"examples": [{"inputs": "7c", "targets": "cB"}, ...], "queries": ["3c"]}

A line may also have a "definition", a text that says what the task is.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hypertuning import text_files
from hypertuning.data import layout, task_lines
from hypertuning.data.task_lines import Example
from hypertuning.data.text_format import TextFormat
from hypertuning.errors import UserError

_FORM = (
  '{"examples": [{"inputs": "...", "targets": "..."}], "queries": ["..."]}'
)


@dataclasses.dataclass(frozen=True)
class Request:
  """A task in the file, with all or some of its queries.

  Attributes:
    line: number of the task's line in the file, counted from 1.
    examples: examples of the task, as pairs of input and target.
    queries: inputs that the model answers.
    definition: text that says what the task is; it may be empty.
  """

  line: int
  examples: Sequence[Example]
  queries: Sequence[str]
  definition: str = ''


def read(path: str) -> list[Request]:
  """The tasks of a file.

  Raises:
    UserError: there is no such file, it is empty or not UTF-8, or a line has
      another form; the message names the file and the line.
  """
  missing = f'no such file; give a JSONL file of {_FORM}.'
  requests = [
    _parse(path, number, line)
    for number, line in text_files.lines(path, missing)
  ]
  if not requests:
    raise UserError(f'{path}: no tasks in it; write one line each: {_FORM}.')
  return requests


def divide(requests: Sequence[Request], queries: int) -> Iterator[Request]:
  """Divides requests, so that each has at most `queries` queries."""
  for request in requests:
    for start in range(0, len(request.queries), queries):
      yield dataclasses.replace(
        request, queries=request.queries[start : start + queries]
      )


def episodes(
  requests: Sequence[Request],
  lengths: Mapping[str, Any],
  text_format: TextFormat,
  in_context: bool = False,
  taught: bool = False,
) -> list[dict[str, np.ndarray]]:
  """Turns requests into token features, as is done for all other tasks.

  Args:
    requests: requests, each with at most as many queries as `lengths` has room
      for.
    lengths: value of TASK_FEATURE_LENGTHS.
    text_format: format of the model's text.
    in_context: whether examples stand before every query, see
      `layout.task_features`.
    taught: whether there are inputs for a teacher, see
      `layout.task_features`.

  Returns:
    The result of `layout.task_features` for each request, in order. As answers
    are not known, targets hold only the ids that end an answer.

  Raises:
    UserError: a query does not fit. In training, a long query loses its first
      tokens; here, the model would then answer another question than was asked.
  """
  room = lengths['inputs'][-1]
  for request in requests:
    for query in request.queries:
      size = len(text_format.query(query))
      if size > room:
        raise UserError(
          f'Line {request.line}: the query {query[:40]!r} has {size} tokens, '
          f"but TASK_FEATURE_LENGTHS['inputs'] = {lengths['inputs']!r} has "
          f'room for {room}.'
        )
  return [
    layout.task_features(
      _texts(request), lengths, text_format, in_context, taught
    )
    for request in requests
  ]


def _texts(request: Request) -> layout.Texts:
  """The texts of a request, with empty targets."""
  return layout.Texts(
    request.examples,
    request.queries,
    [''] * len(request.queries),
    request.definition,
  )


def _parse(path: str, number: int, line: str) -> Request:
  task = task_lines.parse(path, number, line, _FORM)
  queries = task.fields.get('queries')
  if not isinstance(queries, list) or not all(
    isinstance(query, str) for query in queries
  ):
    raise UserError(
      f'{task.place}: "queries" must be a list of strings; write {_FORM}.'
    )
  if not queries:
    raise UserError(f'{task.place}: "queries" is empty; ask one or more.')
  return Request(
    number,
    task.pairs('examples'),
    task.texts('queries', queries),
    task.definition(),
  )
