"""The questions of recorded episodes, and how answers to them are measured.

A recording for evaluation has the file `questions.jsonl.gz`, one line per
episode. Metrics and the postprocessor are functions, of which the header has
the names, `module:function`. As a
recording is data, only functions of this library and of modules that the user
names are called.
"""

import gzip
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from hypertuning import text_files
from hypertuning.data.questions import Questions
from hypertuning.data.recording import Measures, Recording, digest_of
from hypertuning.errors import UserError, one_line

FILE = 'questions.jsonl.gz'
Function = Callable[..., Any]
# Where metrics and postprocessors of this library are.
_TRUSTED = ('hypertuning.data.metrics', 'hypertuning.tasks')


def measures(
  questions: Questions,
  postprocess: Function | None,
  predict_metrics: Iterable[Function],
  score_metrics: Iterable[Function],
) -> tuple[Measures, bytes]:
  """Makes the part of a header that an evaluation needs.

  Args:
    questions: the questions of the episodes.
    postprocess: seqio's postprocessor, or None.
    predict_metrics: metric functions of texts.
    score_metrics: metric functions of scores.

  Returns:
    What goes into the header, and the content of the file of questions.

  Raises:
    UserError: a function has no name that finds it again, or the targets are
      no JSON.
  """
  try:
    lines = '\n'.join(map(json.dumps, _rows(questions)))
  except (TypeError, ValueError) as error:
    raise UserError(
      f'{questions.task}: its targets cannot be recorded '
      f'({one_line(error)}): its postprocessor must give texts.'
    ) from error
  content = gzip.compress(lines.encode(), mtime=0)

  def names(functions: Iterable[Function]) -> list[str]:
    return [_name(function, questions.task) for function in functions]

  named = Measures(
    digest_of(content),
    None if postprocess is None else _name(postprocess, questions.task),
    names(predict_metrics),
    names(score_metrics),
  )
  return named, content


def read(recording: Recording) -> Questions:
  """The questions of a recording that has `header.measures`.

  Raises:
    UserError: the file of questions is missing or damaged.
  """
  header = recording.header
  assert header.measures is not None  # as the caller has seen
  path = recording.folder / FILE
  recording.read(FILE, header.measures.questions)
  rows = [row for _, row in text_files.json_lines(path)]
  try:
    return Questions(
      header.task,
      **{
        name: [row[name[:-1]] for row in rows]
        for name in ('counts', 'draws', 'sources')
      },
      targets=[_target(row['target']) for row in rows],
      queries=[row['queries'] for row in rows],
      cut=[row['cut'] for row in rows],
    )
  except KeyError as error:
    raise UserError(f'{path}: has no {error}; record it again.') from error


def function(
  name: str, recording: Recording, modules: Sequence[str]
) -> Function:
  """The function of a name in the header of a recording.

  Args:
    name: the name, `module:function`.
    recording: the recording.
    modules: value of METRIC_MODULES: modules of the user's own whose functions
      may be called.

  Raises:
    UserError: there is no such function, or it may not be called.
  """
  module, _, attribute = name.partition(':')
  if not any(f'{module}.'.startswith(f'{x}.') for x in (*_TRUSTED, *modules)):
    raise UserError(
      f'{recording.folder}: was recorded with the metric or postprocessor '
      f"{name!r} of another module than this library's: if it is yours, bind "
      f'METRIC_MODULES = ({module!r},).'
    )
  try:
    return getattr(importlib.import_module(module), attribute)
  except Exception as error:  # a user's module may raise any
    raise UserError(
      f'{recording.folder}: was recorded with the metric or postprocessor '
      f'{name!r}, which cannot be imported ({one_line(error)}): put the '
      'function into a module that can be here, and record again.'
    ) from error


def _name(value: Function, task: str) -> str:
  """The name `module:function` that finds a function again."""
  module = getattr(value, '__module__', None) or ''
  name = getattr(value, '__qualname__', '')
  if module != '__main__':
    if getattr(sys.modules.get(module), name, None) is value:
      return f'{module}:{name}'
  raise UserError(
    f'{task}: its metric or postprocessor {name or value!r} has no name that '
    'finds it again, so that it cannot be recorded: give a function of a '
    'module, and no lambda, partial or method.'
  )


def _rows(questions: Questions) -> Iterator[Mapping[str, Any]]:
  """One JSON object per episode."""
  for target, count, draw, source, queries, cut in zip(
    questions.targets,
    questions.counts,
    questions.draws,
    questions.sources,
    questions.queries,
    questions.cut,
    strict=True,
  ):
    if isinstance(target, Mapping):  # options that are ranked
      target = {name: np.asarray(x).tolist() for name, x in target.items()}
    yield {
      'target': target,
      'count': count,
      'draw': draw,
      'source': source,
      'queries': queries,
      'cut': cut,
    }


def _target(value: Any) -> Any:
  if isinstance(value, Mapping):
    return {name: np.asarray(x) for name, x in value.items()}
  return value
